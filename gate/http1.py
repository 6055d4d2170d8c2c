"""The little of HTTP/1.1 that the gate speaks, strictly and within bounds."""

from __future__ import annotations

import contextlib
import http
import re
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from gate.errors import Refusal

HEADER_LIMIT = 8192
BODY_LIMIT = 16384
_IDLE_SECONDS = 15.0
_READ_SECONDS = 10.0
_WRITE_SECONDS = 10.0
_DRAIN_LIMIT = 262144
# No percent signs and no second slash: a path has one spelling.
_REQUEST_LINE = re.compile(
    r"([A-Z]{1,16}) ((?:/[A-Za-z0-9._~-]+)*/?)(?:\?([A-Za-z0-9._~=&-]*))? HTTP/1\.([01])"
)
_ONCE = ("authorization", "content-length", "content-encoding", "host", "transfer-encoding")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `query` keeps the last value of a name."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True)
class Response:
    """One answer; a status of 204 has no body."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    close: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Closed(Exception):
    """The other side is done, or took too long."""


class Connection:
    """A client's connection.

    `deadline` (monotonic seconds, None for no limit) bounds the whole of the present step,
    however slowly bytes trickle in; the server's reaper enforces it with `abort`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._since = 0.0
        self._deadline: float | None = None
        self.deadline = time.monotonic() + _READ_SECONDS

    @property
    def deadline(self) -> float | None:
        return self._deadline

    @deadline.setter
    def deadline(self, value: float | None) -> None:
        self._deadline, self._since = value, time.monotonic()

    def waits_since(self, now: float) -> float:
        """Seconds for which the gate has been waiting for the client in the present step."""
        return 0.0 if self._deadline is None else now - self._since

    def abort(self) -> None:
        """Break the connection from another thread."""
        # The plain socket's: SSLSocket.shutdown takes the TLS state from under its user.
        with contextlib.suppress(OSError):  # it is closed already
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def read_request(self) -> Request:
        """The next request; Closed where there is none, Refusal where it is not acceptable."""
        self.deadline = time.monotonic() + _IDLE_SECONDS
        head = self._read_head()
        method, path, query, minor, headers = _parse_head(head)
        body = self._read_body(headers)
        self.deadline = None
        wish = headers.get("connection", "").lower()
        keep = minor == "1" and "close" not in wish
        return Request(method, path, query, headers, body, keep)

    def write(self, response: Response, *, keep_alive: bool) -> None:
        """Send an answer, in one piece."""
        self.deadline = time.monotonic() + _WRITE_SECONDS
        reason = http.HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}", "Cache-Control: no-store"]
        if response.status != 204:
            lines.append(f"Content-Type: {response.content_type}")
            lines.append(f"Content-Length: {len(response.body)}")
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if not keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join(lines) + "\r\n\r\n"
        try:
            self._socket.sendall(head.encode("ascii") + response.body)
        except OSError:
            raise Closed from None

    def drain(self) -> None:
        """Read what the client is still sending, within bounds.

        Closing over unread bytes resets the connection, and the client never sees the answer.
        """
        self.deadline = time.monotonic() + 2.0
        left = _DRAIN_LIMIT
        try:
            self._socket.settimeout(0.5)
            while left > 0:
                data = self._socket.recv(65536)
                if not data:
                    return
                left -= len(data)
        except OSError:
            pass  # the client has gone, or waits for us to close

    def _receive(self) -> None:
        try:
            data = self._socket.recv(16384)
        except OSError:
            raise Closed from None
        if not data:
            raise Closed
        self._buffer += data

    def _read_head(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            if len(self._buffer) > HEADER_LIMIT:
                raise Refusal(431, f"headers: at most {HEADER_LIMIT} bytes", close=True)
            searched = max(0, len(self._buffer) - 3)
            self._receive()
            if searched == 0:
                self.deadline = time.monotonic() + _READ_SECONDS
        if end > HEADER_LIMIT:
            raise Refusal(431, f"headers: at most {HEADER_LIMIT} bytes", close=True)
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            raise Refusal(411, "send a Content-Length, not a Transfer-Encoding", close=True)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "send the body as it is, without a Content-Encoding", close=True)
        text = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII):
            raise Refusal(400, "Content-Length: must be a number", close=True)
        length = int(text)
        if length > BODY_LIMIT:
            raise Refusal(413, f"the body may have {BODY_LIMIT} bytes, found {length}", close=True)
        if length > len(self._buffer) and headers.get("expect", "").lower() == "100-continue":
            try:
                self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                raise Closed from None
        while len(self._buffer) < length:
            self._receive()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str], str, dict[str, str]]:
    """Method, path, query, minor version and headers."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise Refusal(400, "headers: must be ASCII", close=True) from None
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Refusal(400, "not an HTTP/1.1 request", close=True)
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Refusal(400, "headers: a line cannot be read", close=True)
        name = header[1].lower()
        if name in headers and name in _ONCE:
            raise Refusal(400, f"headers: {name} stands twice", close=True)
        headers[name] = header[2].strip()
    if match[4] == "1" and "host" not in headers:
        raise Refusal(400, "headers: host is missing", close=True)
    try:
        query = dict(parse_qsl(match[3] or "", keep_blank_values=True, max_num_fields=16))
    except ValueError:
        raise Refusal(400, "query: too many fields", close=True) from None
    return match[1], match[2], query, match[4], headers
