"""Lanes of a set-up: what runs beside what, what is told of each step, what one failure ends."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import pytest

from tools.lanes import Lanes, SetupError, Step, logged


def run(folder: Path, *steps: Step) -> None:
    Lanes(list(steps), list(steps), folder).run()


def shell(name: str, script: str, lane: str, *after: str) -> Step:
    def command(log: Path) -> None:
        logged(["sh", "-c", script], log)

    return Step(name, lambda: False, command, lane=lane, after=after)


def test_failed_command_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"ended with 3:\nwhat went wrong"):
        logged(["sh", "-c", "echo what went wrong; exit 3"], tmp_path / "log")


def test_lanes_run_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(log: Path) -> None:
        both.wait()

    run(tmp_path, *(Step(lane, lambda: False, meet, lane=lane) for lane in ("go", "machine")))
    assert not both.broken


def test_a_step_waits_for_one_of_another_lane(tmp_path: Path) -> None:
    first = shell("first", f"sleep 0.3; touch {tmp_path}/there", "machine")
    run(tmp_path, shell("second", f"test -e {tmp_path}/there", "go", "first"), first)


def test_a_step_that_is_done_already_is_not_waited_for(tmp_path: Path) -> None:
    first, second = shell("first", "exit 1", "machine"), shell("second", "true", "go", "first")
    Lanes([first, second], [second], tmp_path).run()


def test_each_step_is_told_with_its_own_cpu_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    burn = "timeout 1.2 sh -c 'while :; do :; done' || true"
    run(tmp_path, shell("busy", burn, "go"), shell("idle", "sleep 1", "machine"))
    told = re.findall(r"\] (\w+) done in \d+ s, (\d+) s of CPU", capsys.readouterr().out)
    seconds = {name: int(cpu) for name, cpu in told}
    assert seconds.keys() == {"busy", "idle"}
    assert seconds["idle"] == 0


def test_a_failure_ends_the_other_lane_and_is_what_is_told(tmp_path: Path) -> None:
    steps = [
        shell("long", "exec sleep 600", "machine"),
        shell("never", f"touch {tmp_path}/begun", "machine"),
        shell("waiting", f"touch {tmp_path}/begun", "download", "long"),
        shell("failing", "sleep 0.3; echo why; exit 1", "go"),
    ]
    with pytest.raises(SetupError, match=r"^failing: (?s:.*)why\nThe whole log: .*/failing\.log"):
        run(tmp_path, *steps)
    assert not (tmp_path / "begun").exists()


def test_an_interrupt_ends_what_runs_and_is_no_failure(tmp_path: Path) -> None:
    def interrupted(log: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        logged(["sleep", "600"], log)

    # pytest-xdist has its workers ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Step("long", lambda: False, interrupted))
    finally:
        signal.signal(signal.SIGINT, before)
