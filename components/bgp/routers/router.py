"""The other end of the nodes' BGP sessions: what a person pastes into a router.

`routers` says what each router must know; one file here writes it for one kind of router. All take
only what the lab advertises and send nothing: Cilium does not use what it learns.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from components.bgp.checks import pool_networks
from components.bgp.resources import REDACTED
from components.cilium.checks import POD_PREFIXES, at
from components.workers.hardware_types import HARDWARE
from stack.bgp import Advertisement, Bgp, Family, Instance, Peer
from stack.models import Lab
from stack.types import Network


@dataclass(frozen=True)
class Neighbor:
    """A node, or with `network` any node of a network; `asn` is the node's."""

    name: str
    address: str
    asn: int

    @property
    def is_network(self) -> bool:
        return "/" in self.address


@dataclass(frozen=True)
class Accepted:
    """Routes inside `network` of prefix length `shortest` to `longest`."""

    network: Network
    shortest: int
    longest: int


@dataclass(frozen=True)
class Session:
    """One instance's sessions with the router. `name` is fit to be an identifier anywhere."""

    name: str
    neighbors: tuple[Neighbor, ...]
    hold_seconds: int
    keep_alive_seconds: int
    password: str | None
    graceful_restart: int | None
    multihop: int | None
    families: tuple[Family, ...]
    accepted: tuple[Accepted, ...]

    def accepted_of(self, family: Family) -> list[Accepted]:
        version = 6 if family == "ipv6" else 4
        return [each for each in self.accepted if each.network.version == version]


@dataclass(frozen=True)
class Router:
    """One router: a peer's address, port and autonomous system, with all that meet it there."""

    name: str
    address: str
    port: int
    asn: int
    sessions: tuple[Session, ...]
    # ExternalIPs are advertised too: their networks are not in the lab's configuration.
    external: bool

    @property
    def identifier(self) -> str:
        """A router id: the address, or the last 32 bits of an IPv6 one."""
        return str(ipaddress.IPv4Address(int(ipaddress.ip_address(self.address)) & 0xFFFFFFFF))


def routers(lab: Lab, *, show_passwords: bool = False) -> list[Router]:
    """Every router of the lab's BGP, in the order of the configuration."""
    found: dict[tuple[str, int, int], list[tuple[Instance, Peer]]] = {}
    for instance in lab.bgp.all_instances if lab.bgp else []:
        for peer in instance.peers:
            found.setdefault((peer.address, peer.port, peer.asn), []).append((instance, peer))
    return [_router(lab, pairs, show_passwords) for pairs in found.values()]


def _router(lab: Lab, pairs: list[tuple[Instance, Peer]], show: bool) -> Router:
    assert lab.bgp is not None
    first_instance, first = pairs[0]
    further = any(first_instance is each for each in lab.bgp.instances)
    advertised = [each for _, peer in pairs for each in advertised_to(lab.bgp, peer)]
    return Router(
        name=f"{first_instance.name}-{first.name}" if further else first.name,
        address=first.address,
        port=first.port,
        asn=first.asn,
        sessions=tuple(_session(lab, instance, peer, show) for instance, peer in pairs),
        external=any("ExternalIP" in each.services for each in advertised),
    )


def _session(lab: Lab, instance: Instance, peer: Peer, show: bool) -> Session:
    assert lab.bgp is not None
    hold, keep_alive = peer.timers
    password = peer.password.get_secret_value() if peer.password and show else REDACTED
    return Session(
        name=f"autojoin-{instance.local_asn}-{peer.name}",
        neighbors=tuple(_neighbors(lab, instance, peer)),
        hold_seconds=hold,
        keep_alive_seconds=keep_alive,
        password=password if peer.password else None,
        graceful_restart=peer.graceful_restart,
        multihop=peer.ebgp_multihop if peer.asn != instance.local_asn else None,
        families=tuple(peer.route_families),
        accepted=tuple(_accepted(lab, lab.bgp, peer)),
    )


def _neighbors(lab: Lab, instance: Instance, peer: Peer) -> Iterator[Neighbor]:
    """The selected workers; the nodes' networks where no address of theirs is known."""
    version = 6 if peer.session_family == "ipv6" else 4
    found = False
    for name, worker in lab.workers.items():
        own, asn = _override(lab, instance, peer, name)
        addresses = [own] if own else worker.addresses
        address = next(
            (it for it in addresses if ipaddress.ip_address(it).version == version), None
        )
        if address and instance.node_selector.selects(
            HARDWARE[worker.hardware].labels(name, worker)
        ):
            found = True
            yield Neighbor(name, address, asn or instance.local_asn)
    networks = [ipaddress.ip_network(cidr) for cidr in lab.cluster.node_cidrs]
    for number, network in enumerate(each for each in networks if each.version == version):
        if not found:
            yield Neighbor(f"nodes-{number + 1}", str(network), instance.local_asn)


def _override(lab: Lab, instance: Instance, peer: Peer, node: str) -> tuple[str | None, int | None]:
    """The address and autonomous system of a node with a peer, where it has its own."""
    assert lab.bgp is not None
    only = len(lab.bgp.all_instances) == 1
    for override in lab.bgp.overrides:
        its = override.instance == instance.name or (only and override.instance is None)
        if override.node == node and its:
            addresses = [each.local_address for each in override.peers if each.name == peer.name]
            return (addresses or [None])[0], override.local_asn
    return None, None


# --- what is accepted -----------------------------------------------------------------------


def advertised_to(bgp: Bgp, peer: Peer) -> list[Advertisement]:
    """The advertisements that a peer gets."""
    return [
        each for each in bgp.all_advertisements if not peer.advertise or each.name in peer.advertise
    ]


def _accepted(lab: Lab, bgp: Bgp, peer: Peer) -> Iterator[Accepted]:
    versions = {6 if family == "ipv6" else 4 for family in peer.route_families}
    found: dict[Accepted, None] = {}
    for advertisement in advertised_to(bgp, peer):
        for each in _of_advertisement(lab, advertisement):
            if each.network.version in versions:
                found[each] = None
    yield from found


def _of_advertisement(lab: Lab, advertisement: Advertisement) -> Iterator[Accepted]:
    if advertisement.pod_cidrs:
        for network in map(ipaddress.ip_network, lab.cluster.pod_cidrs):
            share = pod_prefix(lab, network.version)
            yield Accepted(network, share, share)
    if "ClusterIP" in advertisement.services:
        for network in map(ipaddress.ip_network, lab.cluster.service_cidrs):
            yield _hosts(network, advertisement)
    if "LoadBalancerIP" in advertisement.services:
        for _, network in pool_networks(lab):
            yield _hosts(network, advertisement)


def _hosts(network: Network, advertisement: Advertisement) -> Accepted:
    """Single addresses of a network, or the networks into which they are aggregated."""
    lengths = {
        4: advertisement.aggregation_length_ipv4,
        6: advertisement.aggregation_length_ipv6,
    }
    longest = network.max_prefixlen
    shortest = lengths[network.version]
    if shortest is None:
        return Accepted(network, longest, longest)
    if shortest < network.prefixlen:
        return Accepted(network.supernet(new_prefix=shortest), shortest, longest)
    return Accepted(network, shortest, longest)


def pod_prefix(lab: Lab, version: int) -> int:
    """The prefix length of a node's share of a pod network."""
    name, default = POD_PREFIXES[version]
    given = at(lab.cilium.values, f"ipam.operator.{name}")
    return given if isinstance(given, int) else default
