"""Nodes go down one after another, drained: the real engine, kubectl and API server.

A command plays each machine: it takes its Node's place, as a machine that is provisioned anew does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.plugins.kubernetes_server import ApiServer, running
from tests.unit.tools.plugins.plugin_engine import Project
from tools.pins import CHECKOUT

pytestmark = pytest.mark.full

PROGRAM = """
import asyncio
import json
import sys
from pathlib import Path

import pulumi
from pulumi_command import local

sys.path.insert(0, {checkout!r})
from components import interrupt
from components.admission import policy
from components.workers.rollout import Rollout, Steps

given = json.loads(Path("given.json").read_text())

async def leaving(node, identity):
    revoked = json.dumps({{"revoked": [
        {{"node": node, "sha256": "old-" + node, "notAfter": "2999-01-01T00:00:00Z"}}
    ]}})
    return policy.leave_input(node, identity, revoked, given["drain"])

# What the join gate tells of a lab's machines.
async def back(node, identity):
    words = ("--kubeconfig", given["kubeconfig"], "--timeout", str(given["back"]) + "s")
    for condition in ("create", "condition=Ready"):
        command = ("kubectl", "wait", "node/" + node, "--for", condition, *words)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        if await process.wait():
            raise pulumi.RunError(node + " did not join")

rollout = Rollout("rollout", given["kubeconfig"], Steps(leaving, back), given["most"])
for name, generation in given["workers"].items():
    identity = name + "-g" + str(generation) + "-0"
    local.Command(
        name + "-machine",
        create=given["script"],
        delete="true " + identity,
        environment={{
            "KUBECONFIG": given["kubeconfig"], "NODE": name, "GENERATION": str(generation),
            "FAULT": given["faults"].get(name, ""), "IDENTITY": identity,
        }},
        opts=pulumi.ResourceOptions(hooks=rollout.hooks(name + "-machine", name)),
    )
"""
# A machine's start, its join, and its kubelet's first word.
SCRIPT = """
[ "$FAULT" != fails ] || { echo it has no disk >&2; exit 1; }
sleep 1
[ "$FAULT" != silent ] || exit 0
echo "{\\"apiVersion\\": \\"v1\\", \\"kind\\": \\"Node\\",
    \\"metadata\\": {\\"name\\": \\"$NODE\\", 
    \\"labels\\": {\\"generation\\": \\"$GENERATION\\"}}}" |
    kubectl apply --filename=- >/dev/null
kubectl patch node "$NODE" --subresource=status --type=merge \\
    --patch='{"status": {"conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"machineID": "'$IDENTITY'"}}}' >/dev/null
"""
Workers = dict[str, int]


@dataclass
class Cluster:
    server: ApiServer
    project: Project
    workers: Workers = field(default_factory=dict)

    def up(
        self,
        *,
        most: int = 1,
        drain: int = 60,
        back: int = 60,
        faults: dict[str, str] | None = None,
        fails: bool = False,
    ) -> str:
        given = {
            "kubeconfig": str(self.server.kubeconfig),
            "script": SCRIPT,
            "workers": self.workers,
            "most": most,
            "drain": drain,
            "back": back,
            "faults": faults or {},
        }
        (self.project.folder / "given.json").write_text(json.dumps(given))
        return self.project.run("up", "--yes", "--skip-preview", fails=fails)

    def nodes(self) -> dict[str, Any]:
        found = self.server.request("GET", "/api/v1/nodes")["items"]
        return {each["metadata"]["name"]: each for each in found}

    def generations(self) -> Workers:
        return {
            name: int(node["metadata"]["labels"]["generation"])
            for name, node in self.nodes().items()
        }

    def renew(self, *names: str) -> None:
        for name in names or self.workers:
            self.workers[name] += 1


class Watch(threading.Thread):
    """The fewest nodes that were Ready at one moment."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.fewest = len(cluster.workers)
        self.ended = threading.Event()

    def run(self) -> None:
        over = False
        # The last look is after the end: what a fast failure leaves behind is seen as well.
        while not over:
            over = self.ended.wait(0.1)
            nodes = self.cluster.nodes().values()
            ready = [node for node in nodes if node["status"].get("conditions")]
            self.fewest = min(self.fewest, len(ready))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running(folder) as server:
        project = Project(folder / "project")
        project.program(PROGRAM.format(checkout=str(CHECKOUT)))
        cluster = Cluster(server, project, {f"worker-{number}": 1 for number in (1, 2, 3, 4)})
        cluster.up()
        yield cluster


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_than_so_many_are_down(cluster: Cluster, most: int) -> None:
    cluster.renew()
    with Watch(cluster) as watch:
        cluster.up(most=most)
    assert cluster.generations() == cluster.workers
    assert watch.fewest == len(cluster.workers) - most


def test_pods_are_evicted_before_the_machine_goes(cluster: Cluster) -> None:
    cluster.server.run_pod("web", "worker-1")
    cluster.server.run_pod("other", "worker-2")
    cluster.renew("worker-1")
    cluster.up()
    assert cluster.generations() == cluster.workers
    pods = cluster.server.request("GET", "/api/v1/namespaces/default/pods")["items"]
    assert [pod["metadata"]["name"] for pod in pods] == ["other"]
    cluster.server.kubectl("delete", "pod", "other", "--wait=false")


def test_a_node_that_a_budget_keeps_from_being_drained_goes_on(cluster: Cluster) -> None:
    cluster.server.run_pod("database", "worker-3")
    cluster.server.keep("database")
    before = cluster.generations()
    cluster.renew("worker-3")
    told = cluster.up(drain=4, fails=True)
    assert "worker-3 can't be drained in 4 s and keeps running" in told, told
    assert "database" in told and "budget" in told
    assert "drainTimeout" in told and "Traceback" not in told
    assert cluster.generations() == before
    assert not cluster.nodes()["worker-3"]["spec"].get("unschedulable")
    # Without draining, by who says so.
    cluster.up(drain=0)
    assert cluster.generations() == cluster.workers
    cluster.server.kubectl("delete", "pdb", "database")
    cluster.server.kubectl("delete", "pod", "database", "--wait=false")


@pytest.mark.parametrize(
    ("fault", "told"), [("silent", "did not join"), ("fails", "it has no disk")]
)
def test_a_node_that_does_not_come_back_stops_the_rest(
    cluster: Cluster, fault: str, told: str
) -> None:
    cluster.renew()
    before = cluster.generations()
    with Watch(cluster) as watch:
        said = cluster.up(back=5, faults=dict.fromkeys(cluster.workers, fault), fails=True)
    assert told in said, said
    assert "the rollout stopped" in said and "keeps running" in said
    assert watch.fewest == len(cluster.workers) - 1
    now = cluster.generations()
    assert {name: before[name] for name in now} == now
    # The one that is down is no reason to wait; it is brought back with the others.
    cluster.renew()
    cluster.up()
    assert cluster.generations() == cluster.workers


def test_an_edit_of_a_dead_node_is_not_held_up(cluster: Cluster, tmp_path: Path) -> None:
    dead = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    words = ("--subresource=status", "--type=merge", f"--patch={json.dumps(dead)}")
    cluster.server.kubectl("patch", "node", "worker-2", *words)
    cluster.server.run_pod("stuck", "worker-2")
    cluster.renew("worker-2")
    cluster.up(drain=5)
    assert cluster.generations() == cluster.workers
    cluster.server.kubectl("delete", "pod", "stuck", "--wait=false")
