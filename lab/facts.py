"""What a stack's configuration needs to know of the lab, running or not."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from lab import pki
from lab.place import Place, lock
from tools.pins import Layout

BRIDGE = "br0"
IMAGE = "/var/lib/autojoin/image"  # paths in the hypervisor; the topmost folder comes first
WORKER_IMAGE = f"/var/lib/autojoin/layers/worker:{IMAGE}"
AUTHORITY_IMAGE = f"/var/lib/autojoin/layers/ca:{IMAGE}"


@dataclass(frozen=True)
class LabFacts:
    """Addresses, host keys (`ssh-ed25519 AAAA…`) and paths; the paths are on this machine."""

    subnet: IPv4Network
    api_server: str
    kubeconfig: Path
    ca_address: IPv4Address
    ca_host_key: str
    hypervisor_address: IPv4Address
    hypervisor_host_key: str
    private_key_file: Path
    chart: Path
    worker_image: str = WORKER_IMAGE
    bridge: str = BRIDGE


def prepare(place: Place) -> LabFacts:
    """Make the lab's keys and certificates where they are missing; starts nothing."""
    with lock(place.root):
        pki.ensure(place)
    return describe(place)


def describe(place: Place) -> LabFacts:
    """The facts of a prepared lab."""
    return LabFacts(
        subnet=place.network,
        api_server=place.api_server,
        kubeconfig=place.state / "kubeconfig",
        ca_address=place.authority_address,
        ca_host_key=pki.ssh_public_key(place, "authority-host"),
        hypervisor_address=place.hypervisor_address,
        hypervisor_host_key=pki.ssh_public_key(place, "hypervisor-host"),
        private_key_file=pki.ssh_private_key_path(place),
        chart=Layout().chart,
    )
