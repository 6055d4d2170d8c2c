"""One of the gate's processes: an event loop that answers nodes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
from dataclasses import dataclass

from . import server
from .api import Application
from .commits import Commits
from .issued import Authority
from .locks import NodeLocks
from .progress import Progress
from .settings import Settings
from .status import CertificateStatus
from .store import Store
from .trust import Trust
from .upstream import Upstream

# A join makes next to no circles for it to find.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


@dataclass(frozen=True)
class Worker:
    """Answers `share` of the clients (0 to 1); `key` is the one between the gate and CFSSL."""

    settings: Settings
    listener: socket.socket
    context: ssl.SSLContext
    authority: Authority
    trust: Trust
    key: bytes
    share: float

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        asyncio.run(self._answer())

    async def _answer(self) -> None:
        settings = self.settings
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        store = Store(settings.database)
        commits = Commits(store)
        progress = Progress(store, commits, most_waiting=int(server.FOLLOWERS * self.share))
        application = Application(
            store,
            commits,
            Upstream(settings.upstreamHost, settings.upstreamPort, self.key),
            progress,
            NodeLocks(f"{settings.database}.locks"),
            self.authority,
            self.trust,
            settings.nodeCertificateHours,
            CertificateStatus("127.0.0.1", settings.responderPort),
        )
        most = int(server.CONNECTIONS * self.share)
        clients = server.Server(self.listener, self.context, application, most)
        background = [asyncio.create_task(it) for it in (progress.look(), clients.sweep())]
        for task in background:
            # Neither ends but by a fault. Without it this process would go on with half its
            # promises.
            task.add_done_callback(lambda _: stopping.set())
        await clients.serve(stopping, progress.stop)
        for task in background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        store.close()
