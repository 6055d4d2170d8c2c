"""Random edits one after another, with three workers: each ends as its preview said.

In `make test` the same ones for four minutes; EDITS=600 makes so many others, however long they
take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.lifecycle.cluster import Cluster, Seen
from tests.lifecycle.edits import EDITS, patched

pytestmark = pytest.mark.full

SECONDS = 240
NAMES = st.sampled_from(("worker-1", "worker-2", "worker-3"))
# Addresses that nothing else of the lab has.
HOSTS = st.integers(20, 60)
Config = dict[str, Any]


def pools(third: int) -> list[Config]:
    """The lab's own pool, and one more."""
    second = {"name": "second", "cidrs": [f"192.168.{third}.0/24"]}
    return [{"name": "ippool", "cidrs": ["POOL"]}, second]


# Merge patches: what a worker has, and what all have.
OF_A_WORKER = st.one_of(
    st.sampled_from("abcdef").map(lambda rack: {"labels": {"rack": rack}}),
    st.sampled_from([["dedicated=database:NoSchedule"], None]).map(lambda it: {"taints": it}),
    st.integers(200, 400).map(lambda seconds: {"joinTimeout": seconds}),
    st.integers(50, 60).map(lambda most: {"kubelet": {"maxPods": most}}),
)
OF_THE_CLUSTER = st.one_of(
    st.integers(1, 4).map(lambda count: {"autojoin:dns": {"replicas": count}}),
    st.integers(1, 3).map(lambda most: {"autojoin:rollout": {"maxUnavailable": most}}),
    # Of all machines: each starts anew.
    st.sampled_from([["SUBNET.1"], None]).map(lambda it: {"autojoin:cluster": {"dnsServers": it}}),
    st.integers(12, 48).map(lambda hours: {"autojoin:joinGate": {"joinKeyHours": hours}}),
    st.integers(50, 90).map(lambda third: {"autojoin:bgp": {"loadBalancerPools": pools(third)}}),
)


@dataclass
class Course:
    """One lab under one edit after another, over all examples: nothing is ever taken back."""

    cluster: Cluster
    now: Seen
    begun: float = field(default_factory=time.monotonic)
    edits: list[str] = field(default_factory=list)
    # A used generation does not come back with a name.
    used: dict[str, int] = field(default_factory=dict)
    failed: BaseException | None = None

    @property
    def over(self) -> bool:
        if EDITS:
            return len(self.edits) >= EDITS
        return time.monotonic() - self.begun > SECONDS

    @property
    def workers(self) -> Config:
        return dict(self.cluster.lab.config["autojoin:workers"])

    def merged(self, patch: Config) -> None:
        """A merge patch as one edit."""
        names = self.cluster.names
        self.tried(str(patch), lambda config: config.update(patched(config, patch, names)))

    def tried(self, told: str, change: Callable[[Config], None]) -> None:
        """One edit from its preview to its end. What failed once stays so when it is replayed."""
        if self.failed:
            raise self.failed
        before = self.cluster.lab.config
        self.cluster.lab.edit(change)
        if self.cluster.lab.config == before:
            return
        self.edits.append(told)
        try:
            summary = self.cluster.summary()
            self.cluster.up()
            self.now = self.cluster.check(self.now, summary)
        except AssertionError as error:
            self.failed = AssertionError(f"after {'; '.join(self.edits)}:\n{error}")
            raise self.failed from None


@pytest.mark.timeout(300 * (EDITS or 3))
def test_random_edits(cluster: Cluster) -> None:
    course = Course(cluster, cluster.known_good())

    class Edits(RuleBasedStateMachine):
        """Each rule is one edit of the stack file."""

        @initialize()
        def begin(self) -> None:
            """Without a rule to begin with, an example may be empty."""

        @rule(name=NAMES)
        def renew(self, name: str) -> None:
            if course.over or name not in course.workers:
                return

            def change(config: Config) -> None:
                worker = config["autojoin:workers"][name]
                worker["generation"] = worker.get("generation", 1) + 1

            course.tried(f"{name} renewed", change)

        @rule(name=NAMES)
        def remove(self, name: str) -> None:
            if course.over or name not in course.workers or len(course.workers) == 1:
                return

            def change(config: Config) -> None:
                gone = config["autojoin:workers"].pop(name)
                course.used[name] = gone.get("generation", 1)

            course.tried(f"{name} removed", change)

        @rule(name=NAMES, host=HOSTS)
        def add(self, name: str, host: int) -> None:
            if course.over or name in course.workers:
                return
            address = _free(course, host)

            def change(config: Config) -> None:
                like = next(iter(config["autojoin:workers"].values()))
                same = {key: like[key] for key in ("hardware", "image", "bridge")}
                generation = course.used.get(name, 0) + 1
                worker = {**same, "address": address, "generation": generation}
                config["autojoin:workers"][name] = worker

            course.tried(f"{name} added at {address}", change)

        @rule(name=NAMES, host=HOSTS)
        def move(self, name: str, host: int) -> None:
            if course.over or name not in course.workers:
                return
            address = _free(course, host)

            def change(config: Config) -> None:
                config["autojoin:workers"][name]["address"] = address

            course.tried(f"{name} moved to {address}", change)

        @rule(name=NAMES, patch=OF_A_WORKER)
        def set_of_a_worker(self, name: str, patch: Config) -> None:
            if course.over or name not in course.workers:
                return
            course.merged({"autojoin:workers": {name: patch}})

        @rule(patch=OF_THE_CLUSTER)
        def set_of_the_cluster(self, patch: Config) -> None:
            if course.over:
                return
            course.merged(patch)

    # Not shrunk: what an edit did to a lab can't be undone, so no example can be tried again.
    run_state_machine_as_test(
        Edits,
        settings=settings(
            max_examples=EDITS or 100,
            # Of a change, `make test` tells whether it broke something, and so tries the same.
            derandomize=not EDITS,
            stateful_step_count=10,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert course.over or len(course.edits) > 2, course.edits
    print(f"{len(course.edits)} edits: {'; '.join(course.edits)}")


def _free(course: Course, host: int) -> str:
    taken = {worker["address"] for worker in course.workers.values()}
    free = (f"{course.cluster.subnet}.{number}" for number in range(host, host + 10))
    return next(address for address in free if address not in taken)
