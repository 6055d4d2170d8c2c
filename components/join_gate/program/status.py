"""What the certdb says of a certificate, by the responder on this host: the gate can't read it."""

from __future__ import annotations

import asyncio
import time

from .errors import Refusal
from .store import Serial

# A revocation by the gate's own commands is known at once; this is for one by hand.
_GOOD_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0
_LARGEST_ANSWER = 4 * 1024 * 1024


class CertificateStatus:
    """Asks the responder at `port` of the loopback, once for all who want to know at a moment."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._revoked: frozenset[bytes] = frozenset()
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def is_revoked(self, serial: Serial) -> bool:
        if time.monotonic() >= self._until:
            async with self._asking:
                if time.monotonic() >= self._until:
                    self._revoked = await self._ask()
                    self._until = time.monotonic() + _GOOD_SECONDS
        return f"{serial.number} {serial.authority_key}".encode() in self._revoked

    async def _ask(self) -> frozenset[bytes]:
        try:
            answer = await asyncio.wait_for(self._answer(), _TIMEOUT_SECONDS)
        except (OSError, asyncio.TimeoutError):
            answer = b""
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split(b" ")[1:2] != [b"200"] or not body.endswith(b"end\n"):
            raise Refusal(503, "the status of certificates can't be asked; see the CA host's log")
        return frozenset(body.splitlines()[:-1])

    async def _answer(self) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(b"GET /revoked HTTP/1.0\r\n\r\n")
            found = bytearray()
            while len(found) < _LARGEST_ANSWER and (piece := await reader.read(65536)):
                found += piece
            return bytes(found)
        finally:
            writer.close()
