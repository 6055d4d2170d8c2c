"""TLS server with a bounded number of connections, all of a process on one event loop.

Nothing that a client could stretch keeps others waiting: each step of each client has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from dataclasses import replace
from typing import Callable

from . import journal
from .api import Application, refusal_response
from .errors import GateError, Refusal
from .http1 import Connection, Request, Response
from .stream import Closed, Stream

# Of all processes together.
CONNECTIONS = 256
FOLLOWERS = 160
_BACKLOG = 1024
# So few that another process, which hears of the same clients, gets its share of them.
_ACCEPTED_AT_ONCE = 16
_TICK_SECONDS = 0.5
_REQUESTS_PER_CONNECTION = 100
_HANDSHAKE_SECONDS = 10.0
_DRAIN_SECONDS = 2.0
_DRAIN_BYTES = 262144
_STOP_SECONDS = 5.0
_PORT_SECONDS = 1.0
# How long a client may keep the gate waiting while others wait for a connection.
_PATIENCE_SECONDS = 1.0
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# ssl.VERIFY_X509_PARTIAL_CHAIN, which Python 3.9 has no name for.
_PARTIAL_CHAIN = 0x80000
_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(
    certificate: str, key: str, minimum: str, authority: str | None = None
) -> ssl.SSLContext:
    """The server's TLS settings; GateError where the pair cannot be loaded.

    `minimum` is the oldest version spoken, 1.3 or 1.2. A client may show a certificate, and then
    it must be one of `authority`'s, a PEM file, for clients, and live.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _TLS_VERSIONS[minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # curl makes a new connection for each request and resumes none of them.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_OPTIONAL
            # As nodes do: what is pinned is trusted, without the chain above it.
            context.verify_flags |= _PARTIAL_CHAIN
    except (OSError, ssl.SSLError) as error:
        raise GateError(f"{certificate}, {key}: cannot be used for TLS: {error}") from None
    return context


def listen(address: str, port: int) -> socket.socket:
    """A listening socket; `::` takes both families where the host has them."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            listener = _bound(address, port)
        except OSError as error:
            # The workers of a gate that was killed are about to let go of it.
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            reason = error.strerror or str(error)
            raise GateError(f"{address} port {port}: cannot listen: {reason}") from None
        listener.setblocking(False)
        return listener


def _bound(address: str, port: int) -> socket.socket:
    both = address == "::"
    if both and socket.has_dualstack_ipv6():
        return socket.create_server(
            (address, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    plain = "0.0.0.0" if both else address
    family = socket.AF_INET6 if ":" in plain else socket.AF_INET
    return socket.create_server((plain, port), family=family, backlog=_BACKLOG)


class Server:
    """Serves `application` on `listener`, to `connections` clients at once."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        application: Application,
        connections: int,
    ) -> None:
        self._listener = listener
        self._context = context
        self._application = application
        self._connections = connections
        self._open: dict[Stream, asyncio.Task[None]] = {}
        self._listening = False
        self._stopping = False

    async def serve(self, stopping: asyncio.Event, on_stop: Callable[[], None]) -> None:
        """Accept until `stopping`; then call `on_stop` and let requests in progress finish."""
        self._listen(True)
        await stopping.wait()
        self._stopping = True
        self._listen(False)
        self._listener.close()
        on_stop()
        await self._finish()

    async def sweep(self) -> None:
        """End those who take too long, for ever: `serve` relies on it."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for stream in self._open:
                if stream.overdue(now):
                    stream.abort()
            if len(self._open) >= self._connections:
                self._make_room(now)
            else:
                self._listen(not self._stopping)

    def _listen(self, wanted: bool) -> None:
        """Without a place for them, clients wait in the kernel's queue."""
        loop = asyncio.get_running_loop()
        if wanted and not self._listening:
            loop.add_reader(self._listener, self._accept)
        elif self._listening and not wanted:
            loop.remove_reader(self._listener)
        self._listening = wanted

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if len(self._open) >= self._connections:
                self._listen(False)
                return
            try:
                client, address = self._listener.accept()
            except OSError as error:  # most often another process was quicker
                if error.errno in _NO_ROOM:
                    journal.record("accept-failed", reason=error.strerror)
                    self._listen(False)  # until the next tick
                return
            self._begin(client, str(address[0]))

    def _begin(self, client: socket.socket, remote: str) -> None:
        try:
            stream = Stream(client, self._context, _HANDSHAKE_SECONDS)
        except OSError:  # it has gone
            client.close()
            return
        self._open[stream] = asyncio.create_task(self._serve_client(stream, remote))

    def _make_room(self, now: float) -> None:
        """Drop those who keep the gate waiting: a client that means it needs milliseconds."""
        slow = [stream for stream in self._open if stream.waits_longer(_PATIENCE_SECONDS, now)]
        for stream in slow:
            stream.abort()
        journal.record("full", connections=self._connections, dropped=len(slow))

    async def _finish(self) -> None:
        for stream in self._open:
            # Those that only wait for another request need not be waited for.
            if stream.waiting:
                stream.abort()
        if self._open:
            await asyncio.wait(self._open.values(), timeout=_STOP_SECONDS)
        for task in self._open.values():
            task.cancel()

    async def _serve_client(self, stream: Stream, remote: str) -> None:
        try:
            await stream.shake_hands()
            await self._converse(stream, remote)
        except ssl.SSLCertVerificationError as error:
            journal.record("refused", reason=f"certificate: {error.verify_message}", remote=remote)
            await _hear_out(stream)
        except (Closed, OSError):
            pass  # clients come and go; there is nobody left to tell
        except Exception as error:  # a fault of ours must not go by silently
            journal.record("fault", reason=f"{type(error).__name__}: {error}", remote=remote)
        finally:
            stream.close()
            del self._open[stream]
            self._listen(not self._stopping)

    async def _converse(self, stream: Stream, remote: str) -> None:
        connection = Connection(stream)
        for left in range(_REQUESTS_PER_CONNECTION - 1, -1, -1):
            wanted = False
            try:
                request = await connection.read_request()
            except Refusal as refusal:
                response = refusal_response(refusal)
            else:
                wanted = request.keep_alive
                if certificate := stream.certificate:
                    request = replace(request, certificate=certificate)
                response = await self._answer(request, remote)
            keep = wanted and left > 0 and not response.close and not self._stopping
            await connection.write(response, keep_alive=keep)
            if not keep:
                if response.close:
                    await _hear_out(stream)
                return

    async def _answer(self, request: Request, remote: str) -> Response:
        try:
            return await self._application.answer(request, remote)
        except Exception as error:  # answered, so that the client does not wait in vain
            journal.record(
                "fault", path=request.path[:80], reason=f"{type(error).__name__}: {error}"
            )
            return refusal_response(Refusal(500, "the join gate failed; see its log"))


async def _hear_out(stream: Stream) -> None:
    """Let a client whose request was not read see the answer."""
    stream.allow(_DRAIN_SECONDS)
    with contextlib.suppress(Closed, OSError):
        await stream.drain(_DRAIN_BYTES)
