"""CFSSL on the loopback: asking it to sign, and checking what it answers.

Connections are kept and shared: a join then costs one round trip, and CFSSL never sees more
requests at once than its SQLite can take.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import queue
import socket
from typing import Any

from gate import names, rules
from gate.errors import AuthorityError

_CONNECTIONS = 8
_TIMEOUT_SECONDS = 20.0
_LARGEST_ANSWER = 65536


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Upstream:
    """CFSSL's authsign at `host`:`port`, with the key (raw bytes) that never leaves this host."""

    def __init__(self, host: str, port: int, key: bytes) -> None:
        self._host, self._port, self._key = host, port, key
        self._idle: queue.LifoQueue[_Connection | None] = queue.LifoQueue()
        for _ in range(_CONNECTIONS):
            self._idle.put(None)

    def sign(self, signable: rules.Signable) -> str:
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
        token = hmac.new(self._key, request, hashlib.sha256).digest()
        body = json.dumps(
            {
                "token": base64.b64encode(token).decode(),
                "request": base64.b64encode(request).decode(),
            }
        ).encode()
        return _certificate(*self._post("/api/v1/cfssl/authsign", body))

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            connection = self._idle.get(timeout=_TIMEOUT_SECONDS)
        except queue.Empty:
            raise AuthorityError("the certificate authority is busy", definite=True) from None
        reusable: _Connection | None = None
        try:
            status, answer, reusable = self._send(connection, path, body)
            return status, answer
        finally:
            self._idle.put(reusable)

    def _send(
        self, kept: _Connection | None, path: str, body: bytes
    ) -> tuple[int, bytes, _Connection | None]:
        """One exchange. A kept connection that CFSSL closed meanwhile is replaced once."""
        if kept is not None:
            try:
                return _exchange(kept, path, body)
            except (http.client.HTTPException, OSError) as error:
                kept.close()
                # Two different things before Python 3.10.
                if isinstance(error, (TimeoutError, socket.timeout)):
                    raise AuthorityError(_no_answer(error), definite=False) from None
        fresh = _Connection(self._host, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            fresh.connect()
        except OSError as error:
            fresh.close()
            raise AuthorityError(
                f"the certificate authority does not answer ({error.strerror or error})",
                definite=kept is None,
            ) from None
        try:
            return _exchange(fresh, path, body)
        except (http.client.HTTPException, OSError) as error:
            fresh.close()
            raise AuthorityError(_no_answer(error), definite=False) from None


def _no_answer(error: Exception) -> str:
    return f"the certificate authority broke off ({type(error).__name__})"


def _exchange(
    connection: _Connection, path: str, body: bytes
) -> tuple[int, bytes, _Connection | None]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read(_LARGEST_ANSWER)
    if response.will_close or not response.isclosed():
        connection.close()
        return response.status, answer, None
    return response.status, answer, connection


def _certificate(status: int, answer: bytes) -> str:
    try:
        data: Any = json.loads(answer)
        if status == 200 and data["success"]:
            certificate = data["result"]["certificate"]
            if isinstance(certificate, str):
                return certificate
        reason = str(data["errors"][0]["message"])[:200]
    except (ValueError, LookupError, TypeError):
        reason = f"HTTP {status}"
    raise AuthorityError(f"the certificate authority refused: {reason}", definite=True)
