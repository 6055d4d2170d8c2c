"""Cilium's release and its custom resources by `pulumi up`, on a real API server that has the CRDs.

The tests follow each other on one stack, by the program's own components and whichever kubernetes
plugin is installed. No operator runs: what it would register is put there from Cilium's module.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands.preview import UNANSWERED
from components.bgp import resources as bgp
from components.cilium import checks
from components.load import from_values
from stack.models import Lab
from tests.unit.components.bgp import bgp_examples
from tests.unit.tools.plugins.kubernetes_server import ApiServer
from tests.unit.tools.plugins.plugin_engine import Project
from tools.pins import CHECKOUT, Layout

pytestmark = pytest.mark.full

CHARTS = {"1.17.0": "1.17", "1.18.4": "1.18", "1.20.2": "1.20"}
FINALIZER = "example.org/not-yet"
PROGRAM = """
import json
import sys
from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

sys.path.insert(0, {checkout!r})
from components import interrupt
from components.bgp.component import Bgp, BgpArgs
from components.cilium.component import Cilium, CiliumArgs, kubeconfig
from components.load import from_values

lab = from_values(json.loads(Path("lab.json").read_text()))
provider = kubernetes.Provider("cluster", kubeconfig=kubeconfig(lab.cluster))
there = pulumi.ResourceOptions(provider=provider)
cilium = Cilium("cilium", CiliumArgs(lab.cluster, lab.cilium, True), there)
Bgp("bgp", BgpArgs(lab.bgp, cilium), there)
"""
Values = dict[str, Any]


@dataclass
class Cluster:
    """The stack, and the API server that it works on. `values` are what the next run is given."""

    server: ApiServer
    project: Project
    values: Values = field(default_factory=dict)
    registered: str = ""

    def run(self, version: str, *words: str, fails: bool = False) -> str:
        """One run of the engine with Cilium of `version`, on whose CRDs an operator would wait."""
        self.values["cilium"]["version"] = version
        chart = Layout().test_file(f"cilium-chart-{CHARTS[version]}")
        self.values["cilium"]["chart"] = str(chart)
        (self.project.folder / "lab.json").write_text(json.dumps(self.values))
        if words[0] == "up":
            self.register(version)
        return self.project.run(*words, fails=fails)

    def up(self, version: str) -> str:
        return self.run(version, "up", "--yes", "--skip-preview")

    def steps(self, version: str) -> dict[str, str]:
        self.run(version, "stack", "ls")
        return self.project.steps()

    def register(self, version: str) -> None:
        """As an operator does: one of an older release leaves newer CRDs as they are."""
        if version < self.registered:
            return
        self.registered = version
        folder = Layout().test_file(f"cilium-crds-{CHARTS[version]}")
        words = ("--server-side", "--force-conflicts", "--recursive", f"--filename={folder}")
        self.server.kubectl("apply", *words)

    def lab(self) -> Lab:
        return from_values(copy.deepcopy(self.values))

    def wanted(self) -> list[Values]:
        lab = self.lab()
        assert lab.bgp
        return bgp.custom_resources(lab.cilium.version, lab.bgp)

    def live(self, item: Values) -> Values:
        """A custom resource as the API server has it under the version that it was made with."""
        group, _, version = item["apiVersion"].partition("/")
        kind = f"{bgp.PLURALS[item['kind']]}.{version}.{group}"
        found = self.server.get(kind, item["metadata"]["name"])
        assert found is not None, f"{item['kind']} {item['metadata']['name']} is gone"
        return found

    def identities(self) -> dict[tuple[str, str], str]:
        return {
            (item["kind"], item["metadata"]["name"]): self.live(item)["metadata"]["uid"]
            for item in self.wanted()
        }

    def release(self) -> Values:
        """The release as Helm itself remembers it."""
        secrets = self.server.get("secrets", "--namespace=kube-system", "--selector=owner=helm")
        assert secrets is not None
        newest = max(secrets["items"], key=lambda each: int(each["metadata"]["labels"]["version"]))
        packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
        found: Values = json.loads(gzip.decompress(packed))
        return found


def full_values(version: str, kubeconfig: Path, server: str) -> Values:
    """Every kind of resource and every key that the oldest release can take too."""
    values = copy.deepcopy(bgp_examples.POST)
    values["bgp"] = copy.deepcopy(bgp_examples.EVERY_KEY)
    section = values["bgp"]
    del section["port"], section["overrides"][0]["localAsn"]
    del section["advertise"]["aggregationLengthIpv4"], section["advertise"]["aggregationLengthIpv6"]
    values["workers"]["metal-1"]["labels"] = {"bgp": "storage"}
    values["cluster"] |= {
        "apiServer": server,
        "kubeconfig": str(kubeconfig),
        "podCidrs": ["10.20.0.0/16", "fd00:20::/104"],
        "serviceCidrs": ["10.30.0.0/16", "fd00:30::/112"],
        "nodeCidrs": ["192.168.10.0/24", "fd00:10::/64"],
    }
    off = {key: {"mode": "off"} for key in ("gatewayApi", "serviceMonitors", "dashboards")}
    values["cilium"] = {"version": version, "values": {"debug": {"enabled": True}}, **off}
    return values


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    server = ApiServer(folder)
    try:
        server.start()
        server.start_controller_manager()
        project = Project(folder / "project")
        project.program(PROGRAM.format(checkout=str(CHECKOUT)))
        # Kept apart, so that a test can put another server in its place.
        kubeconfig = folder / "used-kubeconfig"
        kubeconfig.write_text(server.kubeconfig.read_text())
        yield Cluster(server, project, full_values("1.17.0", kubeconfig, server.url))
    finally:
        server.stop()


def test_everything_is_made_as_it_is_rendered(cluster: Cluster) -> None:
    steps = cluster.steps("1.17.0")
    assert set(steps.values()) == {"create"}
    cluster.up("1.17.0")
    assert {item["kind"] for item in cluster.wanted()} == set(bgp.PLURALS)
    for item in cluster.wanted():
        assert missing(item["spec"], cluster.live(item)["spec"]) == []
    assert cluster.release()["info"]["status"] == "deployed"
    unchanged(cluster, "1.17.0")
    cluster.run("1.17.0", "refresh", "--yes", "--skip-preview", "--expect-no-changes")


def unchanged(cluster: Cluster, version: str) -> None:
    """A second preview finds nothing to do, and nothing to warn of."""
    assert "warning" not in cluster.run(version, "preview", "--expect-no-changes").lower()


def missing(given: Any, live: Any, path: str = "spec") -> list[str]:
    """Paths of `given` that `live` has not, or otherwise; what defaulting adds is fine."""
    if isinstance(given, dict) and isinstance(live, dict):
        return [
            each
            for name, value in given.items()
            for each in missing(value, live.get(name), f"{path}.{name}")
        ]
    if isinstance(given, list) and isinstance(live, list) and len(given) == len(live):
        pairs = enumerate(zip(given, live, strict=True))
        return [each for at, pair in pairs for each in missing(*pair, f"{path}[{at}]")]
    return [] if given == live else [path]


def test_objects_that_had_names_without_a_prefix_are_the_same_ones(cluster: Cluster) -> None:
    """In states of before."""
    state = cluster.project.state()
    file = cluster.project.folder / "state.json"
    file.write_text(state.replace("::bgp-", "::"))
    assert file.read_text() != state
    cluster.project.run("stack", "import", "--file", str(file))
    steps = cluster.steps("1.17.0")
    objects = {item["metadata"]["name"] for item in cluster.wanted()}
    objects |= set(bgp.passwords(cluster.lab().bgp))  # type: ignore[arg-type]
    assert not {steps.get(f"{prefix}{name}") for name in objects for prefix in ("", "bgp-")} & {
        "create", "delete", "replace"}  # fmt: skip
    file.write_text(state)
    cluster.project.run("stack", "import", "--file", str(file))


# Each of the versions, one that another API version follows, and back.
@pytest.mark.parametrize("version", ["1.18.4", "1.17.0", "1.18.4"])
def test_another_api_version_of_the_same_objects_is_an_update(
    cluster: Cluster, version: str
) -> None:
    """Else they are made under the new version and then deleted under the old one: all gone."""
    before = cluster.identities()
    old = {item["apiVersion"] for item in cluster.wanted()}
    steps = cluster.steps(version)
    assert {item["apiVersion"] for item in cluster.wanted()}.isdisjoint(old)
    of_cilium = {name for _, name in before}
    assert {steps[f"bgp-{name}"] for name in of_cilium} == {"update"}
    cluster.up(version)
    assert cluster.identities() == before
    for item in cluster.wanted():
        assert missing(item["spec"], cluster.live(item)["spec"]) == []
    unchanged(cluster, version)
    assert cluster.identities() == before


def asn(values: Values) -> None:
    values["bgp"]["localAsn"] = 65020
    values["bgp"]["overrides"][0]["instance"] = "instance-65020"


def hold_time(values: Values) -> None:
    values["bgp"]["peers"][0]["holdTime"] = 30


def communities(values: Values) -> None:
    values["bgp"]["communities"] = ["65000:98"]


def router(values: Values) -> None:
    values["bgp"]["overrides"][1]["routerId"] = "192.168.10.42"


def pool(values: Values) -> None:
    values["bgp"]["loadBalancerPools"][0]["cidrs"].append("192.168.51.0/24")


CHANGES = {
    "CiliumBGPClusterConfig": asn,
    "CiliumBGPPeerConfig": hold_time,
    "CiliumBGPAdvertisement": communities,
    "CiliumBGPNodeConfigOverride": router,
    "CiliumLoadBalancerIPPool": pool,
}


def test_a_change_of_each_kind_reaches_the_cluster_in_place(cluster: Cluster) -> None:
    before, identities = specs(cluster), cluster.identities()
    for change in CHANGES.values():
        change(cluster.values)
    wanted = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in cluster.wanted()}
    changed = {key for key in wanted.keys() & before if missing(wanted[key], before[key])}
    assert {kind for kind, _ in changed} == set(bgp.PLURALS) == set(CHANGES)
    steps = cluster.steps("1.18.4")
    assert {steps.get(f"bgp-{name}") for _, name in changed} == {"update"}
    cluster.up("1.18.4")
    for item in cluster.wanted():
        assert missing(item["spec"], cluster.live(item)["spec"]) == []
    after = cluster.identities()
    assert {after[key] for key in changed} == {identities[key] for key in changed}
    unchanged(cluster, "1.18.4")


def specs(cluster: Cluster) -> dict[tuple[str, str], Values]:
    return {
        (item["kind"], item["metadata"]["name"]): cluster.live(item)["spec"]
        for item in cluster.wanted()
    }


def test_a_password_that_changes_is_another_secret(cluster: Cluster) -> None:
    cluster.values["bgp"]["peers"][0]["password"] = "battery-staple"
    name = next(iter(bgp.passwords(cluster.lab().bgp)))  # type: ignore[arg-type]
    assert "replace" in cluster.steps("1.18.4")[f"bgp-{name}"]
    cluster.up("1.18.4")
    secret = cluster.server.get("secret", name, f"--namespace={bgp.BGP_SECRETS_NAMESPACE}")
    assert secret is not None
    assert base64.b64decode(secret["data"][bgp.PASSWORD_KEY]) == b"battery-staple"
    assert "battery-staple" not in cluster.project.state()
    unchanged(cluster, "1.18.4")


def test_values_reach_helm_but_nulls_do_not(cluster: Cluster) -> None:
    """The plugin drops nulls, whatever `allowNullValues` says: `make check` warns of each."""
    values = {"debug": {"enabled": False}, "operator": {"updateStrategy": {"rollingUpdate": None}}}
    cluster.values["cilium"]["values"] = values
    assert cluster.steps("1.18.4") == {"cilium-release": "update"}
    cluster.up("1.18.4")
    given = cluster.release()["config"]
    assert given["debug"] == {"enabled": False}
    assert given["operator"]["updateStrategy"] == {}
    (warning,) = checks.warnings(cluster.lab())
    assert warning.key == "autojoin:cilium.values.operator.updateStrategy.rollingUpdate"
    unchanged(cluster, "1.18.4")


def test_what_somebody_deleted_or_changed_is_found_by_a_refresh(cluster: Cluster) -> None:
    cluster.server.kubectl("delete", "ciliumloadbalancerippool", "ippool")
    patch = json.dumps({"spec": {"disabled": False}})
    cluster.server.kubectl(
        "patch", "ciliumloadbalancerippool", "public", "--type=merge", f"--patch={patch}"
    )
    cluster.run("1.18.4", "refresh", "--yes", "--skip-preview")
    assert cluster.steps("1.18.4") == {"bgp-ippool": "create", "bgp-public": "update"}
    cluster.up("1.18.4")
    for item in cluster.wanted():
        assert missing(item["spec"], cluster.live(item)["spec"]) == []
    assert cluster.steps("1.18.4") == {}


def nobody(port: int) -> Callable[[], None]:
    return lambda: None


def silent(port: int) -> Callable[[], None]:
    """Takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", port))
    return listener.close


@pytest.mark.parametrize("answering", [nobody, silent])
def test_a_preview_without_an_api_server_shows_the_same_edit(
    cluster: Cluster,
    answering: Callable[[int], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools = cluster.values["bgp"]["loadBalancerPools"]
    pools[0]["cidrs"].append("192.168.52.0/24")
    kubeconfig = Path(cluster.values["cluster"]["kubeconfig"])
    text = kubeconfig.read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop = answering(port)
    kubeconfig.write_text(text.replace(f":{cluster.server.port}", f":{port}"))
    # As `make preview` bounds each answer, but sooner: there are thirty of them.
    monkeypatch.setenv(next(iter(UNANSWERED)), "1")
    try:
        assert cluster.steps("1.18.4") == {"bgp-ippool": "update"}
    finally:
        stop()
        kubeconfig.write_text(text)
        pools[0]["cidrs"].pop()


def test_a_destroy_waits_for_finalizers_and_leaves_nothing(cluster: Cluster) -> None:
    patch = json.dumps({"metadata": {"finalizers": [FINALIZER]}})
    where = ("ciliumloadbalancerippool", "ippool", "--type=merge")
    cluster.server.kubectl("patch", *where, f"--patch={patch}")
    lifted: list[float] = []

    def lift() -> None:
        while (
            "deletionTimestamp"
            not in (cluster.server.get(*where[:2]) or {"metadata": {}})["metadata"]
        ):
            time.sleep(0.2)
        time.sleep(2)
        lifted.append(time.monotonic())
        empty = json.dumps([{"op": "test", "path": "/metadata/finalizers/0", "value": FINALIZER},
                            {"op": "remove", "path": "/metadata/finalizers/0"}])  # fmt: skip
        cluster.server.kubectl("patch", *where[:2], "--type=json", f"--patch={empty}")

    helper = threading.Thread(target=lift, daemon=True)
    helper.start()
    wanted = cluster.wanted()
    cluster.run("1.18.4", "destroy", "--yes", "--skip-preview")
    assert lifted and lifted[0] < time.monotonic()
    for item in wanted:
        assert cluster.server.get(bgp.PLURALS[item["kind"]], item["metadata"]["name"]) is None
    left = cluster.server.get("secrets", "--namespace=kube-system", "--selector=owner=helm")
    assert left is None, "a release of Helm is left"
