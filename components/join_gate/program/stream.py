"""A client's TLS connection on the event loop, with a deadline for each step.

TLS runs between two buffers, and a plain non-blocking socket carries what is in them. asyncio's own
TLS takes twice the processor's time for a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time

_PIECE = 16384


class Closed(Exception):
    """The other side is done, or took too long."""


class Stream:
    """One client. Whatever waits for it ends with Closed when `abort` is called.

    A step is what the gate is doing with the client, however slowly bytes trickle in. Its deadline
    is kept here and enforced by the server, which aborts those that are `overdue`.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, seconds: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._number = sock.fileno()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # What came and was not asked for yet: one piece, the rest waits in the kernel.
        self._piece = b""
        self._ended = False
        self._watched = False
        self._aborted = False
        self._waiter: asyncio.Future[None] | None = None
        self.allow(seconds)

    def allow(self, seconds: float | None) -> None:
        """Begin a step that may take so long; None where it is the gate that takes its time."""
        self._since = self._told = time.monotonic()
        self._seconds = seconds

    @property
    def waiting(self) -> bool:
        """Whether the gate waits for the client in the present step."""
        return self._seconds is not None

    def waits_longer(self, seconds: float, now: float) -> bool:
        """Whether it has been the client's turn for more than `seconds` in this step.

        While the gate has something of it to read, or to say to it, it is the gate's turn.
        """
        return self._seconds is not None and not self._piece and now - self._told > seconds

    def overdue(self, now: float) -> bool:
        return self._seconds is not None and now - self._since > self._seconds

    @property
    def certificate(self) -> bytes | None:
        """The client's, in DER; None where it has shown none. The authority's, or no connection."""
        return self._tls.getpeercert(True)

    def abort(self) -> None:
        """End the connection from outside, whatever it waits for."""
        self._aborted = True
        self._wake()

    def close(self) -> None:
        self._watch(False)
        self._socket.close()

    async def shake_hands(self) -> None:
        try:
            done = False
            while not done:
                await self._take_in()
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                    done = True
                await self._send_out()
        except ssl.SSLError:
            await self._send_out()  # the alert that says why
            raise

    async def receive(self) -> bytes:
        """Some of what the client sent; Closed at its end."""
        while True:
            if not self._incoming.pending:
                await self._take_in()
            try:
                data = self._tls.read(_PIECE)
            except ssl.SSLWantReadError:  # half a record, or TLS' own, which may want an answer
                await self._send_out()
                await self._take_in()
                continue
            if not data:
                raise Closed
            return data

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._send_out()

    async def drain(self, limit: int) -> None:
        """End our side and read what the client is still sending, up to `limit` bytes.

        Closing over unread bytes resets the connection, and the client never sees the answer.
        """
        with contextlib.suppress(OSError):  # the client has gone
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Closed):
            while limit > 0:
                limit -= len(await self._next())

    async def _take_in(self) -> None:
        self._incoming.write(await self._next())

    async def _next(self) -> bytes:
        """The next piece from the wire."""
        while not self._piece:
            if self._ended or self._aborted:
                raise Closed
            self._watch(True)
            await self._woken()
        piece, self._piece = self._piece, b""
        return piece

    async def _send_out(self) -> None:
        data = memoryview(self._outgoing.read())
        if not data:
            return
        while data:
            if self._aborted:
                raise Closed
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                raise Closed from None
        self._told = time.monotonic()

    async def _writable(self) -> None:
        self._loop.add_writer(self._number, self._wake)
        try:
            await self._woken()
        finally:
            self._loop.remove_writer(self._number)

    async def _woken(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _watch(self, wanted: bool) -> None:
        """Watched until nobody wants what comes: each time anew would cost more than the reading"""
        if wanted and not self._watched:
            self._loop.add_reader(self._number, self._on_readable)
        elif self._watched and not wanted:
            self._loop.remove_reader(self._number)
        self._watched = wanted

    def _on_readable(self) -> None:
        if self._piece:
            self._watch(False)
            return
        try:
            self._piece = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            self._ended = True
        if not self._piece:
            self._ended = True
            self._watch(False)
        self._wake()
