"""Changes to the store, all of one turn of the event loop in one transaction.

Flushing to the disk takes longer than all else about a change; so it is done once for all the
nodes that join at the same moment.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, TypeVar

from .store import Busy, Store

T = TypeVar("T")
_AGAIN_SECONDS = 0.001
# After a commit of more than one change: with many nodes at once, more of them then share the next.
# A node that joins alone waits for nobody.
_PAUSE_SECONDS = 0.005


class Commits:
    """Commits what `soon` is given; one for each process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._not_before = 0.0
        self._changes: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def soon(self, change: Callable[[], T]) -> asyncio.Future[T]:
        """What `change`, calls of the store, gives; by then it is on the disk."""
        if not self._changes:
            self._loop.call_at(self._not_before, self._commit)
        future: asyncio.Future[T] = self._loop.create_future()
        self._changes.append((change, future))
        return future

    def _commit(self) -> None:
        try:
            with self._store.transaction(wait=False):
                results = [change() for change, _ in self._changes]
        except Busy:
            # Asked again rather than waited for: whoever reads or computes may go on.
            self._loop.call_later(_AGAIN_SECONDS, self._commit)
            return
        except Exception as error:  # a full disk: nothing of it was done
            self._end([error] * len(self._changes))
            return
        self._not_before = self._loop.time() + (_PAUSE_SECONDS if len(results) > 1 else 0.0)
        self._end(results)

    def _end(self, results: list[Any]) -> None:
        changes, self._changes = self._changes, []
        for (_, future), result in zip(changes, results):
            if future.done():
                continue  # who asked has been ended meanwhile
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
