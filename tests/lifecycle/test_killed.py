"""`pulumi up` killed hard at twenty moments: the next one ends as if nothing had happened.

In `make test` at two of them, with EDITS at all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.lifecycle.cluster import Cluster
from tests.lifecycle.edits import EDITS

MOMENTS = 20
TRIED = range(MOMENTS) if EDITS else (8, 13)
WORKERS = ("worker-1", "worker-2", "worker-3")


def busy(cluster: Cluster, turn: int) -> None:
    """An edit that makes, changes and takes away, of workers and of what is in the cluster."""

    def change(config: dict[str, Any]) -> None:
        workers = config["autojoin:workers"]
        renewed = workers[WORKERS[turn % 3]]
        renewed["generation"] = renewed.get("generation", 1) + 1
        # There in every other turn: made in one, removed in the next.
        name = "worker-7"
        if workers.pop(name, None) is None:
            address = f"{cluster.subnet}.17"
            workers[name] = {**workers["worker-1"], "address": address, "generation": turn + 1}
        second = {"name": "second", "cidrs": [f"192.168.{50 + turn}.0/24"]}
        pools = config["autojoin:bgp"]["loadBalancerPools"]
        pools[1:] = [second]

    cluster.lab.edit(change)


def kill(cluster: Cluster, after: float) -> bool:
    """Begin `pulumi up`, and end it and all its processes `after` so many seconds.

    Whether it was still at work.
    """
    process = subprocess.Popen(
        ["pulumi", "up", "--yes", "--skip-preview", "--parallel", "64", "--non-interactive"],
        cwd=cluster.lab.checkout,
        env=cluster.lab.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


@pytest.fixture(scope="module")
def seconds(cluster: Cluster) -> float:
    """How long a run takes that is left alone."""
    before = cluster.known_good()
    busy(cluster, 0)
    summary = cluster.summary()
    started = time.monotonic()
    cluster.up()
    found = time.monotonic() - started
    cluster.check(before, summary)
    return found


@pytest.mark.parametrize("moment", TRIED)
def test_the_next_run_ends_well(cluster: Cluster, seconds: float, moment: int) -> None:
    before = cluster.known_good()
    busy(cluster, moment + 1)
    summary = cluster.summary()
    kill(cluster, seconds * (moment + 0.5) / MOMENTS)
    cluster.lab.run("pulumi", "cancel", "--yes", "--non-interactive")
    cluster.up()
    cluster.check(before, summary)
