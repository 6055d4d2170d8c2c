"""What a node is made from: the facts of its cluster and of itself, and the seed they become."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from stack.models import Packages

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Registry:
    """Where the images of a registry come from; `name` is its host, or `default`."""

    name: str
    mirrors: tuple[str, ...] = ()
    fallback: bool = True
    authority_pem: str | None = None
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Cluster:
    """What a node needs to know of its cluster. Networks in CIDR notation."""

    name: str
    api_server: str
    kubernetes_version: str
    pod_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    node_cidrs: tuple[str, ...]
    dns_servers: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    # The CA of the API server's certificate, in PEM, where it is another one than the nodes'.
    api_server_authority: str | None = None
    cluster_dns: str | None = None
    sandbox_image: str = "registry.k8s.io/pause:3.10.1"
    registries: tuple[Registry, ...] = ()
    packages: Packages = field(default_factory=Packages)

    def network_of(self, address: str) -> Network | None:
        """The network of nodes that an address is in."""
        here = ipaddress.ip_address(address)
        networks = map(ipaddress.ip_network, self.node_cidrs)
        return next((network for network in networks if here in network), None)

    def is_on_link(self, gateway: str) -> bool:
        """Whether nodes reach a gateway on their link though it is in none of their networks."""
        address = ipaddress.ip_address(gateway)
        networks = [ipaddress.ip_network(cidr) for cidr in self.node_cidrs]
        return address.is_link_local or any(
            network.version == address.version and network.num_addresses == 1
            for network in networks
        )

    def gateway_of(self, address: str) -> str | None:
        """The gateway of the nodes in the network of `address`."""
        network = self.network_of(address)
        if network is None:
            return None
        inside = [gateway for gateway in self.gateways if ipaddress.ip_address(gateway) in network]
        others = [
            gateway
            for gateway in self.gateways
            if (found := ipaddress.ip_address(gateway)).version == network.version
            and self.network_of(gateway) is None
            and (found.is_link_local or network.num_addresses == 1)
        ]
        return next(iter(inside + others), None)


@dataclass(frozen=True)
class Node:
    """What a node needs to know of itself.

    `identity` names this node in this generation and becomes the instance-id. `taints` are written
    `key=value:Effect` or `key:Effect`. The network interface is found by `mac` where that is known,
    by the name `interface` (which may be a glob) otherwise. `plain` says that the image lacks
    container runtime and kubelet; `packages` are what it needs besides them. `grow_root` lets the
    root file system fill its disk. `extra_user_data` is the user's own.
    """

    name: str
    addresses: tuple[str, ...]
    generation: int
    identity: str
    mac: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    interface: str = ""
    node_key: str = "ecdsa-p256"
    plain: bool = False
    packages: tuple[str, ...] = ()
    storage_disk: str | None = None
    grow_root: bool = False
    extra_user_data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seed:
    """The four texts of a cloud-init NoCloud seed. `user_data` holds the join key."""

    user_data: str
    meta_data: str
    network_config: str
    vendor_data: str

    def files(self) -> dict[str, str]:
        """The texts by the file names that NoCloud looks for."""
        return {
            "user-data": self.user_data,
            "meta-data": self.meta_data,
            "network-config": self.network_config,
            "vendor-data": self.vendor_data,
        }
