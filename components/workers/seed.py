"""What a node is made from: the facts of its cluster and of itself, and the seed they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
