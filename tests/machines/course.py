"""How far a machine comes from power by itself, step by step, and after how many seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lab.machine import Machine


@dataclass
class Course:
    """A machine of a type of hardware; a step that it does not reach fails by both their names."""

    hardware: str
    machine: Machine
    seconds: dict[str, float] = field(default_factory=dict)

    def power_on(self) -> None:
        self.machine.power_on()
        self.start()

    def start(self) -> None:
        """It was switched on just now."""
        self.started = time.monotonic()

    def reach(self, step: str, there: Callable[[], object], limit: float) -> None:
        """Wait until `there()`, at most `limit` seconds from now."""
        deadline = time.monotonic() + limit
        while not there():
            if time.monotonic() > deadline:
                missed = f"{self.hardware}: {step}: not there after {limit:.0f} s"
                tell(missed)
                end = f"the end of {self.machine.console}:\n{self.machine.console_end()}"
                pytest.fail(f"{missed}; {end}", pytrace=False)
            time.sleep(0.5)
        self.seconds[step] = time.monotonic() - self.started
        tell(f"{self.hardware}: {step} {self.seconds[step]:.0f} s after power")


def tell(line: str) -> None:
    """At once: a `pulumi up` beside it may go on for long, and of a process among several only this
    is seen."""
    print(f"machines: {line}", file=sys.stderr, flush=True)
