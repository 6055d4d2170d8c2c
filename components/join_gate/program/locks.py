"""One request of a node at a time, over all processes of the gate."""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import GateError

# Striped, since names come from outside and a table of locks would grow with them.
_STRIPES = 1024
_AGAIN_SECONDS = 0.005


class NodeLocks:
    """Locks by a node's name. What a process holds is free again when it dies, however."""

    def __init__(self, path: str) -> None:
        try:
            # Opened once a process, and kept: closing any of its descriptors frees all its locks.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GateError(f"{path}: cannot be opened: {error.strerror}") from None
        # The file's locks belong to processes: within one they lock nobody out.
        self._held: set[int] = set()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        stripe = zlib.crc32(name.encode()) % _STRIPES
        # Asked again and again rather than waited for: waiting would stop all of the process.
        while not self._take(stripe):
            await asyncio.sleep(_AGAIN_SECONDS)
        try:
            yield
        finally:
            self._held.discard(stripe)
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, stripe)

    def _take(self, stripe: int) -> bool:
        if stripe in self._held:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, stripe)
        except (BlockingIOError, PermissionError):
            return False
        self._held.add(stripe)
        return True
