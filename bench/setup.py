"""The whole `make up`: warm, with eight machines; and cold, an empty cache, CPU time by tool."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import labs
from bench.measure import BenchError
from bench.table import Row
from tests.e2e.conftest import COPIES, Lab, copy_checkout
from tools import pins
from tools.pins import CHECKOUT

_MACHINES = 8
_FIRST_ADDRESS = 100
_STEP_DONE = re.compile(
    r"^autojoin: \[\d+/\d+\] (.+) done in (\d+) s, (\d+) s of CPU$", re.MULTILINE
)
# Steps below this are told together.
_LEAST_SECONDS = 5


def rows(full: bool) -> list[Row]:
    """`make up` of a lab that is not there yet, with all tools and the image in the cache."""
    checkout = COPIES / f"bench-up-{os.getpid()}"
    checkout.mkdir(parents=True)
    copy_checkout(checkout)
    lab = Lab(checkout)
    seconds = []
    repetitions = 3 if full else 1
    try:
        lab.make("move-lab")
        lab.edit(eight_machines)
        if full:
            lab.make("up")  # Python compiles the copy's files once
        for _ in range(repetitions):
            lab.make("down")
            started = time.monotonic()
            lab.make("up")
            seconds.append(time.monotonic() - started)
    except AssertionError as error:
        raise BenchError(f"make up with {_MACHINES} machines: {error}") from None
    finally:
        subprocess.run(["make", "down"], cwd=checkout, capture_output=True)
        shutil.rmtree(checkout)
    return [Row(f"make up, warm, {_MACHINES} machines", seconds, "s", note="lab and cluster")]


def eight_machines(config: dict[str, Any]) -> None:
    workers = config["autojoin:workers"]
    network = str(next(iter(workers.values()))["address"]).rpartition(".")[0]
    config["autojoin:workers"] = {
        f"worker-{number}": labs.machine(f"{network}.{_FIRST_ADDRESS + number}")
        for number in range(1, _MACHINES + 1)
    }


def cold_rows(full: bool) -> list[Row]:
    """The set-up of `make up` with empty caches of ours and of Go, step by step; in a full run."""
    return cold() if full else []


def cold() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="autojoin-bench-cold-", dir="/var/tmp") as folder:
        names = {"XDG_CACHE_HOME": "cache", "GOCACHE": "build", "GOMODCACHE": "modules"}
        environment = {name: str(Path(folder, value)) for name, value in names.items()}
        environment["PATH"] = path_of_a_fresh_machine()
        started, cpu_before = time.monotonic(), cpu_of_children()
        answer = subprocess.run(
            [sys.executable, "tools/install.py", "install", "all"],
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        whole, cpu = time.monotonic() - started, cpu_of_children() - cpu_before
        if answer.returncode:
            raise BenchError(f"cold set-up: {(answer.stdout + answer.stderr)[-1500:]}")
        # Go keeps its modules read-only.
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    return split(whole, cpu, answer.stdout + answer.stderr)


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def path_of_a_fresh_machine() -> str:
    """PATH without our own tools: of the right version, they would be copied and not built."""
    parts = os.environ["PATH"].split(os.pathsep)
    own = pins.cache()
    return os.pathsep.join(part for part in parts if not Path(part).is_relative_to(own))


def split(whole: float, cpu: float, output: str) -> list[Row]:
    """The wall time, and the CPU time by step: steps run side by side, so only that adds up."""
    found = _STEP_DONE.findall(output)
    if not found:
        raise BenchError(f"the set-up told no steps: {output[-500:]}")
    steps = [(name, float(wall), float(its_cpu)) for name, wall, its_cpu in found]
    long = [step for step in steps if step[1] >= _LEAST_SECONDS]
    rest = cpu - sum(its_cpu for _, _, its_cpu in long)
    return [
        Row("set-up, cold, all", [whole], "s", note="empty caches"),
        Row("its CPU time", [cpu], "s", note="what Go tools share counts for the first of them"),
        *(
            Row(f"- {name}", [its_cpu], "s", note=f"{wall:.0f} s of wall time")
            for name, wall, its_cpu in long
        ),
        Row(f"- {len(steps) - len(long)} others, and between", [rest], "s"),
    ]
