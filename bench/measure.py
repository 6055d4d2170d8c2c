"""How things are timed: whole processes, from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 0.1


class BenchError(Exception):
    """Why nothing could be measured."""


@dataclass(frozen=True)
class Run:
    """A finished process and all it started: wall and processor seconds, the peak memory in MiB of
    the watched one, its output."""

    seconds: float
    processor_seconds: float
    peak_mib: float
    output: str


def timed(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], watch: str = ""
) -> Run:
    """Run `command` to its end; BenchError with the end of its output where it fails.

    `watch` is part of the command line of the process below it whose memory is wanted.
    """
    started, used = time.monotonic(), _used()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watcher = MemoryWatch(process.pid, watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    watcher.ended.set()
    watcher.join()
    if process.returncode:
        end = "\n".join(output.splitlines()[-15:])
        raise BenchError(f"`{' '.join(command)}` ended with {process.returncode}:\n{end}")
    return Run(seconds, _used() - used, watcher.peak_kib / 1024, output)


def _used() -> float:
    """Processor seconds of all processes that this one started and that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class MemoryWatch(threading.Thread):
    """The peak memory of the processes of one session whose command line holds `words`."""

    def __init__(self, session: int, words: str) -> None:
        super().__init__(daemon=True)
        self.session, self.words = session, words
        self.peak_kib = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while self.words and not self.ended.wait(_LOOK_SECONDS):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    self._look(folder)
                except (OSError, ValueError, IndexError):
                    continue  # it has ended meanwhile

    def _look(self, folder: Path) -> None:
        if os.getsid(int(folder.name)) != self.session:
            return
        if self.words.encode() not in (folder / "cmdline").read_bytes():
            return
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.peak_kib = max(self.peak_kib, int(line.split()[1]))
