"""From a machine's start to its Ready node: our join beside `kubeadm join`, on the same lab.

Both sides' machines have the same image, are started by the same script on the same hypervisor, as
many at once, in turn. Watches of the API server on this host tell when each Node object appeared
and was Ready, how far Cilium's agent was on it, and when a pod of every node answered its kubelet.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import kubeadm, labs
from bench.measure import BenchError
from bench.table import Row
from components.join_gate.program.progress import PHASES
from components.workers.nspawn import KUBELET_OVERRIDES
from lab import cgroup, facts, place
from lab.example import MANIFEST
from lab.place import Place
from lab.remote import remote
from lab.waiting import wait_for
from tests.e2e.conftest import COPIES, Lab, copy_checkout

_LONGEST_SECONDS = 180.0
_FIRST_ADDRESS = 100
_CLUSTER = "dev"
AGENT, ANSWERING = "cilium", "answering"
_GOALS = {"join proper": 0.5, "machine start to Ready": 0.8}


class Watch(threading.Thread):
    """What the API server tells of one kind of object, from now to `stop`."""

    def __init__(self, kubeconfig: Path, kind: str) -> None:
        super().__init__(daemon=True)
        command = ["kubectl", "get", "--raw", f"/api/v1/{kind}?watch=true"]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            now = time.time()
            event = json.loads(line)
            self.see(event["type"], event["object"], now)

    def see(self, event: str, found: dict[str, Any], now: float) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def true(found: dict[str, Any], condition: str) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(it["type"] == condition and it["status"] == "True" for it in conditions)


class NodeWatch(Watch):
    """When each Node appeared, when it was first Ready (epoch seconds of this host), and what its
    machine had used of the processors by then."""

    def __init__(self, kubeconfig: Path, machines: Path) -> None:
        self.machines = machines
        self.appeared: dict[str, float] = {}
        self.ready: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        super().__init__(kubeconfig, "nodes")

    def see(self, event: str, found: dict[str, Any], now: float) -> None:
        name = found["metadata"]["name"]
        if event == "DELETED":
            self.appeared.pop(name, None)
            self.ready.pop(name, None)
            return
        self.appeared.setdefault(name, now)
        if true(found, "Ready") and name not in self.ready:
            self.processor_seconds[name] = self._used(name)
            self.ready[name] = now

    def _used(self, name: str) -> float:
        """Processor seconds of a machine so far."""
        (group,) = self.machines.glob(f"system-autojoin*/autojoin-machine*@{name}.service")
        for line in (group / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6
        raise BenchError(f"{group}: tells no processor time")


class PodWatch(Watch):
    """When the pods of two DaemonSets, Cilium's agent and one that answers, were how far.

    `times`: by node and DaemonSet, epoch seconds of `bound`, `starting` (an init container runs),
    `started` (they have ended) and `ready`.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.times: dict[tuple[str, str], dict[str, float]] = {}
        self._pods: dict[tuple[str, str], str] = {}
        super().__init__(kubeconfig, "pods")

    def see(self, event: str, found: dict[str, Any], now: float) -> None:
        metadata = found["metadata"]
        subject = metadata.get("labels", {}).get("k8s-app")
        node = found["spec"].get("nodeName")
        if subject not in (AGENT, ANSWERING) or not node:
            return
        if event == "DELETED":
            # A node of the same name comes later, and waits for pods of its own.
            if self._pods.get((node, subject)) == metadata["uid"]:
                self.times.pop((node, subject), None)
            return
        if metadata.get("deletionTimestamp"):
            return
        times = self.times.setdefault((node, subject), {})
        if self._pods.get((node, subject)) != metadata["uid"]:
            self._pods[node, subject] = metadata["uid"]
            times.clear()
        first = found["status"].get("initContainerStatuses", [])
        reached = {
            "bound": True,
            "starting": any("waiting" not in it["state"] for it in first),
            "started": true(found, "Initialized"),
            "ready": true(found, "Ready"),
        }
        for milestone, is_reached in reached.items():
            if is_reached:
                times.setdefault(milestone, now)


@dataclass(frozen=True)
class Join:
    """One machine's times, all in epoch seconds of the one host clock."""

    started: float
    first_line: float
    appeared: float
    ready: float
    processor_seconds: float
    answered: float
    # Seconds that Cilium's agent took for each part of its start.
    agent: dict[str, float]
    # Seconds from the machine's start to the end of each phase, as the node told the gate.
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def proper(self) -> float:
        """From the first line of the join to the Node object."""
        return self.appeared - self.first_line

    @property
    def whole(self) -> float:
        return self.ready - self.started


@dataclass
class Bed:
    """A lab of the bench's own, with one worker, where Cilium's operator and the DNS run."""

    lab: Lab
    where: Place
    watch: NodeWatch
    pods: PodWatch
    image: str
    # A name that joined and was removed comes back with a higher one.
    generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def home(self, name: str) -> Path:
        """A machine's folder: one of the stack's, or one that was started by hand."""
        machines = self.where.state / "machines"
        ours = machines / _CLUSTER / name
        return ours if ours.exists() else machines / name

    def address(self, number: int) -> str:
        return str(self.where.network[_FIRST_ADDRESS + number])

    def wait_for(self, names: list[str], explain: Callable[[str], str]) -> None:
        """Return once each node is Ready and its pod has answered."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while missing := [name for name in names if not self._is_whole(name)]:
            if time.monotonic() > deadline:
                raise BenchError(f"{', '.join(missing)}: no pod answers: {explain(missing[0])}")
            time.sleep(0.05)

    def _is_whole(self, name: str) -> bool:
        pods = [self.pods.times.get((name, subject), {}) for subject in (AGENT, ANSWERING)]
        return name in self.watch.ready and all("ready" in times for times in pods)

    def forget(self, names: list[str]) -> None:
        """Their pods, too: a node of the same name would take them for its own."""
        self.lab.run("kubectl", "delete", "node", "--ignore-not-found", "--wait", *names)
        for name in names:
            here = ["--all-namespaces", f"--field-selector=spec.nodeName={name}"]
            self.lab.run("kubectl", "delete", "pods", *here, "--force", "--grace-period=0")
        # Watches hear of it a moment later than who deletes.
        wait_for(lambda: not any(node in names for node, _ in self.pods.times), 10, "pods stay")


@contextlib.contextmanager
def bed(folder: Path) -> Iterator[Bed]:
    checkout = COPIES / f"bench-{os.getpid()}"
    checkout.mkdir(parents=True)
    copy_checkout(checkout)
    lab = Lab(checkout)
    watches: list[Watch] = []
    try:
        lab.make("move-lab")
        lab.edit(with_one_worker)
        lab.make("up")
        where = place.find(checkout)
        assert where is not None
        image = f"{kubeadm.prepare(where, folder, KUBELET_OVERRIDES)}:{facts.WORKER_IMAGE}"
        lab.run("kubectl", "apply", "-f", "-", stdin=json.dumps(answering()))
        nodes = NodeWatch(where.state / "kubeconfig", machines_group(where))
        watches.append(nodes)
        pods = PodWatch(where.state / "kubeconfig")
        watches.append(pods)
        with kubeadm.signer(where):
            yield Bed(lab, where, nodes, pods, image)
    finally:
        for watch in watches:
            watch.stop()
        subprocess.run(["make", "down"], cwd=checkout, capture_output=True)
        shutil.rmtree(checkout)


def machines_group(where: Place) -> Path:
    """The control group of the lab's machines."""
    return cgroup.folder(where.identifier) / "payload/system.slice"


def answering() -> dict[str, Any]:
    """A pod on each node, ready when its kubelet has had its first answer."""
    labels = {"k8s-app": ANSWERING}
    (example, _) = yaml.safe_load_all(MANIFEST.read_text())
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": ANSWERING, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": example["spec"]["template"]["spec"]["containers"]},
            },
        },
    }


def with_one_worker(config: dict[str, Any]) -> None:
    config["autojoin:workers"] = {"worker-1": config["autojoin:workers"]["worker-1"]}


def ours(bed: Bed, count: int) -> list[Join]:
    """`count` workers by one `pulumi up`, then gone by another."""
    names = [f"ours-{number}" for number in range(count)]
    generation = next(bed.generations)

    def add(config: dict[str, Any]) -> None:
        config["autojoin:workers"] |= {
            name: labs.machine(bed.address(number), generation) for number, name in enumerate(names)
        }

    bed.lab.edit(add)
    bed.lab.make("up")
    bed.wait_for(names, lambda name: bed.lab.run("make", "status", check=False))
    nodes = json.loads(bed.lab.run("pulumi", "stack", "output", "nodes", "--json"))
    joins = [
        join(
            bed,
            name,
            birth(bed.home(name) / "disk/upper/var/log/autojoin-join.log"),
            nodes[name]["joined"]["phases"],
        )
        for name in names
    ]
    bed.lab.edit(with_one_worker)
    bed.lab.make("up")
    bed.forget(names)
    return joins


def theirs(bed: Bed, count: int) -> list[Join]:
    """`count` machines that run `kubeadm join`, side by side; gone afterwards."""
    names = [f"kubeadm-{number}" for number in range(count)]
    program = "/usr/local/lib/autojoin/machine"

    def start(number: int) -> None:
        name = names[number]
        stdin = kubeadm.machine_input(bed.where, name, bed.address(number), bed.image)
        remote(bed.where, f"{program} apply {name}", what=f"starting {name}", stdin=stdin)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(start, range(count)))
    bed.wait_for(names, lambda name: kubeadm.explain(bed.where, name))
    joins = [
        join(bed, name, float((bed.home(name) / "disk/upper" / kubeadm.START).read_text()))
        for name in names
    ]
    for name in names:
        remote(bed.where, f"{program} remove {name}", what=f"removing {name}")
    bed.forget(names)
    return joins


def join(bed: Bed, name: str, first_line: float, phases: dict[str, float] | None = None) -> Join:
    started = float((bed.home(name) / "started").read_text())
    watch = bed.watch
    times = watch.appeared[name], watch.ready[name], watch.processor_seconds[name]
    answered = bed.pods.times[name, ANSWERING]["ready"]
    agent = bed.pods.times[name, AGENT]
    parts = {
        "sandbox and first image": agent["starting"] - agent["bound"],
        "init containers": agent["started"] - agent["starting"],
        "the agent": agent["ready"] - agent["started"],
    }
    return Join(started, first_line, *times, answered, parts, phases or {})


def birth(path: Path) -> float:
    """When a file was made. The join's log is opened the moment before the join starts."""
    answer = subprocess.run(
        ["stat", "--format=%.9W", str(path)], capture_output=True, text=True, check=True
    )
    return float(answer.stdout)


def rows(full: bool) -> list[Row]:
    counts = (1, 3, 8) if full else (1, 3)
    repetitions = 3 if full else 1
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="autojoin-bench-") as folder, bed(Path(folder)) as lab:
        for count in counts:
            pairs = [(ours(lab, count), theirs(lab, count)) for _ in range(repetitions)]
            our_joins = [each for pair in pairs for each in pair[0]]
            their_joins = [each for pair in pairs for each in pair[1]]
            found += compared(count, our_joins, their_joins)
            found += phase_by_phase(count, our_joins)
    return found


def phase_by_phase(count: int, joins: list[Join]) -> list[Row]:
    """Where the time of our joins goes: each phase from the end of the one before."""
    # The stack's outputs have them by name, not in time.
    names = ["boot, to the join's first line", *(it for it in PHASES if it in joins[0].phases)]
    spent: dict[str, list[float]] = {name: [] for name in names}
    for each in joins:
        before = each.first_line - each.started
        spent[names[0]].append(before)
        for phase in names[1:]:
            spent[phase].append(each.phases[phase] - before)
            before = each.phases[phase]
    return [
        Row(f"- {name}, {count} at once", values, "s", note="part of ours")
        for name, values in spent.items()
    ]


def part_of_agent(part: str) -> Callable[[Join], float]:
    return lambda each: each.agent[part]


def compared(count: int, ours: list[Join], theirs: list[Join]) -> list[Row]:
    def row(what: str, of: Callable[[Join], float], note: str = "") -> Row:
        pair = [[of(each) for each in side] for side in (ours, theirs)]
        name = f"{what}, {count} at once"
        return Row(name, pair[0], "s", "kubeadm join", pair[1], _GOALS.get(what), note=note)

    floor = f"times {count}, over {os.cpu_count()} processors, is the least that all take"
    return [
        row("join proper", lambda each: each.proper, "first line to Node object"),
        row("machine start to Ready", lambda each: each.whole),
        row("machine start to a pod's first answer", lambda each: each.answered - each.started),
        *(row(f"Cilium's agent: {part}", part_of_agent(part)) for part in ours[0].agent),
        row("processor time of a machine to Ready", lambda each: each.processor_seconds, floor),
    ]
