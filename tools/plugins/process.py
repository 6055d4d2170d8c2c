"""Programs that operations run: their output is collected, and shown line by line as it comes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from tools.plugins.plugin import Failure

LineSink = Callable[[str], None]

# Set when nothing is to start any more.
STOPPED = threading.Event()
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Outcome:
    """What a program left. `status`: its exit status, negative for a signal."""

    status: int
    stdout: str
    stderr: str
    combined: str


def run(
    words: list[str],
    stdin: str | None,
    environment: dict[str, str],
    on_stdout: LineSink | None = None,
    on_stderr: LineSink | None = None,
) -> Outcome:
    """Run to the end. Failure where it can't start."""
    if STOPPED.is_set():
        raise Failure("cancelled before it started")
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Failure(f"{words[0]} can't be run: {error.strerror}") from error
    _running.add(process)
    try:
        return _followed(process, stdin, on_stdout, on_stderr)
    finally:
        _running.discard(process)


def stop() -> None:
    """End what runs, with all that it started."""
    STOPPED.set()
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def _followed(
    process: subprocess.Popen[bytes],
    stdin: str | None,
    on_stdout: LineSink | None,
    on_stderr: LineSink | None,
) -> Outcome:
    assert process.stdin and process.stdout and process.stderr
    stdout: list[str] = []
    stderr: list[str] = []
    combined: list[str] = []
    threads = [
        threading.Thread(target=_collect, args=(process.stdout, (stdout, combined), on_stdout)),
        threading.Thread(target=_collect, args=(process.stderr, (stderr, combined), on_stderr)),
        threading.Thread(target=_feed, args=(process.stdin, stdin or "")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Outcome(process.wait(), *("".join(lines) for lines in (stdout, stderr, combined)))


def _feed(pipe: IO[bytes], text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it need not read all of it
        pipe.write(text.encode())
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _collect(stream: IO[bytes], into: tuple[list[str], ...], sink: LineSink | None) -> None:
    for raw in stream:
        line = raw.decode(errors="replace")
        for lines in into:
            lines.append(line)
        if sink is not None:
            sink(line.rstrip("\r\n"))
    stream.close()
