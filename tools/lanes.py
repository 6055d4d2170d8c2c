"""Steps of a set-up in lanes side by side, each told with its wall time and its CPU time.

Standard library only: this runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HEARTBEAT_SECONDS = 30


class SetupError(Exception):
    """What is missing or failed, as lines for a person."""


@dataclass(frozen=True)
class Step:
    """One thing to have: `done` is cheap, `run` makes it and logs to the path that it is given.

    Steps of one lane run one after another, lanes side by side; `after` names the steps of other
    lanes that must be done before.
    """

    name: str
    done: Callable[[], bool]
    run: Callable[[Path], None]
    lane: str = "machine"
    after: tuple[str, ...] = ()
    needs_go: bool = False


_lane = threading.local()
_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


def logged(
    command: list[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run `command` with its output in `log`; SetupError with the log's end where it fails."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        status = ended(process)
    if status:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise SetupError("\n".join([f"`{' '.join(command[:4])} …` ended with {status}:", *lines]))


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of `process`; its CPU time, with its children's, goes to this lane's step."""
    _running.add(process)
    if _stopped.is_set():  # between the start of the process and its place among those that run
        process.terminate()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        _running.discard(process)
    process.returncode = os.waitstatus_to_exitcode(status)
    _lane.cpu = getattr(_lane, "cpu", 0.0) + usage.ru_utime + usage.ru_stime
    return process.returncode


def run_step(step: Step, place: str, log: Path) -> None:
    """Run one step with a line at its start and end, and a sign of life in between."""
    started = time.monotonic()
    finished = threading.Event()
    _lane.cpu = 0.0

    def elapsed() -> str:
        return f"{time.monotonic() - started:.0f} s"

    def beat() -> None:
        while not finished.wait(HEARTBEAT_SECONDS):
            print(f"autojoin: {place} {step.name} … {elapsed()}", flush=True)

    print(f"autojoin: {place} {step.name}", flush=True)
    threading.Thread(target=beat, daemon=True).start()
    try:
        step.run(log)
    except (SetupError, OSError, subprocess.SubprocessError) as error:
        message = f"{step.name}: {error}\nThe whole log: {log}; run it again to go on"
        raise SetupError(message) from error
    finally:
        finished.set()
    told = f"done in {elapsed()}, {_lane.cpu:.0f} s of CPU"
    print(f"autojoin: {place} {step.name} {told}", flush=True)


@dataclass
class Lanes:
    """The steps that are to be made, of `every`; the first failure ends all of them."""

    every: list[Step]
    pending: list[Step]
    logs: Path
    failures: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        _stopped.clear()
        self.finished = {step.name: threading.Event() for step in self.pending}
        names = dict.fromkeys(step.lane for step in self.pending)
        threads = [threading.Thread(target=self.run_lane, args=[name]) for name in names]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:
            self.stop(error)
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            raise
        if self.failures:
            raise self.failures[0]

    def run_lane(self, name: str) -> None:
        for number, step in enumerate(self.every, 1):
            if step.lane != name or step not in self.pending:
                continue
            for needed in step.after:
                if needed in self.finished:
                    self.finished[needed].wait()
            if self.failures:
                return
            log = self.logs / f"{step.name.replace(' ', '-')}.log"
            log.unlink(missing_ok=True)
            try:
                run_step(step, f"[{number}/{len(self.every)}]", log)
            except BaseException as error:
                self.stop(error)
                return
            self.finished[step.name].set()

    def stop(self, failure: BaseException) -> None:
        """Begin no step any more and end what runs; whoever waits for a step finds `failures`."""
        self.failures.append(failure)
        _stopped.set()
        for process in list(_running):
            process.terminate()
        for event in self.finished.values():
            event.set()
