"""One request of a node at a time, over all threads and processes of the gate."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from gate.errors import GateError

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
        # The file's locks belong to processes: between threads they lock nobody out.
        self._threads = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        stripe = zlib.crc32(name.encode()) % _STRIPES
        with self._threads[stripe]:
            self._lock_processes_out(stripe)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, stripe)

    def _lock_processes_out(self, stripe: int) -> None:
        # Asked again and again rather than waited for: the kernel sees a deadlock where two
        # processes wait for each other, though it is other threads of theirs that hold the locks.
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, stripe)
                return
            except (BlockingIOError, PermissionError):
                time.sleep(_AGAIN_SECONDS)
