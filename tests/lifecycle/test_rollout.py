"""Nodes go down in order: drained, few at a time, the next one once the one before is back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import facts
from tests.e2e import mirrors
from tests.e2e.conftest import until
from tests.lifecycle.cluster import Cluster, Seen
from tests.lifecycle.edits import EDITS
from tools.pins import KUBERNETES_VERSION, PREVIOUS_KUBERNETES_VERSION

# All of them with EDITS; as they all are alike, three tell the same in less time.
ALL = tuple(f"worker-{number}" for number in range(1, 9 if EDITS else 4))
Event = dict[str, Any]


@contextmanager
def watched(cluster: Cluster, what: str) -> Iterator[list[Event]]:
    """Every event of `what` as the API server tells it; there once the block has ended."""
    events: list[Event] = []
    file = cluster.lab.checkout / f"watched-{what}"
    with file.open("w") as output:
        process = subprocess.Popen(
            ["kubectl", "get", what, "--watch", "--output-watch-events", "--output=json"],
            env=cluster.lab.environment,
            stdout=output,
        )
        try:
            yield events
        finally:
            process.terminate()
            process.wait()
    text, decoder = file.read_text(), json.JSONDecoder()
    file.unlink()
    while text := text.lstrip():
        event, end = decoder.raw_decode(text)
        events.append(event)
        text = text[end:]


def most_down(events: list[Event], names: tuple[str, ...]) -> int:
    """The most of these nodes that were not Ready, or no Nodes, at one moment."""
    ready: dict[str, bool] = {}
    most = 0
    for event in events:
        node = event["object"]
        ready[node["metadata"]["name"]] = event["type"] != "DELETED" and any(
            (each["type"], each["status"]) == ("Ready", "True")
            for each in node["status"].get("conditions", [])
        )
        if set(names) <= set(ready):
            most = max(most, sum(not ready[name] for name in names))
    return most


def edit(cluster: Cluster, change: Any) -> Any:
    """Edit the stack file, and what the summary says of that."""
    cluster.lab.edit(change)
    return cluster.summary()


def raised(*names: str, **rollout: int) -> Any:
    def change(config: dict[str, Any]) -> None:
        for name in names:
            worker = config["autojoin:workers"][name]
            worker["generation"] = worker.get("generation", 1) + 1
        config["autojoin:rollout"] = rollout

    return change


def run_witness(cluster: Cluster, node: str) -> str:
    """A pod of a ReplicaSet that runs on `node`, and its UID."""
    pod = {
        "nodeName": node,
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10.1"}],
    }
    labels = {"witness": node}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": f"witness-{node}", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    cluster.lab.run("kubectl", "apply", "--filename=-", stdin=json.dumps(manifest))
    found = until(lambda: witnesses(cluster, node), 60)
    assert found, cluster.lab.kubectl("get", "pods")
    return str(found[0])


def witnesses(cluster: Cluster, node: str) -> list[str]:
    """The UIDs of the pods that run there for `run_witness`, and are not on their way out."""
    return [
        pod["metadata"]["uid"]
        for pod in cluster.lab.kubectl("get", "pods", f"--selector=witness={node}")["items"]
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


@pytest.fixture
def witness(cluster: Cluster) -> Iterator[tuple[Seen, str]]:
    """What there is, with a pod running on worker-1."""
    cluster.known_good()
    uid = run_witness(cluster, "worker-1")
    yield cluster.look(), uid
    # The lab's own pods are left alone.
    cluster.kubectl("delete replicaset --selector=witness --cascade=foreground")
    cluster.kubectl("delete poddisruptionbudget --all")
    if cluster.good is not None:
        # Without the pod.
        cluster.good = cluster.look()


def test_pods_are_evicted_before_their_machine_goes(
    cluster: Cluster, witness: tuple[Seen, str]
) -> None:
    before, uid = witness
    summary = edit(cluster, raised("worker-1"))
    with watched(cluster, "pods") as pods:
        cluster.up()
    told = [event for event in pods if event["object"]["metadata"]["uid"] == uid]
    reasons = {
        each.get("reason")
        for event in told
        for each in event["object"]["status"].get("conditions", [])
    }
    assert "EvictionByEvictionAPI" in reasons, reasons
    # Its kubelet ended it; nobody had to clean up after a machine that was gone.
    ended = told[-1]["object"]["status"]["containerStatuses"][0]["state"]
    assert told[-1]["type"] == "DELETED" and "terminated" in ended, told[-1]
    cluster.check(before, summary)


@pytest.mark.parametrize("what", ["replaced", "removed"] if EDITS else ["replaced"])
def test_a_budget_keeps_a_worker_as_it_is(
    cluster: Cluster, witness: tuple[Seen, str], what: str
) -> None:
    before, uid = witness
    cluster.lab.run(
        "kubectl", "create", "pdb", "keep", "--selector=witness=worker-1", "--min-available=1"
    )
    kept = cluster.lab.config

    def change(config: dict[str, Any]) -> None:
        raised("worker-1", drainTimeout=8)(config)
        if what == "removed":
            del config["autojoin:workers"]["worker-1"]

    summary = edit(cluster, change)
    said = cluster.up(fails=True)
    assert "worker-1 can't be drained in 8 s and keeps running as it is" in said, said
    assert "disruption budget" in said
    assert witnesses(cluster, "worker-1") == [uid]
    now = cluster.look()
    assert now.machines["worker-1"].boot == before.machines["worker-1"].boot
    assert not now.nodes["worker-1"]["spec"].get("unschedulable")
    cluster.kubectl("delete pdb keep")
    cluster.up()
    now = cluster.check(before, summary)
    if what == "removed":
        back = dict(kept["autojoin:workers"]["worker-1"], generation=90)
        summary = edit(
            cluster, lambda config: config["autojoin:workers"].update({"worker-1": back})
        )
        cluster.up()
        cluster.check(now, summary)


@pytest.fixture(scope="module")
def full(cluster: Cluster) -> Cluster:
    """The lab with all of the workers, and no others."""
    before = cluster.known_good()

    def grow(config: dict[str, Any]) -> None:
        workers = config["autojoin:workers"]
        like = {key: workers["worker-2"][key] for key in ("hardware", "image", "bridge")}
        for number, name in enumerate(ALL):
            address = f"{cluster.subnet}.{200 + number}"
            workers.setdefault(name, {**like, "address": address, "generation": 100})
        for name in set(workers) - set(ALL):
            del workers[name]

    summary = edit(cluster, grow)
    cluster.up()
    cluster.check(before, summary)
    return cluster


@pytest.mark.parametrize("most", [1, 2] if EDITS else [1])
def test_of_all_no_more_than_so_many_are_down(full: Cluster, most: int) -> None:
    before = full.known_good()
    summary = edit(full, raised(*ALL, maxUnavailable=most))
    with watched(full, "nodes") as nodes:
        full.up()
    assert most_down(nodes, ALL) == most
    full.check(before, summary)


def test_a_node_that_does_not_come_back_stops_the_rest(full: Cluster) -> None:
    before = full.known_good()
    full.lab.edit(lambda config: [it.update(joinTimeout=20) for it in workers(config)])
    summary = edit(full, raised(*ALL))
    full.lab.on_authority("systemctl stop cfssl")
    with watched(full, "nodes") as nodes:
        said = full.up(fails=True)
    full.lab.on_authority("systemctl start cfssl")
    assert most_down(nodes, ALL) == 1
    assert "did not join: phase certificate" in said and "the rollout stopped" in said, said
    full.up()
    full.check(before, summary)


def workers(config: dict[str, Any]) -> list[dict[str, Any]]:
    return list(config["autojoin:workers"].values())


# --- from one minor version of Kubernetes to the next -----------------------------------------

IMAGES = {
    PREVIOUS_KUBERNETES_VERSION: f"/var/lib/autojoin/layers/worker-previous:{facts.IMAGE}",
    KUBERNETES_VERSION: facts.WORKER_IMAGE,
}
# The one that installs its kubelet follows by itself; of the others the image is named.
THREE, FOLLOWS = ("worker-1", "worker-2", "worker-3"), "worker-3"


def of_version(version: str) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["autojoin:cluster"]["kubernetesVersion"] = version
        for name, worker in config["autojoin:workers"].items():
            if name != FOLLOWS:
                worker["image"] = IMAGES[version]

    return change


@pytest.fixture
def of_the_minor_before(cluster: Cluster) -> Iterator[Seen]:
    """Three workers with kubelets of the minor release before, and a budget for the example."""
    before = cluster.known_good()
    mirrors.serve(cluster.lab)

    def three(config: dict[str, Any]) -> None:
        for name in set(config["autojoin:workers"]) - set(THREE):
            del config["autojoin:workers"][name]
        config["autojoin:rollout"] = {}
        for worker in workers(config):
            worker.pop("joinTimeout", None)
        mirrors.make_plain(config, FOLLOWS)
        of_version(PREVIOUS_KUBERNETES_VERSION)(config)

    summary = edit(cluster, three)
    cluster.up()
    now = cluster.check(before, summary)
    cluster.lab.run(
        "kubectl", "create", "pdb", "example", "--selector=app=example", "--min-available=1"
    )
    yield now
    cluster.kubectl("delete poddisruptionbudget example")


@pytest.mark.skipif(not EDITS, reason="one of all edits of day two, which run with EDITS")
def test_from_one_minor_version_to_the_next(cluster: Cluster, of_the_minor_before: Seen) -> None:
    before = of_the_minor_before
    assert kubelets(before) == {name: f"v{PREVIOUS_KUBERNETES_VERSION}" for name in THREE}
    summary = edit(
        cluster,
        lambda config: config["autojoin:cluster"].update(kubernetesVersion=KUBERNETES_VERSION),
    )
    assert list(summary.nodes["re-provisioned"]) == [FOLLOWS]
    assert sorted(summary.nodes["kubelet not changed"]) == ["worker-1", "worker-2"]
    summary = edit(cluster, of_version(KUBERNETES_VERSION))
    assert sorted(summary.nodes["re-provisioned"]) == list(THREE)
    with watched(cluster, "nodes") as nodes, watched(cluster, "deployments") as deployments:
        cluster.up()
    assert most_down(nodes, THREE) == 1
    assert fewest_available(deployments, "example") >= 1
    now = cluster.check(before, summary)
    assert kubelets(now) == {name: f"v{KUBERNETES_VERSION}" for name in THREE}


def kubelets(seen: Seen) -> dict[str, str]:
    """The version of each node's kubelet, as it tells it."""
    return {name: it["status"]["nodeInfo"]["kubeletVersion"] for name, it in seen.nodes.items()}


def fewest_available(events: list[Event], name: str) -> int:
    """The fewest replicas of a Deployment that were available at one moment."""
    seen = [each["object"] for each in events if each["object"]["metadata"]["name"] == name]
    assert seen
    return min(int(each["status"].get("availableReplicas", 0)) for each in seen)
