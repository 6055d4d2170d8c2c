"""What `mode: auto` finds in a real API server, and what is kept where it says nothing.

The tests follow each other on one stack. The API server is stopped (SIGSTOP), so that it takes
connections and never answers, as one does whose machine swaps or whose etcd is lost.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.components.bgp import bgp_examples
from tests.unit.tools.plugins.kubernetes_server import ApiServer, running
from tests.unit.tools.plugins.plugin_engine import Project
from tools.pins import CHECKOUT, Layout

PROGRAM = """
import json
import sys
from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

sys.path.insert(0, {checkout!r})
from components import from_lab, interrupt
from components.cilium.component import Cilium, CiliumArgs, kubeconfig
from components.load import from_values

lab = from_values(json.loads(Path("lab.json").read_text()))
provider = kubernetes.Provider("cluster", kubeconfig=kubeconfig(lab.cluster))
args = CiliumArgs(lab.cluster, lab.cilium, False, from_lab.taints(lab))
Cilium("cilium", args, pulumi.ResourceOptions(provider=provider))
"""
Values = dict[str, Any]
# Of the chart's values, what needs something that the cluster here has.
FEATURES = (
    "gatewayAPI.enabled",
    "prometheus.serviceMonitor.enabled",
    "operator.prometheus.serviceMonitor.enabled",
    "hubble.metrics.serviceMonitor.enabled",
    "hubble.relay.prometheus.serviceMonitor.enabled",
    "hubble.metrics.dashboards.enabled",
)


@dataclass
class Cluster:
    """An API server, and a stack with Cilium's release on it."""

    server: ApiServer
    project: Project
    values: Values = field(default_factory=dict)

    def run(self, *words: str, fails: bool = False) -> str:
        self._write()
        return self.project.run(*words, fails=fails)

    def up(self, fails: bool = False) -> str:
        return self.run("up", "--yes", "--skip-preview", fails=fails)

    def steps(self) -> dict[str, str]:
        self._write()
        return self.project.steps()

    def _write(self) -> None:
        (self.project.folder / "lab.json").write_text(json.dumps(self.values))

    def released(self) -> Values:
        """The values of the newest release, as Helm itself remembers them."""
        secrets = self.server.get("secrets", "--namespace=kube-system", "--selector=owner=helm")
        assert secrets is not None
        newest = max(secrets["items"], key=lambda each: int(each["metadata"]["labels"]["version"]))
        packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
        found: Values = json.loads(gzip.decompress(packed))["config"]
        return found

    def features(self) -> dict[str, bool]:
        found = {}
        for path in FEATURES:
            value: Any = self.released()
            for key in path.split("."):
                value = value[key]
            found[path] = value
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running(folder) as server:
        for name in ("gateway-api-1.2-crds", "servicemonitor-crd"):
            where = f"--filename={Layout().test_file(name)}"
            server.kubectl("apply", "--server-side", "--recursive", where)
        server.kubectl("create", "namespace", "monitoring")
        project = Project(folder / "project")
        project.program(PROGRAM.format(checkout=str(CHECKOUT)))
        values = copy.deepcopy(bgp_examples.POST)
        values["cluster"] |= {"apiServer": server.url, "kubeconfig": str(server.kubeconfig)}
        chart = Layout().test_file("cilium-chart-1.18")
        values["cilium"] = {"version": "1.18.4", "chart": str(chart)}
        yield Cluster(server, project, values)


def debugged(cluster: Cluster, on: bool) -> None:
    cluster.values["cilium"]["values"] = {"debug": {"enabled": on}}


def test_a_new_release_is_not_made_while_nobody_can_be_asked(cluster: Cluster) -> None:
    with cluster.server.silent():
        told = cluster.run("preview")
        assert "gatewayApi, serviceMonitors, dashboards stay as they are" in told, told
        told = cluster.up(fails=True)
    assert "the cluster can't be asked" in told and "run this again" in told, told
    assert "Traceback" not in told
    cluster.up()
    assert set(cluster.features().values()) == {True}


def test_an_unchanged_stack_is_unchanged_in_preview_and_up(cluster: Cluster) -> None:
    with cluster.server.silent():
        assert cluster.steps() == {}
        told = cluster.run("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert "stay as they are" in told


def test_an_edit_keeps_what_could_not_be_asked(cluster: Cluster) -> None:
    debugged(cluster, True)
    with cluster.server.silent():
        text = cluster.run("preview", "--diff")
        assert "debug" in text
        assert "gatewayAPI" not in text.partition("debug")[2], text
        told = cluster.up(fails=True)
    assert "the cluster can't be asked" in told and "run this again" in told, told
    assert "debug" not in cluster.released()
    cluster.up()
    assert cluster.released()["debug"] == {"enabled": True}
    assert set(cluster.features().values()) == {True}
    assert cluster.steps() == {}


def test_a_user_who_took_a_section_away_is_not_in_the_way(cluster: Cluster) -> None:
    """The engine refuses to keep a path that the values do not have."""
    cluster.values["cilium"]["values"] = {"prometheus": None}
    with cluster.server.silent():
        assert cluster.steps() == {"cilium-release": "update"}
    debugged(cluster, True)


def test_what_is_decided_needs_no_answer(cluster: Cluster) -> None:
    modes = ("gatewayApi", "serviceMonitors", "dashboards")
    before = copy.deepcopy(cluster.values["cilium"])
    cluster.values["cilium"] |= {section: {"mode": "off"} for section in modes}
    with cluster.server.silent():
        assert cluster.steps() == {"cilium-release": "update"}
        assert "can't be asked" not in cluster.run("preview")
    cluster.values["cilium"] = before


def test_what_really_went_is_switched_off(cluster: Cluster) -> None:
    """Silence is no answer; "not there" is one."""
    cluster.server.kubectl("delete", "crd", "httproutes.gateway.networking.k8s.io")
    assert "gatewayApi off: no CRD httproutes" in cluster.up()
    features = cluster.features()
    assert not features.pop("gatewayAPI.enabled")
    assert set(features.values()) == {True}
