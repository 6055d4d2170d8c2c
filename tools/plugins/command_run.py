"""Run a program: its output is collected, and shown line by line while it runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from tools.plugins.base import PROCESSES, Failure

LineSink = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a program left. `status`: its exit status, negative for a signal."""

    status: int
    stdout: str
    stderr: str
    combined: str


def run(
    arguments: list[str],
    *,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    folder: str | None = None,
    on_stdout: LineSink | None = None,
    on_stderr: LineSink | None = None,
) -> Outcome:
    """Run to the end. `stdin` None gives an empty one. Raises Failure where it cannot start."""
    collected: dict[str, list[str]] = {"stdout": [], "stderr": [], "combined": []}
    try:
        with PROCESSES.start(
            arguments,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
        ) as process:
            threads = [
                threading.Thread(target=_collect, args=(stream, collected[name], collected, sink))
                for name, stream, sink in (
                    ("stdout", process.stdout, on_stdout),
                    ("stderr", process.stderr, on_stderr),
                )
            ]
            if stdin is not None:
                threads.append(threading.Thread(target=_feed, args=(process.stdin, stdin)))
            for thread in threads:
                thread.start()
            status = process.wait()
            for thread in threads:
                thread.join()
    except OSError as error:
        raise Failure(_not_started(arguments[0], folder, error)) from error
    texts = {name: "".join(parts) for name, parts in collected.items()}
    return Outcome(status, **texts)


def _not_started(program: str, folder: str | None, error: OSError) -> str:
    if folder is not None and error.filename == folder:
        return f"chdir {folder}: {str(error.strerror).lower()}"
    return f"cannot start {program!r}: {str(error.strerror).lower()}"


def _feed(pipe: IO[bytes], text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it need not read all of it
        pipe.write(text.encode())
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _collect(
    stream: IO[bytes], own: list[str], every: dict[str, list[str]], sink: LineSink | None
) -> None:
    for raw in stream:
        line = raw.decode(errors="replace")
        own.append(line)
        every["combined"].append(line)
        if sink is not None:
            sink(line.rstrip("\r\n"))
    stream.close()


def exit_text(status: int) -> str:
    """The exit as Go words it, which is what the real plugin's errors say."""
    if status >= 0:
        return f"exit status {status}"
    words = {signal.SIGKILL: "killed", signal.SIGTERM: "terminated", signal.SIGINT: "interrupt"}
    return f"signal: {words.get(signal.Signals(-status), str(-status))}"
