"""What is said of the cluster, by Cilium's real operator on a real API server.

The operator runs from the ConfigMap that the chart renders for the post's lab, as in the dev lab.
The tests follow each other in one cluster; each leaves it as it found it.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import bgp_status
from components import from_lab
from components.bgp import resources as bgp
from components.cilium import values as cilium
from components.cilium.status import READ, Finding, findings
from tests.unit.components.bgp.bgp_examples import lab
from tests.unit.components.cilium.crds import await_crds
from tests.unit.tools.plugins.kubernetes_server import ApiServer, free_port, tool
from tools.pins import KUBERNETES_VERSION, Layout

LAB = lab()
NODES = ("bhyve-1", "rk1-1")
SECONDS = 90
Change = Callable[[dict[str, Any]], None]
# There is no agent here, and that is told.
SILENT = (
    "problem: CiliumBGPClusterConfig cilium-bgp: the agent of bhyve-1, rk1-1 has told of no "
    "session; does it run?"
)


def resources() -> list[dict[str, Any]]:
    assert LAB.bgp
    return bgp.custom_resources(LAB.cilium.version, LAB.bgp)


@dataclass
class Cluster:
    folder: Path
    server: ApiServer

    def kubectl(self, *words: str, stdin: Any = None) -> str:
        command = ["kubectl", "--kubeconfig", str(self.server.kubeconfig), *words]
        text = None if stdin is None else json.dumps(stdin)
        answer = subprocess.run(command, input=text, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr + self.log()
        return answer.stdout

    def apply(self, *items: dict[str, Any]) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": list(items)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=document)

    def log(self) -> str:
        return (self.folder / "operator.log").read_text()[-3000:]

    def read(self) -> list[Finding]:
        return bgp_status.read(str(self.server.kubeconfig))

    def until(self, fits: Callable[[list[str]], bool]) -> list[str]:
        """The lines of the status, once they are as wanted."""
        deadline = time.monotonic() + SECONDS
        while True:
            lines = bgp_status.shown(self.read())
            if fits(lines):
                return lines
            assert time.monotonic() < deadline, "\n".join([*lines, self.log()])
            time.sleep(0.5)


def chart() -> dict[tuple[str, str], dict[str, Any]]:
    """What the chart renders for the lab, by kind and name."""
    folder = str(Layout().test_file("cilium-chart-1.18"))
    command = ["helm", "template", "cilium", folder, "--namespace", "kube-system", "-f", "-"]
    command += ["--kube-version", KUBERNETES_VERSION]
    missing = frozenset(("gatewayApi", "serviceMonitors", "dashboards"))
    values = json.dumps(cilium.helm_values(from_lab.cilium(LAB, missing)))
    text = subprocess.run(command, input=values, capture_output=True, text=True, check=True).stdout
    objects = [item for item in yaml.safe_load_all(text) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("status")
    server = ApiServer(folder)
    processes = []
    try:
        server.start()
        made = Cluster(folder, server)
        rendered = chart()
        processes.append(start_operator(made, rendered["ConfigMap", "cilium-config"]["data"]))
        await_kinds(made)
        made.apply(rendered["Service", "cilium-ingress"], *(node(name) for name in NODES))
        yield made
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        server.stop()


def start_operator(cluster: Cluster, config: dict[str, str]) -> subprocess.Popen[bytes]:
    own = {
        "operator-api-serve-addr": f"127.0.0.1:{free_port()}",
        "operator-prometheus-serve-addr": f"127.0.0.1:{free_port()}",
    }
    folder = cluster.folder / "config"
    folder.mkdir()
    for name, value in {**config, **own}.items():
        (folder / name).write_text(value)
    command = [tool("cilium-operator-generic"), f"--config-dir={folder}", "--enable-gops=false"]
    command += [f"--k8s-kubeconfig-path={cluster.server.kubeconfig}"]
    environment = {**os.environ, "K8S_NODE_NAME": "here", "CILIUM_K8S_NAMESPACE": "kube-system"}
    log = (cluster.folder / "operator.log").open("wb")
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def await_kinds(cluster: Cluster) -> None:
    """The gate, as it stands in the graph, on what the real operator registers."""
    own = ("ciliumbgpnodeconfigs.cilium.io/v2", "ciliumnodes.cilium.io/v2")
    said = await_crds(cluster.server.kubeconfig, *bgp.definitions(resources()), *own)
    assert "6 CRDs Established" in said


def node(name: str) -> dict[str, Any]:
    """What a node's agent would make, of which there is none here."""
    facts = {"labels": {"bgp": "worker"}, "annotations": {"cilium.io/do-not-gc": "true"}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": name, **facts},
        "spec": {"addresses": [{"type": "InternalIP", "ip": LAB.workers[name].addresses[0]}]},
    }


def well(lines: list[str]) -> bool:
    return [line for line in lines if line.startswith("problem")] == [SILENT]


def test_before_its_resources_the_ingress_has_no_address(cluster: Cluster) -> None:
    lines = cluster.until(lambda lines: any("no address" in line for line in lines))
    assert lines[0].startswith("problem: Service kube-system/cilium-ingress: has no address: ")
    assert "pool" in lines[0]


def test_with_its_resources_all_is_well(cluster: Cluster) -> None:
    assert LAB.bgp
    for stage in bgp.stages(LAB.cilium.version, LAB.bgp):
        cluster.apply(*stage)
    lines = cluster.until(well)
    (ingress,) = (line for line in lines if "cilium-ingress" in line)
    assert ingress.startswith("Service kube-system/cilium-ingress: has 192.168.50.")
    assert "pool ippool: 253 of 256 addresses are free" in lines
    made = json.loads(cluster.kubectl("get", "ciliumbgpnodeconfigs", "-o", "json"))["items"]
    assert [item["metadata"]["name"] for item in made] == list(NODES)


def misname(spec: dict[str, Any]) -> None:
    spec["bgpInstances"][0]["peers"][0]["peerConfigRef"]["name"] = "cilium-pear"


def mislabel(spec: dict[str, Any]) -> None:
    spec["nodeSelector"]["matchLabels"]["bgp"] = "wroker"


def unselect(spec: dict[str, Any]) -> None:
    spec["families"][0]["advertisements"]["matchLabels"]["advertise"] = "bpg"


def lose_password(spec: dict[str, Any]) -> None:
    spec["authSecretRef"] = "no-such-secret"


@pytest.mark.parametrize(
    ("kind", "change", "problems"),
    [
        (
            "CiliumBGPClusterConfig",
            misname,
            [
                "problem: CiliumBGPClusterConfig cilium-bgp: names the peer config cilium-pear, "
                "which is not there: its peers get no routes"
            ],
        ),
        (
            "CiliumBGPClusterConfig",
            mislabel,
            [
                "problem: CiliumBGPClusterConfig cilium-bgp: no node matches its selector "
                "bgp=wroker, so nobody speaks BGP; label a node, or correct nodeSelector in "
                "autojoin:bgp"
            ],
        ),
        (
            "CiliumBGPPeerConfig",
            unselect,
            [
                "problem: CiliumBGPPeerConfig cilium-peer: its ipv4 routes select no "
                "advertisement, so none are sent",
                "problem: CiliumBGPAdvertisement bgp-advertisements: no peer config selects it, "
                "so it is sent to nobody",
            ],
        ),
        (
            "CiliumBGPPeerConfig",
            lose_password,
            [
                "problem: CiliumBGPPeerConfig cilium-peer: its password is in Secret "
                "no-such-secret, which is not there"
            ],
        ),
    ],
)
def test_a_mistake_is_named(
    cluster: Cluster, kind: str, change: Change, problems: list[str]
) -> None:
    (right,) = (item for item in resources() if item["kind"] == kind)
    wrong = copy.deepcopy(right)
    change(wrong["spec"])
    cluster.apply(wrong)
    try:
        cluster.until(lambda lines: lines[: len(problems)] == problems)
    finally:
        cluster.kubectl("replace", "-f", "-", stdin=right)
    cluster.until(well)


def test_an_overlapping_pool_is_named(cluster: Cluster) -> None:
    (pool,) = (item for item in resources() if item["kind"] == "CiliumLoadBalancerIPPool")
    second = copy.deepcopy(pool)
    second["metadata"]["name"] = "second"
    second["spec"]["blocks"] = [{"start": "192.168.50.200", "stop": "192.168.50.210"}]
    cluster.apply(second)
    start = "problem: pool second: gives out no addresses, it overlaps another pool: "
    lines = cluster.until(lambda lines: any(line.startswith(start) for line in lines))
    assert [line for line in lines if line.startswith(start) and "ippool" in line]
    cluster.kubectl("delete", "ciliumloadbalancerippools", "second")
    cluster.until(well)


def test_two_sets_of_nodes_that_overlap_are_named(cluster: Cluster) -> None:
    (right,) = (item for item in resources() if item["kind"] == "CiliumBGPClusterConfig")
    second = copy.deepcopy(right)
    second["metadata"]["name"] = "second"
    cluster.apply(second)
    text = "selects nodes that cilium-bgp selects too; only one of them is in effect there"
    wanted = f"problem: CiliumBGPClusterConfig second: {text}"
    lines = cluster.until(lambda lines: wanted in lines)
    assert [line for line in lines if "has told of no session" in line] == [SILENT]
    cluster.kubectl("delete", "ciliumbgpclusterconfigs", "second")
    cluster.until(well)


def test_everything_goes_without_waiting_for_anybody(cluster: Cluster) -> None:
    """No finalizer of Cilium's holds a resource, so a destroy in reverse order does not hang."""
    for item in reversed(resources()):
        name = f"{item['kind'].lower()}/{item['metadata']['name']}"
        cluster.kubectl("delete", name, "--timeout=20s")
    assert cluster.kubectl("get", "ciliumbgpclusterconfigs", "-o", "name") == ""


# --- what no operator here can bring about ----------------------------------------------------


def objects(**some: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {name: some.get(name, []) for name in READ}


def test_a_condition_of_the_spec_before_is_not_taken_for_all_well() -> None:
    """Right after an up that restarts the operator, its conditions are of what was there before."""
    condition = {"type": "cilium.io/NoMatchingNode", "status": "False", "observedGeneration": 1}
    item = {
        "metadata": {"name": "cilium-bgp", "generation": 2},
        "spec": {"nodeSelector": {"matchLabels": {"bgp": "wroker"}}},
        "status": {"conditions": [condition]},
    }
    (found,) = findings(objects(clusterConfigs=[item]))
    assert found.problem
    assert "has not looked at it since it changed" in found.text
    condition["observedGeneration"] = 2
    assert findings(objects(clusterConfigs=[item])) == []


def test_a_session_that_is_down_is_a_problem() -> None:
    """Sessions are reported by the agents."""
    peers = [
        {"name": "router", "peerAddress": "192.168.10.1", "peeringState": "active"},
        {
            "name": "second",
            "peerAddress": "192.168.10.3",
            "peeringState": "established",
            "establishedTime": "2026-11-28T12:00:00Z",
            "routeCount": [{"afi": "ipv4", "safi": "unicast", "advertised": 3, "received": 0}],
        },
    ]
    item = {"metadata": {"name": "w1"}, "status": {"bgpInstances": [{"peers": peers}]}}
    first, second = findings(objects(nodeConfigs=[item]))
    assert first.problem
    assert str(first).startswith("node w1, peer router (192.168.10.1): session is active; does")
    since = "since 2026-11-28T12:00:00Z, 3 routes sent"
    assert str(second) == f"node w1, peer second (192.168.10.3): session established {since}"


def test_a_pool_that_is_used_up_and_one_that_is_off() -> None:
    conditions = [
        {"type": f"cilium.io/{kind}", "status": "Unknown", "message": count}
        for kind, count in (("IPsTotal", "4"), ("IPsAvailable", "0"), ("IPsUsed", "4"))
    ]
    full = {"metadata": {"name": "full"}, "spec": {}, "status": {"conditions": conditions}}
    off = {"metadata": {"name": "off"}, "spec": {"disabled": True}}
    assert bgp_status.shown(findings(objects(pools=[off, full]))) == [
        "problem: pool full: all 4 addresses are in use; add a network to it",
        "pool off: is disabled, it gives out no more addresses",
    ]


def test_a_service_to_which_nobody_knows_the_way() -> None:
    """It has an address; that is no use while no session is up."""
    peers = [{"name": "router", "peerAddress": "192.168.10.1", "peeringState": "active"}]
    node = {"metadata": {"name": "w1"}, "status": {"bgpInstances": [{"peers": peers}]}}
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.168.50.1"}]}},
    }
    lines = bgp_status.shown(findings(objects(nodeConfigs=[node], services=[service])))
    wanted = "has 192.168.50.1, to which nobody knows the way: no session is established"
    assert f"problem: Service default/web: {wanted}" in lines
    peers[0]["peeringState"] = "established"
    lines = bgp_status.shown(findings(objects(nodeConfigs=[node], services=[service])))
    assert "Service default/web: has 192.168.50.1" in lines


def test_agents_and_dns_that_are_not_ready() -> None:
    agents = {"status": {"desiredNumberScheduled": 3, "numberReady": 2}}
    dns = {"spec": {"replicas": 2}, "status": {}}
    first, second = findings(objects(agents=[agents], dns=[dns]))
    assert first.problem
    assert str(first).startswith("Cilium's agents: 2 of 3 are ready; kubectl")
    assert second.problem
    assert "0 of 2 pods are ready, so no pod finds a Service by name" in str(second)


def test_services_of_others_are_left_alone() -> None:
    other = {
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.org/other"},
    }
    assert findings(objects(services=[other])) == []


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[2] / "stack" / "valid.yaml"
    assert bgp_status.main([str(file)]) == 2
    assert capsys.readouterr().err.startswith("autojoin: ")
