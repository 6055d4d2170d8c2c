"""What a node is made from: the facts of its cluster and of itself, and the seed they become."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    gateway: str | None = None


@dataclass(frozen=True)
class Node:
    """What a node needs to know of itself.

    `identity` names this node in this generation and becomes the instance-id. `taints` are written
    `key=value:Effect` or `key:Effect`. The network interface is found by `mac` where that is known,
    by the name `interface` otherwise.
    """

    name: str
    addresses: tuple[str, ...]
    generation: int
    identity: str
    mac: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    interface: str = ""


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
