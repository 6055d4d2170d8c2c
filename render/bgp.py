"""Custom resources of Cilium's BGP control plane v2 and its load balancer pools.

Each is a dict with apiVersion, kind, metadata and spec. The operator registers their CRDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PEER_CONFIG = "cilium-peer"
ADVERTISEMENTS = "bgp-advertisements"
CLUSTER_CONFIG = "cilium-bgp"
_ADVERTISE = {"advertise": "bgp"}
# An absent selector selects nothing; one that never fails to match selects every Service.
_EVERY_SERVICE = {
    "matchExpressions": [{"key": "somekey", "operator": "NotIn", "values": ["never-used-value"]}]
}
_PLURALS = {
    "CiliumBGPClusterConfig": "ciliumbgpclusterconfigs",
    "CiliumBGPPeerConfig": "ciliumbgppeerconfigs",
    "CiliumBGPAdvertisement": "ciliumbgpadvertisements",
    "CiliumLoadBalancerIPPool": "ciliumloadbalancerippools",
}


@dataclass(frozen=True)
class Peer:
    name: str
    address: str
    asn: int


@dataclass(frozen=True)
class Pool:
    name: str
    cidrs: tuple[str, ...]


@dataclass(frozen=True)
class BgpSettings:
    """BGP of the whole cluster; `services` are kinds of Service addresses to advertise."""

    chart_version: str
    local_asn: int
    peers: tuple[Peer, ...]
    communities: tuple[str, ...]
    pod_cidrs: bool
    services: tuple[str, ...]
    pools: tuple[Pool, ...]


def api_version(chart_version: str) -> str:
    """1.17 serves v2alpha1 only; from 1.18 on v2 is the stored version."""
    major, minor = (int(part) for part in chart_version.split(".")[:2])
    return "cilium.io/v2" if (major, minor) >= (1, 18) else "cilium.io/v2alpha1"


def custom_resources(settings: BgpSettings) -> list[dict[str, Any]]:
    """Every resource, in the order in which they are wanted: what is named before who names it."""
    version = api_version(settings.chart_version)
    return [
        _resource(version, "CiliumBGPPeerConfig", PEER_CONFIG, _peer_config(settings)),
        _resource(
            version,
            "CiliumBGPAdvertisement",
            ADVERTISEMENTS,
            {"advertisements": _advertisements(settings)},
            labels=_ADVERTISE,
        ),
        *(_pool(version, pool) for pool in settings.pools),
        _resource(version, "CiliumBGPClusterConfig", CLUSTER_CONFIG, _cluster_config(settings)),
    ]


def definitions(resources: list[dict[str, Any]]) -> list[str]:
    """The names of the CRDs that `resources` need, each once."""
    return sorted({f"{_PLURALS[resource['kind']]}.cilium.io" for resource in resources})


def _resource(
    version: str, kind: str, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _peer_config(settings: BgpSettings) -> dict[str, Any]:
    families = {6 if ":" in peer.address else 4 for peer in settings.peers}
    return {
        "transport": {"peerPort": 179},
        "families": [
            {
                "afi": f"ipv{family}",
                "safi": "unicast",
                "advertisements": {"matchLabels": dict(_ADVERTISE)},
            }
            for family in sorted(families)
        ],
    }


def _advertisements(settings: BgpSettings) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if settings.pod_cidrs:
        found.append({"advertisementType": "PodCIDR"})
    if settings.services:
        found.append(
            {
                "advertisementType": "Service",
                "service": {"addresses": list(settings.services)},
                "selector": _EVERY_SERVICE,
            }
        )
    if settings.communities:
        for advertisement in found:
            attributes = {"communities": {"standard": list(settings.communities)}}
            advertisement["attributes"] = attributes
    return found


def _pool(version: str, pool: Pool) -> dict[str, Any]:
    spec = {"blocks": [{"cidr": cidr} for cidr in pool.cidrs], "disabled": False}
    return _resource(version, "CiliumLoadBalancerIPPool", pool.name, spec)


def _cluster_config(settings: BgpSettings) -> dict[str, Any]:
    return {
        "nodeSelector": {"matchLabels": {"bgp": "worker"}},
        "bgpInstances": [
            {
                "name": f"instance-{settings.local_asn}",
                "localASN": settings.local_asn,
                "peers": [
                    {
                        "name": peer.name,
                        "peerASN": peer.asn,
                        "peerAddress": peer.address,
                        "peerConfigRef": {"name": PEER_CONFIG},
                    }
                    for peer in settings.peers
                ],
            }
        ],
    }
