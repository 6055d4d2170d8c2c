"""TLS server with a bounded number of connections, a worker thread for each.

The accepting thread does nothing that a client could stretch: handshakes, reading and answering
happen in workers, each step with a deadline that the accepting thread enforces.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from gate import journal
from gate.api import Application, refusal_response
from gate.errors import GateError, Refusal
from gate.http1 import Closed, Connection, Response

# Of all processes together.
CONNECTIONS = 256
FOLLOWERS = 160
_BACKLOG = 1024
_TICK_SECONDS = 0.5
_REQUESTS_PER_CONNECTION = 100
_STOP_SECONDS = 5.0
_PORT_SECONDS = 1.0
_TURNS = 2
# How long a client may keep a worker waiting while others wait for a worker.
_PATIENCE_SECONDS = 1.0
_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(certificate: str, key: str, minimum: str) -> ssl.SSLContext:
    """The server's TLS settings; GateError where the pair cannot be loaded.

    `minimum` is the oldest version spoken, 1.3 or 1.2.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _TLS_VERSIONS[minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # curl makes a new connection for each request and resumes none of them.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
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
        listener.settimeout(_TICK_SECONDS)
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
    """Serves `application` on `listener` until `stopping`, to `connections` clients at once."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        application: Application,
        stopping: threading.Event,
        connections: int,
    ) -> None:
        self._listener = listener
        self._context = context
        self._application = application
        self._permits = threading.BoundedSemaphore(connections)
        self._turns = threading.Semaphore(_TURNS)
        self._workers = ThreadPoolExecutor(connections, thread_name_prefix="worker")
        self._open: set[Connection] = set()
        self._open_lock = threading.Lock()
        self._stopping = stopping
        self._connections = connections

    def serve(self, on_stop: Callable[[], None]) -> None:
        """Accept until stopped; then call `on_stop` and let requests in progress finish."""
        reaped = time.monotonic()
        while not self._stopping.is_set():
            if time.monotonic() - reaped >= _TICK_SECONDS:
                self._reap()
                reaped = time.monotonic()
            # Without a free worker, clients wait in the kernel's queue.
            if not self._permits.acquire(timeout=_TICK_SECONDS):
                self._make_room()
                continue
            if not self._accept():
                self._permits.release()
        self._listener.close()
        on_stop()
        self._finish()

    def _accept(self) -> bool:
        try:
            client, address = self._listener.accept()
        except OSError as error:  # most often the time-out of a tick
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                journal.record("accept-failed", reason=error.strerror)
                time.sleep(_TICK_SECONDS)
            return False
        self._workers.submit(self._serve_client, client, address)
        return True

    def _finish(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while self._open and time.monotonic() < deadline:
            with self._open_lock:
                for connection in self._open:
                    # Those that only wait for another request need not be waited for.
                    if connection.deadline is not None:
                        connection.abort()
            time.sleep(0.05)
        with self._open_lock:
            for connection in self._open:
                connection.abort()
        self._workers.shutdown(wait=True)

    def _reap(self) -> None:
        now = time.monotonic()
        with self._open_lock:
            for connection in self._open:
                if connection.deadline is not None and now > connection.deadline:
                    connection.abort()

    def _make_room(self) -> None:
        """Drop those who keep all workers waiting: a client that means it needs milliseconds."""
        now = time.monotonic()
        with self._open_lock:
            slow = [
                connection
                for connection in self._open
                if connection.waits_since(now) > _PATIENCE_SECONDS
            ]
            for connection in slow:
                connection.abort()
        journal.record("full", connections=self._connections, dropped=len(slow))

    def _serve_client(self, client: socket.socket, address: Any) -> None:
        remote = str(address[0])
        connection: Connection | None = None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            connection = Connection(tls)
            with self._open_lock:
                self._open.add(connection)
            self._shake_hands(tls)
            # Without a time-out each read is one call; the reaper ends those that take too long.
            tls.setblocking(True)
            self._converse(connection, remote)
        except (Closed, OSError):
            pass  # clients come and go; there is nobody left to tell
        except Exception as error:  # a fault of ours must not end the worker silently
            journal.record("fault", reason=f"{type(error).__name__}: {error}", remote=remote)
        finally:
            if connection is None:
                client.close()
            else:
                with self._open_lock:
                    self._open.discard(connection)
                connection.close()
            self._permits.release()

    def _shake_hands(self, tls: ssl.SSLSocket) -> None:
        """The handshake, its computing in turns; waiting for the client takes nobody's turn."""
        tls.setblocking(False)
        readable = select.poll()
        readable.register(tls, select.POLLIN)
        while True:
            readable.poll(30_000)
            with self._turns:
                try:
                    return tls.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    def _converse(self, connection: Connection, remote: str) -> None:
        for left in range(_REQUESTS_PER_CONNECTION - 1, -1, -1):
            wanted = False
            try:
                request = connection.read_request()
            except Refusal as refusal:
                response = refusal_response(refusal)
            else:
                wanted = request.keep_alive
                response = self._answer(request, remote)
            keep = wanted and left > 0 and not response.close and not self._stopping.is_set()
            connection.write(response, keep_alive=keep)
            if not keep:
                if response.close:
                    connection.drain()
                return

    def _answer(self, request: Any, remote: str) -> Response:
        try:
            return self._application.answer(request, remote)
        except Exception as error:  # answered, so that the client does not wait in vain
            journal.record(
                "fault", path=request.path[:80], reason=f"{type(error).__name__}: {error}"
            )
            return refusal_response(Refusal(500, "the join gate failed; see its log"))
