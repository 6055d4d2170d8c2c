"""The wait for many nodes at once: `gate await` tells their phases until each is Ready or failed.

It reads the events that nodes report. A failure counts once: who waits again after it was told
waits for what the node says then.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Callable

from .errors import GateError
from .store import Event, Store

# How soon a new event is seen.
_PAUSE_SECONDS = 0.25
# A failure may reach the gate twice, by the node and by its host.
_REPEATED_SECONDS = 5.0
# The host's word that it started the machine: what came before is of an earlier attempt.
_START = "start"
_ADVICE = {
    "clock": "set the clock of the machine or its host, then run this again",
    "authority": "check that the join gate runs and that the machine reaches its address",
    "certificate": "do what the join gate's message says, then run this again",
    "runtime": "check the container runtime in the machine's image",
    "kubelet": "read the kubelet's journal in the machine (journalctl -u kubelet)",
    "node": "check that the machine reaches the API server and that the server trusts the"
    " authority",
    "ready": "check the CNI configuration on the machine and the conditions of its Node",
}
_LOOK = "look at the machine's console, and whether it was started from its files"


@dataclass
class Awaited:
    """One node that is waited for, and what was heard of it. `began` is on the gate's clock."""

    name: str
    identity: str
    seconds: float
    # Failures up to here were told by an earlier wait.
    told: float = 0.0
    began: float = field(default_factory=time.time)
    after: int = 0
    started: float | None = None
    by_host: bool = False
    phase: str = _START
    phases: dict[str, float] = field(default_factory=dict)
    ready: float | None = None
    cause: str | None = None
    earlier: str = ""

    @property
    def decided(self) -> bool:
        return self.ready is not None or self.cause is not None

    def take(self, event: Event) -> str:
        """Heed an event; the line that tells of it."""
        self.after = event.number
        if event.phase == _START and event.state == "started":
            self.started, self.by_host, self.phases = event.at, True, {}
            self.ready, self.cause, self.earlier = None, None, ""
        if self.started is None:
            self.started = event.at
        self.phase = event.phase
        seconds = max(0.0, event.at - self.started)
        message = f": {event.message}" if event.message else ""
        if event.state == "failed":
            self._failed(event)
        elif event.state == "done":
            self.phases[event.phase] = round(seconds, 3)
            if event.phase == "ready":
                self.ready, self.cause = round(seconds, 3), None
        return f"{self.name}: {event.phase} {event.state} ({seconds:.2f} s){message}"

    def _failed(self, event: Event) -> None:
        text = f"phase {event.phase}: {event.message or 'no message'}"
        self.earlier = text
        # What joined becomes Ready once its images are there: that takes what its link takes, and
        # the node goes on trying.
        if event.at > self.told and event.phase != "ready":
            self.cause = f"{text}; {_ADVICE.get(event.phase, _LOOK)}"

    def run_out(self) -> None:
        """Nothing decided it in time."""
        before = f"; what it said before: {self.earlier}" if self.earlier else ""
        self.cause = (
            f"phase {self.phase}: nothing more was heard within {self.seconds:g} s{before}; "
            f"{_ADVICE.get(self.phase, _LOOK)}"
        )

    def summary(self) -> dict[str, Any]:
        return {"readySeconds": self.ready, "phases": self.phases}


def parse(data: bytes) -> list[Awaited]:
    """The nodes on standard input: `{"nodes": {NAME: {"identity": …, "seconds": …}}}`."""
    try:
        nodes = json.loads(data)["nodes"]
        return [
            Awaited(name, str(about["identity"]), float(about["seconds"]))
            for name, about in nodes.items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise GateError("standard input: must be nodes with identity and seconds") from None


def follow(store: Store, nodes: list[Awaited], say: Callable[[str], None]) -> None:
    """Returns once each of `nodes` is Ready or has a cause why not."""
    for node in nodes:
        node.told = store.waited(node.name)
        registered = store.node(node.name)
        if registered is None or registered.identity != node.identity:
            found = registered.identity if registered else "nothing"
            node.cause = (
                f"the join gate knows {found} of that name, not {node.identity}; "
                "run `pulumi up` without --target"
            )
            continue
        lines = [node.take(event) for event in store.events(node.name, 0)]
        if not node.by_host:
            node.cause = None  # nobody knows of which attempt it was
        if node.ready is None:
            for line in lines:
                say(line)
    while waiting := [node for node in nodes if not node.decided]:
        time.sleep(_PAUSE_SECONDS)
        for node in waiting:
            for event in store.events(node.name, node.after):
                say(node.take(event))
            if not node.decided and time.time() - node.began >= node.seconds:
                node.run_out()
    now = time.time() + _REPEATED_SECONDS
    for node in nodes:
        if node.cause is not None:
            store.wait_ended(node.name, now)
