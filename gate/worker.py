"""One of the gate's processes: an event loop that answers nodes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import ssl

from gate import server
from gate.api import Application
from gate.commits import Commits
from gate.issued import Authority
from gate.locks import NodeLocks
from gate.progress import Progress
from gate.settings import Settings
from gate.store import Store
from gate.upstream import Upstream

# A join makes next to no circles for it to find.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def run(
    settings: Settings,
    listener: socket.socket,
    context: ssl.SSLContext,
    authority: Authority,
    key: bytes,
    share: float,
) -> None:
    """Answer until SIGTERM or SIGINT, to this process's `share` of the clients (0 to 1).

    `key` is the one between the gate and CFSSL.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    asyncio.run(_answer(settings, listener, context, authority, key, share))


async def _answer(
    settings: Settings,
    listener: socket.socket,
    context: ssl.SSLContext,
    authority: Authority,
    key: bytes,
    share: float,
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    store = Store(settings.database)
    commits = Commits(store)
    progress = Progress(store, commits, most_waiting=int(server.FOLLOWERS * share))
    application = Application(
        store,
        commits,
        Upstream(settings.upstreamHost, settings.upstreamPort, key),
        progress,
        NodeLocks(f"{settings.database}.locks"),
        authority,
        settings.nodeCertificateHours,
    )
    clients = server.Server(listener, context, application, int(server.CONNECTIONS * share))
    background = [asyncio.create_task(it) for it in (progress.look(), clients.sweep())]
    for task in background:
        # Neither ends but by a fault. Without it this process would go on with half its promises.
        task.add_done_callback(lambda _: stopping.set())
    await clients.serve(stopping, progress.stop)
    for task in background:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    store.close()
