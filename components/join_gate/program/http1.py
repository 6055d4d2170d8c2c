"""The little of HTTP/1.1 that the gate speaks, strictly and within bounds."""

from __future__ import annotations

import email.utils
import http
import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from .errors import Refusal

HEADER_LIMIT = 8192
BODY_LIMIT = 16384
_IDLE_SECONDS = 15.0
_READ_SECONDS = 10.0
_WRITE_SECONDS = 10.0
# No percent signs and no second slash: a path has one spelling.
_REQUEST_LINE = re.compile(
    r"([A-Z]{1,16}) ((?:/[A-Za-z0-9._~-]+)*/?)(?:\?([A-Za-z0-9._~=&-]*))? HTTP/1\.([01])"
)
_ONCE = ("authorization", "content-length", "content-encoding", "host", "transfer-encoding")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `query` keeps the last value of a name.

    `certificate` is the client's (DER), where it has shown one that is the authority's.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    certificate: bytes | None = None


@dataclass(frozen=True)
class Response:
    """One answer; a status of 204 has no body."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    close: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Stream(Protocol):
    """What a connection needs of a client; gate.stream has the real one."""

    def allow(self, seconds: float | None) -> None: ...

    async def receive(self) -> bytes: ...

    async def send(self, data: bytes) -> None: ...


class Connection:
    """Requests and answers on a client's stream, a deadline for each step of them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read_request(self) -> Request:
        """The next request; Closed where there is none, Refusal where it is not acceptable."""
        head = await self._read_head()
        method, path, query, minor, headers = _parse_head(head)
        body = await self._read_body(headers)
        self._stream.allow(None)
        wish = headers.get("connection", "").lower()
        keep = minor == "1" and "close" not in wish
        return Request(method, path, query, headers, body, keep)

    async def write(self, response: Response, *, keep_alive: bool) -> None:
        """Send an answer, in one piece."""
        self._stream.allow(_WRITE_SECONDS)
        reason = http.HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}", "Cache-Control: no-store"]
        lines.append(f"Date: {email.utils.formatdate(usegmt=True)}")
        if response.status != 204:
            lines.append(f"Content-Type: {response.content_type}")
            lines.append(f"Content-Length: {len(response.body)}")
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if not keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join(lines) + "\r\n\r\n"
        await self._stream.send(head.encode("ascii") + response.body)

    async def _read_head(self) -> bytes:
        self._stream.allow(_READ_SECONDS if self._buffer else _IDLE_SECONDS)
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            if len(self._buffer) > HEADER_LIMIT:
                raise Refusal(431, f"headers: at most {HEADER_LIMIT} bytes", close=True)
            idle = not self._buffer
            searched = max(0, len(self._buffer) - 3)
            self._buffer += await self._stream.receive()
            if idle:
                self._stream.allow(_READ_SECONDS)
        if end > HEADER_LIMIT:
            raise Refusal(431, f"headers: at most {HEADER_LIMIT} bytes", close=True)
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    async def _read_body(self, headers: dict[str, str]) -> bytes:
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
            await self._stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._buffer) < length:
            self._buffer += await self._stream.receive()
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
