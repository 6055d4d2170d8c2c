"""Stack configurations of any number of workers."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from lab import facts
from tools.pins import CHECKOUT, CILIUM_VERSION, KUBERNETES_VERSION

__all__ = ["CHECKOUT", "config", "worker_name"]

# A key that nobody holds: only its form matters where nothing is dialled.
_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPCbJ0Z0tZ2lQk3mJ1V0QvJc0f2q3c9K3w5m0o9b1aXx"
_NODES = ipaddress.ip_network("10.64.0.0/16")
_FIRST = 256


def worker_name(number: int) -> str:
    return f"node-{number:04d}"


def machine(address: str, generation: int = 1) -> dict[str, Any]:
    """A worker of the dev lab, as it stands in the stack file."""
    return {
        "hardware": "nspawn",
        "address": address,
        "generation": generation,
        "image": facts.WORKER_IMAGE,
        "bridge": facts.BRIDGE,
    }


def config(
    count: int,
    *,
    host: dict[str, Any] | None = None,
    api_server: str = "https://10.64.0.5:6443",
    kubeconfig: str = "/nowhere/kubeconfig",
    chart: Path | None = None,
) -> dict[str, Any]:
    """What stands under `config:` in the stack file of a lab with `count` nspawn workers."""
    host = host or {"address": "10.64.0.2", "hostKey": _HOST_KEY}
    return {
        "autojoin:cluster": {
            "name": "bench",
            "apiServer": api_server,
            "kubeconfig": kubeconfig,
            "kubernetesVersion": KUBERNETES_VERSION,
            "podCidrs": ["10.96.0.0/12"],
            "serviceCidrs": ["10.30.0.0/16"],
            "nodeCidrs": [str(_NODES)],
        },
        "autojoin:certificateAuthority": {
            "host": host,
            "platform": "linux",
            "source": "existing",
            "certificate": "/etc/kubernetes-ca/ca.pem",
            "key": "/etc/kubernetes-ca/ca-key.pem",
        },
        "autojoin:provisioning": {"hypervisor": host},
        "autojoin:cilium": {"version": CILIUM_VERSION, **({"chart": str(chart)} if chart else {})},
        # The bare program that it is measured against has none.
        "autojoin:dns": {"mode": "off"},
        "autojoin:bgp": {
            "localAsn": 65010,
            "peers": [{"name": "router", "address": "10.64.0.1", "asn": 65001}],
            "loadBalancerPools": [{"name": "ippool", "cidrs": ["192.168.50.0/24"]}],
        },
        "autojoin:workers": {
            worker_name(number): {
                "hardware": "nspawn",
                "address": str(_NODES[_FIRST + number]),
                "generation": 1,
                "image": "/var/lib/machines/worker",
            }
            for number in range(count)
        },
    }
