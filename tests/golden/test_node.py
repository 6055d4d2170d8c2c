"""The seeds of nodes, as they are written to a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from components.workers import cloud_init
from components.workers.seed import Cluster, Node
from tests.unit.components.examples import AUTHORITY_PEM

CLUSTER = Cluster(
    name="default-cluster",
    api_server="https://192.168.10.5:6443",
    kubernetes_version="1.34.2",
    pod_cidrs=("10.20.0.0/16",),
    service_cidrs=("10.30.0.0/16",),
    node_cidrs=("192.168.10.0/24", "fd00:10::/64"),
    dns_servers=("192.168.10.1",),
    gateways=("192.168.10.1",),
)
NODES = {
    "nspawn": (
        Node(
            name="worker-1",
            addresses=("192.168.10.11",),
            generation=1,
            identity="worker-1-g1-3f2a9c1d",
            labels={"bgp": "worker"},
            interface="host0",
        ),
        {"cgroupsPerQOS": False, "enforceNodeAllocatable": []},
    ),
    "by-mac": (
        Node(
            name="metal-1",
            addresses=("192.168.10.41", "fd00:10::41"),
            generation=3,
            identity="metal-1-g3-00112233",
            mac="a0:36:9f:00:00:41",
            labels={"bgp": "worker", "zone": "attic"},
            taints=("dedicated=storage:NoSchedule", "slow:PreferNoSchedule"),
        ),
        {},
    ),
    "ipv6": (
        Node(
            name="worker-6",
            addresses=("fd00:10::16",),
            generation=1,
            identity="worker-6-g1-66666666",
            interface="host0",
        ),
        {},
    ),
}
# Nothing of IPv4 is left, and its node's interface is set up by networkd.
IPV6 = dataclasses.replace(
    CLUSTER,
    api_server="https://[fd00:10::5]:6443",
    pod_cidrs=("fd00:20::/104",),
    service_cidrs=("fd00:30::/112",),
    node_cidrs=("fd00:10::/64",),
    dns_servers=("fd00:10::1",),
    gateways=("fd00:10::1",),
    cluster_dns="fd00:30::a",
)


@pytest.mark.parametrize("kind", sorted(NODES))
def test_seed(
    golden: Callable[[str, str], None], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The join script stands for itself in on_node/: here only its place is shown."""
    placeholder = tmp_path / "join.sh"
    placeholder.write_text("#!/bin/sh\n# render/files/join.sh\n")
    monkeypatch.setattr(cloud_init, "JOIN_SCRIPT", placeholder)
    node, overrides = NODES[kind]
    seed = cloud_init.seed(
        IPV6 if kind == "ipv6" else CLUSTER,
        node,
        authority_pem=AUTHORITY_PEM,
        gate_url="https://[fd00:10::2]:8443" if kind == "ipv6" else "https://192.168.10.2:8443",
        join_key="00" * 32,
        kubelet_overrides=overrides,
    )
    for name, text in seed.files().items():
        golden(f"node-{kind}/{name}", text)
