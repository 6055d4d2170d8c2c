"""CFSSL on the loopback: asking it to sign, and checking what it answers.

Connections are kept and shared: a join then costs one round trip, and CFSSL never sees more
requests at once than its SQLite can take.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from . import names, rules
from .errors import AuthorityError
from .waiting import within

# Of one process.
_CONNECTIONS = 8
_TIMEOUT_SECONDS = 20.0
_LARGEST_ANSWER = 65536
# HTTP/1.0: so an answer has a length or ends with its connection, and never comes in chunks.
_REQUEST = (
    "POST /api/v1/cfssl/authsign HTTP/1.0\r\n"
    "Host: {host}\r\n"
    "Connection: keep-alive\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
)
_HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,9})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_KEPT = re.compile(rb"^connection:[ \t]*keep-alive[ \t]*\r$", re.IGNORECASE | re.MULTILINE)


class _BrokeOff(Exception):
    """CFSSL ended the connection, or answered what is not HTTP."""


@dataclass(frozen=True)
class _Answer:
    """`kept`: whether the connection is good for another request."""

    status: int
    body: bytes
    kept: bool


class _Connection(asyncio.BufferedProtocol):
    """One exchange after the other with CFSSL."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_LARGEST_ANSWER)
        self._received = 0
        self._waiter: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> _Answer:
        """The answer; asyncio.TimeoutError or _BrokeOff, and a closed connection, without one."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            answer = await within(_TIMEOUT_SECONDS, self._waiter)
        except BaseException:
            self.close()  # an answer that comes late must not be taken for the next one's
            raise
        if not answer.kept:
            self.close()
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._received :]

    def buffer_updated(self, count: int) -> None:
        self._received += count
        self._read(ended=self._received == _LARGEST_ANSWER)

    def eof_received(self) -> None:
        self._read(ended=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._read(ended=True)

    def _read(self, *, ended: bool) -> None:
        """End the exchange where all of its answer is there, or none will come."""
        if self._waiter is None or self._waiter.done():
            self.close()  # it ended between two exchanges, or says what nobody asked for
            return
        try:
            answer = _answer_in(bytes(self._buffer[: self._received]), ended=ended)
        except _BrokeOff as error:
            self._waiter.set_exception(error)
            return
        if answer is not None:
            self._received = 0
            self._waiter.set_result(answer)


def _answer_in(data: bytes, *, ended: bool) -> _Answer | None:
    """The answer that these bytes are; None where more must come, _BrokeOff where none can be."""
    head = _HEAD.match(data)
    lengths = [int(length) for length in _LENGTH.findall(head[2])] if head else []
    size = len(data) - head.end() if head else 0
    if len(lengths) > 1 or (lengths and size > lengths[0]):
        raise _BrokeOff
    if head is None or (size < lengths[0] if lengths else not ended):
        if ended:
            raise _BrokeOff
        return None
    kept = bool(lengths) and not ended and _KEPT.search(head[2]) is not None
    return _Answer(int(head[1]), data[head.end() :], kept)


class Upstream:
    """CFSSL's authsign at `host`:`port`, with the key (raw bytes) that never leaves this host."""

    def __init__(self, host: str, port: int, key: bytes) -> None:
        self._host, self._port, self._key = host, port, key
        self._places: list[_Connection | None] = [None] * _CONNECTIONS
        self._queue: collections.deque[asyncio.Future[_Connection | None]] = collections.deque()

    async def sign(self, signable: rules.Signable) -> str:
        """The certificate (PEM) for a checked request; AuthorityError where there is none."""
        request = json.dumps(
            {
                "certificate_request": signable.pem,
                "hosts": list(signable.hosts),
                "profile": rules.PROFILE,
                "subject": {
                    "CN": names.COMMON_NAME_PREFIX + signable.name,
                    "names": [{"O": names.ORGANIZATION}],
                },
            }
        ).encode()
        token = hmac.digest(self._key, request, "sha256")
        body = json.dumps(
            {
                "token": base64.b64encode(token).decode(),
                "request": base64.b64encode(request).decode(),
            }
        ).encode()
        head = _REQUEST.format(host=self._host, length=len(body)).encode()
        kept = await self._place()
        connection: _Connection | None = None
        try:
            connection, answer = await self._send(kept, head + body)
        finally:
            self._leave(connection)
        return _certificate(answer)

    async def _place(self) -> _Connection | None:
        """A place among those who ask CFSSL, and the connection that is kept there."""
        if self._places:
            return self._places.pop()
        place: asyncio.Future[_Connection | None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            return await within(_TIMEOUT_SECONDS, place)
        except asyncio.TimeoutError:
            raise AuthorityError("the certificate authority is busy", definite=True) from None

    def _leave(self, kept: _Connection | None) -> None:
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(kept)
                return
        self._places.append(kept)

    async def _send(self, kept: _Connection | None, request: bytes) -> tuple[_Connection, _Answer]:
        """One exchange. A kept connection that CFSSL closed meanwhile is replaced once."""
        if kept is not None and not kept.usable:
            kept = None
        try:
            if kept is not None:
                with contextlib.suppress(_BrokeOff):
                    return kept, await kept.exchange(request)
            fresh = await self._connected(definite=kept is None)
            return fresh, await fresh.exchange(request)
        except asyncio.TimeoutError:
            reason = f"no answer in {_TIMEOUT_SECONDS:.0f} s"
        except _BrokeOff:
            reason = "the connection ended"
        raise AuthorityError(f"the certificate authority broke off ({reason})", definite=False)

    async def _connected(self, *, definite: bool) -> _Connection:
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(_Connection, self._host, self._port)
        try:
            return (await asyncio.wait_for(connecting, _TIMEOUT_SECONDS))[1]
        except asyncio.TimeoutError:
            reason = f"no connection in {_TIMEOUT_SECONDS:.0f} s"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
        raise AuthorityError(
            f"the certificate authority does not answer ({reason})", definite=definite
        )


def _certificate(answer: _Answer) -> str:
    try:
        data: Any = json.loads(answer.body)
        if answer.status == 200 and data["success"]:
            certificate = data["result"]["certificate"]
            if isinstance(certificate, str):
                return certificate
        reason, definite = str(data["errors"][0]["message"])[:200], True
    except (ValueError, LookupError, TypeError):
        # What begins as a success may have been one.
        reason, definite = f"HTTP {answer.status}", answer.status != 200
    raise AuthorityError(f"the certificate authority refused: {reason}", definite=definite)
