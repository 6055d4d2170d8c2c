"""The chart's values, rendered by the real helm with the real chart."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from typing import Any

import pytest
import yaml

from lab.pins import KUBERNETES_VERSION, Layout
from render.cilium import CiliumSettings, helm_values, merge

SETTINGS = CiliumSettings(
    cluster_name="home",
    api_host="192.168.10.5",
    api_port=6443,
    pod_cidrs=("10.20.0.0/16",),
    bgp=True,
    values={},
)


def rendered(settings: CiliumSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """What `helm template` makes of the values: kind and name to object."""
    command = ["helm", "template", "cilium", str(Layout().chart), "--namespace", "kube-system"]
    command += ["--kube-version", KUBERNETES_VERSION]
    answer = subprocess.run(
        [*command, "--values", "-"],
        input=json.dumps(helm_values(settings)),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    objects = [item for item in yaml.safe_load_all(answer.stdout) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def test_the_chart_takes_the_values() -> None:
    objects = rendered(SETTINGS)
    config = objects["ConfigMap", "cilium-config"]["data"]
    assert config["enable-bgp-control-plane"] == "true"
    assert config["cluster-name"] == "home"
    assert config["cluster-pool-ipv4-cidr"] == "10.20.0.0/16"
    assert config["kube-proxy-replacement"] == "true"
    assert config["bpf-lb-external-clusterip"] == "true"
    pod = objects["Deployment", "cilium-operator"]["spec"]["template"]["spec"]
    assert {"operator": "Exists"} in pod["tolerations"]
    environment = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert environment["KUBERNETES_SERVICE_HOST"] == "192.168.10.5"
    assert environment["KUBERNETES_SERVICE_PORT"] == "6443"


def test_both_families() -> None:
    settings = dataclasses.replace(SETTINGS, pod_cidrs=("10.20.0.0/16", "fd00:20::/104"))
    config = rendered(settings)["ConfigMap", "cilium-config"]["data"]
    assert config["enable-ipv6"] == "true"
    assert config["cluster-pool-ipv6-cidr"] == "fd00:20::/104"


def test_without_bgp_its_control_plane_is_off() -> None:
    objects = rendered(dataclasses.replace(SETTINGS, bgp=False))
    assert "enable-bgp-control-plane" not in objects["ConfigMap", "cilium-config"]["data"]


def test_the_users_values_have_the_last_word() -> None:
    user = {"operator": {"replicas": 2}, "hubble": {"enabled": False}}
    values = helm_values(dataclasses.replace(SETTINGS, values=user))
    assert values["operator"] == {"replicas": 2, "tolerations": [{"operator": "Exists"}]}
    assert values["hubble"]["enabled"] is False


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
