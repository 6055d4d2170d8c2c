"""Cilium's BGP control plane and load balancer pools: the section `autojoin:bgp`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr

from stack.labels import Selector
from stack.section import Section, key
from stack.types import AddressText, NetworkText, NodeName

Asn = int
Family = Literal["ipv4", "ipv6"]
ServiceAddress = Literal["ClusterIP", "ExternalIP", "LoadBalancerIP"]
WellKnownCommunity = Literal[
    "internet",
    "planned-shut",
    "accept-own",
    "route-filter-translated-v4",
    "route-filter-v4",
    "route-filter-translated-v6",
    "route-filter-v6",
    "llgr-stale",
    "no-llgr",
    "blackhole",
    "no-export",
    "no-advertise",
    "no-export-subconfed",
    "no-peer",
]

LAST_ASN = 4294967295
DEFAULT_HOLD_SECONDS = 90
# The name by which peers select what stands in the section `advertise`.
DEFAULT_ADVERTISEMENT = "bgp"
_WORKERS = Selector(match_labels={"bgp": "worker"})
_EVERYTHING = Selector()
_ASN_EXAMPLE = 65010


def _numbers(value: str, count: int, largest: int) -> bool:
    parts = value.split(":")
    return len(parts) == count and all(
        re.fullmatch(r"0|[1-9][0-9]{0,9}", part) and int(part) <= largest for part in parts
    )


def _community(value: str) -> str:
    if not _numbers(value, 2, 65535) and not _numbers(value, 1, LAST_ASN):
        raise ValueError("is no standard community; write two numbers up to 65535 as 65000:99")
    return value


def _large_community(value: str) -> str:
    if not _numbers(value, 3, LAST_ASN):
        raise ValueError("is no large community; write three numbers as 4200000000:1:2")
    return value


Community = Annotated[str, AfterValidator(_community)]
LargeCommunity = Annotated[str, AfterValidator(_large_community)]


class Peer(Section):
    """A BGP peer of every node of its instance."""

    name: NodeName = key("Name of the peer", "router")
    address: AddressText = key("Its address", "192.168.10.1")
    asn: Asn = key("Its autonomous system", 65001, ge=1, le=LAST_ASN)
    port: int = key("Its port", 179, default=179, ge=1, le=65535)
    password: SecretStr | None = key(
        "Password of the session (TCP MD5), a secret", {"secure": "…"}, default=None
    )
    hold_time: int | None = key(
        "Seconds of silence after which the session is down; 90 unless told", 9, default=None,
        ge=3, le=65535,
    )  # fmt: skip
    keep_alive_time: int | None = key(
        "Seconds between keepalives; a third of holdTime unless told", 3, default=None,
        ge=1, le=65535,
    )  # fmt: skip
    connect_retry_time: int = key(
        "Seconds between attempts to connect", 5, default=10, ge=1, le=2147483647
    )
    graceful_restart: int | None = key(
        "Seconds for which the peer keeps routes while a node restarts; without it no graceful"
        " restart",
        120,
        default=None,
        ge=1,
        le=4095,
    )
    ebgp_multihop: int | None = key(
        "Hops to a peer of another autonomous system that is not on the nodes' network", 2,
        default=None, ge=1, le=255,
    )  # fmt: skip
    families: list[Family] = key(
        "Address families of the routes; that of the peer's address unless told",
        ["ipv4", "ipv6"],
        default=[],
    )
    advertise: list[NodeName] = key(
        "Names of what is advertised to it: `bgp` is the section advertise; all unless told",
        ["bgp", "public"],
        default=[],
    )

    @property
    def session_family(self) -> Family:
        return "ipv6" if ":" in self.address else "ipv4"

    @property
    def route_families(self) -> list[Family]:
        return list(self.families) or [self.session_family]

    @property
    def timers(self) -> tuple[int, int]:
        """Hold and keepalive seconds."""
        hold = self.hold_time or DEFAULT_HOLD_SECONDS
        if self.keep_alive_time:
            return hold, self.keep_alive_time
        return hold, max(1, hold // 3)


class Advertise(Section):
    """What the nodes advertise to their peers."""

    pod_cidrs: bool = key("Networks of pods", True, default=True)
    services: list[ServiceAddress] = key(
        "Services, by kind of address",
        ["ClusterIP", "ExternalIP", "LoadBalancerIP"],
        default=["ClusterIP", "ExternalIP", "LoadBalancerIP"],
    )
    selector: Selector = key(
        "Which Services, by label; all unless told",
        {"matchLabels": {"expose": "yes"}},
        default=_EVERYTHING,
    )
    communities: list[Community] = key(
        "Standard communities, besides those of the section", ["65000:100"], default=[]
    )
    large_communities: list[LargeCommunity] = key(
        "Large communities", ["4200000000:1:2"], default=[]
    )
    well_known_communities: list[WellKnownCommunity] = key(
        "Well-known communities", ["no-export"], default=[]
    )
    local_preference: int | None = key(
        "Local preference, for peers of the same autonomous system", 200, default=None,
        ge=0, le=LAST_ASN,
    )  # fmt: skip
    aggregation_length_ipv4: int | None = key(
        "Advertise Services' IPv4 addresses as networks of this length", 24, default=None,
        ge=0, le=31,
    )  # fmt: skip
    aggregation_length_ipv6: int | None = key(
        "Advertise Services' IPv6 addresses as networks of this length", 64, default=None,
        ge=0, le=127,
    )  # fmt: skip


class Advertisement(Advertise):
    """A further advertisement, which peers may select by its name."""

    name: NodeName = key("Name of the advertisement", "public")


class AddressRange(Section):
    """Addresses from the first to the last."""

    start: AddressText = key("First address", "192.168.50.10")
    stop: AddressText = key("Last address", "192.168.50.99")


class LoadBalancerPool(Section):
    """Addresses for Services of type LoadBalancer."""

    name: NodeName = key("Name of the pool", "ippool")
    cidrs: list[NetworkText] = key("Its networks", ["192.168.50.0/24"], default=[])
    ranges: list[AddressRange] = key(
        "Its ranges of addresses", [{"start": "192.168.50.10", "stop": "192.168.50.99"}], default=[]
    )
    service_selector: Selector = key(
        "Which Services get addresses of it, by label; all unless told",
        {"matchLabels": {"pool": "public"}},
        default=_EVERYTHING,
    )
    allow_first_last_ips: bool = key(
        "Whether the first and last address of each network are given out", True, default=False
    )
    disabled: bool = key("Whether it gives out no more addresses", True, default=False)


class Instance(Section):
    """A virtual router on each of the nodes that it selects."""

    name: NodeName = key("Name of the instance", "storage")
    local_asn: Asn = key("Autonomous system of the nodes", _ASN_EXAMPLE, ge=1, le=LAST_ASN)
    port: int | None = key(
        "Port to listen on; without it the nodes only connect", 179, default=None, ge=1, le=65535
    )
    node_selector: Selector = key(
        "Which nodes, by label",
        {"matchLabels": {"bgp": "storage"}},
        default=_WORKERS,
    )
    peers: list[Peer] = key("Peers of every node of it", [{"name": "router"}], min_length=1)


class PeerOverride(Section):
    """What one node does otherwise with a peer."""

    name: NodeName = key("Name of the peer", "router")
    local_address: AddressText | None = key(
        "Address to connect from", "192.168.10.21", default=None
    )
    local_port: int | None = key("Port to connect from", 1790, default=None, ge=1, le=65535)


class Override(Section):
    """What one node does otherwise."""

    node: NodeName = key("Name of the node", "bhyve-1")
    instance: NodeName | None = key(
        "Name of the instance; may be left out where there is one", "storage", default=None
    )
    router_id: AddressText | None = key(
        "Router id; an IPv4 address of the node unless told", "192.168.10.21", default=None
    )
    local_asn: Asn | None = key("Its own autonomous system", 65011, default=None, ge=1, le=LAST_ASN)
    port: int | None = key("Port that it listens on", 1179, default=None, ge=1, le=65535)
    peers: list[PeerOverride] = key(
        "By peer", [{"name": "router", "localAddress": "192.168.10.21"}], default=[]
    )


class Bgp(Section):
    """Cilium's BGP control plane. Without this section there is no BGP."""

    local_asn: Asn | None = key(
        "Autonomous system of the nodes", _ASN_EXAMPLE, default=None, ge=1, le=LAST_ASN
    )
    peers: list[Peer] = key("Peers of every node", [{"name": "router"}], default=[])
    port: int | None = key(
        "Port that nodes listen on; without it they only connect", 179, default=None,
        ge=1, le=65535,
    )  # fmt: skip
    node_selector: Selector = key(
        "Which nodes speak BGP, by label",
        {"matchLabels": {"bgp": "worker"}},
        default=_WORKERS,
    )
    instances: list[Instance] = key(
        "Further virtual routers, or all of them instead of localAsn and peers",
        [{"name": "storage"}],
        default=[],
    )
    communities: list[Community] = key(
        "Standard communities of everything that is advertised", ["65000:99"], default=[]
    )
    advertise: Advertise = key("What is advertised", {"podCidrs": True}, default=Advertise())
    advertisements: list[Advertisement] = key(
        "Further advertisements", [{"name": "public"}], default=[]
    )
    load_balancer_pools: list[LoadBalancerPool] = key(
        "Pools of load balancer addresses", [{"name": "ippool"}], default=[]
    )
    overrides: list[Override] = key(
        "What single nodes do otherwise", [{"node": "bhyve-1"}], default=[]
    )

    await_sessions: int | None = key(
        "Seconds for which `pulumi up` waits until every worker's sessions are established; "
        "it does not wait unless told",
        120,
        default=None,
        ge=1,
    )

    @property
    def all_instances(self) -> list[Instance]:
        """Every virtual router; that of localAsn and peers first."""
        if self.local_asn is None or not self.peers:
            return list(self.instances)
        first = Instance(
            name=f"instance-{self.local_asn}",
            local_asn=self.local_asn,
            port=self.port,
            node_selector=self.node_selector,
            peers=self.peers,
        )
        return [first, *self.instances]

    @property
    def all_advertisements(self) -> list[Advertisement]:
        """Every advertisement; that of the section `advertise` first, as `bgp`."""
        first = Advertisement(name=DEFAULT_ADVERTISEMENT, **dict(self.advertise))
        return [first, *self.advertisements]
