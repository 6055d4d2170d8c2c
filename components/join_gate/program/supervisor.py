"""Several processes that serve one listening socket, and the one that keeps them running.

A process uses one processor. Nothing that must be decided once is decided in a process's memory:
sqlite and locks.py decide for all of them, so that each may die at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Callable

from . import journal
from .errors import GateError

# Two even on one processor, so that the fault of one leaves somebody to answer.
_LEAST, _MOST = 2, 4
_STOP_SECONDS = 8
_SHORT_LIFE_SECONDS = 1.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def process_count() -> int:
    return max(_LEAST, min(_MOST, os.cpu_count() or 1))


class Supervisor:
    """Runs `work` in `count` processes until SIGTERM or SIGINT; starts anew what dies before.

    `work` returns after one of these signals. `listener` is what all of them accept from.
    """

    def __init__(self, listener: socket.socket, count: int, work: Callable[[], None]) -> None:
        self._listener = listener
        self._count = count
        self._work = work
        self._started: dict[int, float] = {}
        self._stopping = False
        # Never written to: a worker reads its end of file when this process is gone, however.
        self._alive, self._life = os.pipe()

    def run(self) -> None:
        """Return once all workers have ended after a signal to stop."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        for _ in range(self._count):
            self._start()
        while self._started:
            process, status = os.wait()
            started = self._started.pop(process, None)
            if started is None or self._stopping:
                continue
            journal.record("worker-ended", process=process, status=status)
            if time.monotonic() - started < _SHORT_LIFE_SECONDS:
                time.sleep(_SHORT_LIFE_SECONDS)
            self._start()
        signal.alarm(0)

    def _start(self) -> None:
        # A signal in between would miss the new process, or find it without its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if self._stopping:
                return
            process = os.fork()
            if process == 0:
                self._become_worker()
            self._started[process] = time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _become_worker(self) -> None:
        status = 1
        try:
            for number in (*_SIGNALS, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)  # until `work` has its own
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._life)
            threading.Thread(target=self._end_with_supervisor, daemon=True).start()
            self._work()
            status = 0
        except GateError as error:
            print(f"gate serve: {error}", file=sys.stderr, flush=True)
        except Exception:
            traceback.print_exc()
        finally:
            # Nothing of the supervisor's own clearing up.
            os._exit(status)

    def _end_with_supervisor(self) -> None:
        """A gate that is started anew finds the port free, whatever ended the one before."""
        os.read(self._alive, 1)
        os._exit(1)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._listener.close()
        self._signal_all(signal.SIGTERM)
        signal.alarm(_STOP_SECONDS)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for process in list(self._started):
            with contextlib.suppress(ProcessLookupError):  # it ended this moment
                os.kill(process, number)
