"""The chart's values, rendered by the real helm with the charts of every supported release."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from components.cilium import chart_keys
from components.cilium.values import CiliumSettings, helm_values, merge
from components.cilium.versions import VERSIONS, UnsupportedVersion, of
from tools.pins import KUBERNETES_VERSION, Layout

SETTINGS = CiliumSettings(
    version="1.18.4",
    cluster_name="home",
    api_host="192.168.10.5",
    api_port=6443,
    pod_cidrs=("10.20.0.0/16",),
    bgp=True,
    values={},
    gateway_api=False,
    service_monitors=False,
    dashboards=None,
)
EVERYTHING = dataclasses.replace(
    SETTINGS,
    pod_cidrs=("10.20.0.0/16", "fd00:20::/104"),
    gateway_api=True,
    service_monitors=True,
    dashboards="monitoring",
    taints=("dedicated=storage:NoSchedule", "slow:NoExecute", "slow:NoExecute"),
)


def settings(minor: str, base: CiliumSettings = SETTINGS) -> CiliumSettings:
    return dataclasses.replace(base, version=f"{minor}.0")


def rendered(settings: CiliumSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """What `helm template` makes of the values: kind and name to object."""
    chart = Layout().test_file(f"cilium-chart-{of(settings.version).minor}")
    command = ["helm", "template", "cilium", str(chart), "--namespace", "kube-system"]
    answer = subprocess.run(
        [*command, "--kube-version", KUBERNETES_VERSION, "--values", "-"],
        input=json.dumps(helm_values(settings)),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    objects = [item for item in yaml.safe_load_all(answer.stdout) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


@pytest.mark.parametrize("minor", VERSIONS)
def test_the_chart_takes_the_values(minor: str) -> None:
    objects = rendered(settings(minor))
    config = objects["ConfigMap", "cilium-config"]["data"]
    assert config["enable-bgp-control-plane"] == "true"
    assert config["cluster-name"] == "home"
    assert config["cluster-pool-ipv4-cidr"] == "10.20.0.0/16"
    assert config["kube-proxy-replacement"] == "true"
    assert config["bpf-lb-external-clusterip"] == "true"
    assert config["enable-ingress-controller"] == "true"
    assert config["ingress-default-lb-mode"] == "dedicated"
    assert ("kafka" in config["hubble-metrics"]) == (minor != "1.20")
    assert "enable-gateway-api" not in config or config["enable-gateway-api"] == "false"
    assert not [kind for kind, _ in objects if kind == "ServiceMonitor"]
    pod = objects["Deployment", "cilium-operator"]["spec"]["template"]["spec"]
    environment = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert environment["KUBERNETES_SERVICE_HOST"] == "192.168.10.5"
    assert environment["KUBERNETES_SERVICE_PORT"] == "6443"
    assert {"key": "node.kubernetes.io/not-ready", "operator": "Exists"} in pod["tolerations"]


@pytest.mark.parametrize("minor", VERSIONS)
def test_the_chart_takes_everything_switched_on(minor: str) -> None:
    objects = rendered(settings(minor, EVERYTHING))
    config = objects["ConfigMap", "cilium-config"]["data"]
    assert config["enable-gateway-api"] == "true"
    assert config["enable-ipv6"] == "true"
    assert config["cluster-pool-ipv6-cidr"] == "fd00:20::/104"
    assert ("GatewayClass", "cilium") in objects
    monitors = {name for kind, name in objects if kind == "ServiceMonitor"}
    assert {"cilium-agent", "cilium-operator", "hubble", "hubble-relay"} <= monitors
    boards = [
        item["metadata"]
        for (kind, _), item in objects.items()
        if kind == "ConfigMap" and item["metadata"].get("namespace") == "monitoring"
    ]
    assert boards
    assert {board["annotations"]["grafana_folder"] for board in boards} == {"Cilium"}
    dedicated = {
        "key": "dedicated",
        "operator": "Equal",
        "value": "storage",
        "effect": "NoSchedule",
    }
    slow = {"key": "slow", "operator": "Exists", "effect": "NoExecute"}
    for name in ("cilium-operator", "hubble-relay", "hubble-ui"):
        pod = objects["Deployment", name]["spec"]["template"]["spec"]
        assert [pod["tolerations"].count(each) for each in (dedicated, slow)] == [1, 1], name


@pytest.mark.parametrize("minor", VERSIONS)
def test_every_value_is_one_of_the_charts(minor: str) -> None:
    """The chart takes an unknown key, and does nothing with it."""
    for base in (SETTINGS, EVERYTHING):
        values = helm_values(settings(minor, base))
        assert list(chart_keys.problems(values, chart_keys.of_release(minor), "values")) == []


def test_without_bgp_its_control_plane_is_off() -> None:
    objects = rendered(dataclasses.replace(SETTINGS, bgp=False))
    assert "enable-bgp-control-plane" not in objects["ConfigMap", "cilium-config"]["data"]


@pytest.mark.parametrize("minor", VERSIONS)
def test_who_reads_a_configuration_starts_anew_with_it(minor: str) -> None:
    """A running operator registered no CRDs of BGP that was switched on later."""
    with_bgp, without = (
        rendered(settings(minor, dataclasses.replace(EVERYTHING, bgp=bgp))) for bgp in (True, False)
    )
    configurations = {name for kind, name in with_bgp if kind == "ConfigMap"}
    readers: dict[str, set[str]] = {}
    for (kind, name), item in with_bgp.items():
        if kind in ("DaemonSet", "Deployment"):
            read = configurations & set(names_of_configurations(item["spec"]["template"]["spec"]))
            annotations = item["spec"]["template"]["metadata"].get("annotations", {})
            sums = [key for key in annotations if key.endswith("configmap-checksum")]
            assert bool(read) == bool(sums), name
            readers |= {each: readers.get(each, set()) | {name} for each in read}
            differs = item["spec"]["template"] != without[kind, name]["spec"]["template"]
            assert differs == ("cilium-config" in read), name
    assert readers["cilium-config"] == {"cilium", "cilium-operator"}
    assert {"cilium-envoy-config", "hubble-relay-config", "hubble-ui-nginx"} <= readers.keys()


def names_of_configurations(pod: Any) -> Iterator[str]:
    """Of each ConfigMap that a pod names, wherever."""
    if isinstance(pod, list):
        for each in pod:
            yield from names_of_configurations(each)
    elif isinstance(pod, dict):
        for key, each in pod.items():
            if key in ("configMap", "configMapRef", "configMapKeyRef"):
                yield each["name"]
            yield from names_of_configurations(each)


def test_the_users_values_have_the_last_word() -> None:
    user = {"operator": {"replicas": 2}, "hubble": {"enabled": False}}
    values = helm_values(dataclasses.replace(SETTINGS, values=user))
    assert values["operator"]["replicas"] == 2
    assert values["operator"]["prometheus"]["enabled"] is True
    assert values["hubble"]["enabled"] is False


@pytest.mark.parametrize("version", ["1.16.9", "1.21.0", "2.0.0"])
def test_an_unsupported_release_is_named(version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=rf"{version} is not supported; .* 1\.19, 1\.20"):
        of(version)


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({}, {"a": {"b": 2}}, {"a": {"b": 2}}),
    ],
)
def test_merge(under: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    before = json.dumps(under)
    assert merge(under, over) == merged
    assert json.dumps(under) == before
