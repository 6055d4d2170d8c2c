"""Cross-checks of `autojoin:bgp`: what would be refused, or taken and do nothing, silently."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from components.bgp import resources as render
from components.cilium import versions as cilium_versions
from components.cilium.checks import at
from components.workers.hardware_types import HARDWARE
from stack.bgp import DEFAULT_ADVERTISEMENT, Bgp, Instance, LoadBalancerPool, Override, Peer
from stack.models import Lab, Worker
from stack.problem import Problem
from stack.repeats import twins
from stack.types import Address, Network

BGP = "autojoin:bgp"
MOST_INSTANCES = 16
# RFC 6793, RFC 7300: never a real autonomous system.
_RESERVED_ASNS = {
    23456: "AS_TRANS",
    65535: "the last of 16 bits",
    4294967295: "the last of 32 bits",
}

# What TCP MD5 bounds to 80 bytes, and every router's configuration can hold.
_PASSWORD = re.compile(r"[!#-&(-\[\]-~]{1,80}")


def problems(lab: Lab) -> Iterator[Problem]:
    """Everything that is wrong with the section."""
    if lab.bgp is None:
        return
    yield from _whole(lab.bgp)
    yield from _names(lab.bgp)
    yield from _version(lab)
    for place, instance in places(lab.bgp):
        for number, peer in enumerate(instance.peers):
            yield from _peer(lab, f"{place}.peers[{number}]", instance, peer)
        yield from _same_peers(place, instance)
    yield from _same_nodes(lab)
    yield from _advertised(lab.bgp)
    for number, pool in enumerate(lab.bgp.load_balancer_pools):
        yield from _pool(lab, f"{BGP}.loadBalancerPools[{number}]", pool)
    for number, override in enumerate(lab.bgp.overrides):
        yield from _override(lab, f"{BGP}.overrides[{number}]", override)
    yield from _same_overrides(lab.bgp)


def warnings(lab: Lab) -> Iterator[Problem]:
    """What works, but perhaps not as it is meant."""
    yield from _webhooks(lab)
    if lab.bgp is None:
        return
    for place, instance in places(lab.bgp):
        if lab.workers and not _selected(lab, instance):
            hint = "nodes outside this configuration may"
            yield Problem(
                f"{place}.nodeSelector", "matches no worker of autojoin:workers", hint=hint
            )
        for number, peer in enumerate(instance.peers):
            yield from _far_peer(lab, f"{place}.peers[{number}]", instance, peer)
            if other := [each for each in peer.families if each != peer.session_family]:
                key = f"{place}.peers[{number}].families"
                wrong = (
                    f"has routes over an {peer.session_family} session whose next hop many refuse"
                )
                hint = f"a peer with an {other[0]} address is safe"
                yield Problem(key, wrong, other[0], hint)
    yield from _flat(lab)
    advertised = {each for one in lab.bgp.all_advertisements for each in one.services}
    if lab.bgp.load_balancer_pools and "LoadBalancerIP" not in advertised:
        hint = "add LoadBalancerIP to the services of an advertisement"
        yield Problem(f"{BGP}.loadBalancerPools", "are given out and not advertised", hint=hint)


def _webhooks(lab: Lab) -> Iterator[Problem]:
    """An API server outside the cluster knows the way to a ClusterIP by BGP only."""
    bgp = lab.bgp
    if bgp and any("ClusterIP" in each.services for each in bgp.all_advertisements):
        return
    hint = "with ClusterIP among its services BGP brings the way; else give the API server routes"
    wrong = (
        "does not advertise ClusterIPs, by which an API server outside the cluster reaches "
        "webhooks and aggregated APIs"
    )
    yield Problem(f"{BGP}.advertise.services" if bgp else BGP, wrong, hint=hint)


def places(bgp: Bgp) -> Iterator[tuple[str, Instance]]:
    """Each instance with the key under which its peers stand."""
    further = len(bgp.all_instances) - len(bgp.instances)
    for number, instance in enumerate(bgp.all_instances):
        yield BGP if number < further else f"{BGP}.instances[{number - further}]", instance


def pool_blocks(lab: Lab) -> Iterator[tuple[str, str, list[Network]]]:
    """Key, text and networks of each network and range of the pools."""
    for number, pool in enumerate(lab.bgp.load_balancer_pools if lab.bgp else []):
        place = f"{BGP}.loadBalancerPools[{number}]"
        for index, cidr in enumerate(pool.cidrs):
            yield f"{place}.cidrs[{index}]", cidr, [ipaddress.ip_network(cidr)]
        for index, each in enumerate(pool.ranges):
            text = f"{each.start} to {each.stop}"
            yield f"{place}.ranges[{index}]", text, range_networks(each.start, each.stop)


def pool_networks(lab: Lab) -> Iterator[tuple[str, Network]]:
    """Every network of the pools with its key; a range as the networks that make it up."""
    for key, _, networks in pool_blocks(lab):
        for network in networks:
            yield key, network


def range_networks(start: str, stop: str) -> list[Network]:
    """The networks from `start` to `stop`; none where the range is no range."""
    first, last = ipaddress.ip_address(start), ipaddress.ip_address(stop)
    if first.version != last.version or int(first) > int(last):
        return []
    return list(ipaddress.summarize_address_range(first, last))


# --- the section as a whole -----------------------------------------------------------------


def _whole(bgp: Bgp) -> Iterator[Problem]:
    if bgp.peers and bgp.local_asn is None:
        yield Problem(f"{BGP}.localAsn", "is required with peers", hint="for example 65010")
    if bgp.local_asn is not None and not bgp.peers:
        yield Problem(f"{BGP}.peers", "is required with localAsn", hint="name at least one router")
    if not bgp.all_instances and bgp.local_asn is None and not bgp.peers:
        hint = "give localAsn and peers, or instances"
        yield Problem(BGP, "has no peer", hint=hint)
    if len(bgp.all_instances) > MOST_INSTANCES:
        found = str(len(bgp.all_instances))
        yield Problem(f"{BGP}.instances", f"are more than {MOST_INSTANCES}", found)
    for place, instance in places(bgp):
        yield from _asn(f"{place}.localAsn", instance.local_asn)


def _asn(place: str, asn: int) -> Iterator[Problem]:
    if asn in _RESERVED_ASNS:
        hint = "private ones are 64512 to 65534 and 4200000000 to 4294967294"
        yield Problem(place, f"is reserved, {_RESERVED_ASNS[asn]}", str(asn), hint)


def _names(bgp: Bgp) -> Iterator[Problem]:
    named = {f"{place}.peers": [peer.name for peer in each.peers] for place, each in places(bgp)}
    named[f"{BGP}.advertisements"] = [each.name for each in bgp.advertisements]
    named[f"{BGP}.loadBalancerPools"] = [pool.name for pool in bgp.load_balancer_pools]
    named[f"{BGP}.instances"] = [each.name for each in bgp.instances]
    for key, names in named.items():
        for first, second in twins(names):
            hint = "names are unique"
            wrong = f"is the name of {key}[{first}] too"
            yield Problem(f"{key}[{second}].name", wrong, names[second], hint)
    first_name = bgp.all_instances[0].name if bgp.all_instances else ""
    for number, instance in enumerate(bgp.instances):
        if instance is not bgp.all_instances[0] and instance.name == first_name:
            wrong = "is the name of the instance of autojoin:bgp.localAsn"
            yield Problem(f"{BGP}.instances[{number}].name", wrong, instance.name)
    for number, advertisement in enumerate(bgp.advertisements):
        if advertisement.name in (DEFAULT_ADVERTISEMENT, render.ADVERTISEMENTS):
            wrong = f"is the name of {BGP}.advertise"
            yield Problem(f"{BGP}.advertisements[{number}].name", wrong, advertisement.name)
    yield from _peer_config_names(bgp)


def _peer_config_names(bgp: Bgp) -> Iterator[Problem]:
    """Peers with settings of their own whose resources would have one name."""
    seen = dict.fromkeys(render.SHARED_PEER_CONFIGS, "peers without settings of their own")
    for place, instance in places(bgp):
        for number, peer in enumerate(instance.peers):
            first = [each.name for each in instance.peers].index(peer.name) == number
            if render.has_defaults(peer) or not first:
                continue
            name, key = (
                render.peer_config_name(bgp, instance, peer),
                f"{place}.peers[{number}].name",
            )
            if name in seen:
                yield Problem(key, f"makes a resource with the name of that of {seen[name]}", name)
            seen[name] = key


def _version(lab: Lab) -> Iterator[Problem]:
    """Keys whose fields the chart's CRDs lack: they would be pruned, silently."""
    assert lab.bgp is not None
    try:
        version = cilium_versions.of(lab.cilium.version)
    except cilium_versions.UnsupportedVersion:
        return  # a problem of autojoin:cilium.version
    used: dict[str, str] = {}
    for place, instance in places(lab.bgp):
        if instance.port is not None:
            used[f"{place}.port"] = "port"
    for number, override in enumerate(lab.bgp.overrides):
        if override.local_asn is not None:
            used[f"{BGP}.overrides[{number}].localAsn"] = "overrides.localAsn"
    for place, advertisement in _advertisements(lab.bgp):
        for family in (4, 6):
            if getattr(advertisement, f"aggregation_length_ipv{family}") is not None:
                key = f"aggregationLengthIpv{family}"
                used[f"{place}.{key}"] = key
    for place, key in used.items():
        if key in version.missing_bgp_keys:
            found = f"autojoin:cilium.version is {lab.cilium.version}"
            yield Problem(place, f"is not there in Cilium {version.minor}", found, "1.18 has it")


# --- instances and peers --------------------------------------------------------------------


def _labels(name: str, worker: Worker) -> dict[str, str]:
    return HARDWARE[worker.hardware].labels(name, worker)


def _selected(lab: Lab, instance: Instance) -> list[str]:
    """The workers on which an instance runs."""
    workers = lab.workers.items()
    return [
        name for name, worker in workers if instance.node_selector.selects(_labels(name, worker))
    ]


def _same_nodes(lab: Lab) -> Iterator[Problem]:
    """Different selectors that match the same worker: Cilium then takes the older resource only."""
    assert lab.bgp is not None
    for (one, first), (other, second) in combinations(places(lab.bgp), 2):
        both = [name for name in _selected(lab, first) if name in _selected(lab, second)]
        if first.node_selector != second.node_selector and both:
            hint = "use the same selector, or selectors that exclude each other"
            wrong = f"matches workers that {one}.nodeSelector matches too"
            yield Problem(f"{other}.nodeSelector", wrong, ", ".join(both), hint)
        if first.node_selector == second.node_selector and first.port and first.port == second.port:
            wrong = f"is that of {one} on the same nodes"
            yield Problem(f"{other}.port", wrong, str(second.port), "each listens on its own")


def _peer(lab: Lab, place: str, instance: Instance, peer: Peer) -> Iterator[Problem]:
    yield from _asn(f"{place}.asn", peer.asn)
    yield from _peer_address(lab, f"{place}.address", ipaddress.ip_address(peer.address))
    if peer.password and not _PASSWORD.fullmatch(peer.password.get_secret_value()):
        hint = "use 1 to 80 of ASCII without spaces, quotes and backslashes"
        yield Problem(f"{place}.password", "is one that not every router can take", hint=hint)
    hold, keep_alive = peer.timers
    if keep_alive > hold:
        key, found = f"{place}.keepAliveTime", f"{keep_alive}, holdTime is {hold}"
        yield Problem(key, "is longer than holdTime", found, "a third of it is usual")
    if peer.ebgp_multihop and peer.asn == instance.local_asn:
        found = f"asn is {peer.asn}, localAsn too"
        yield Problem(f"{place}.ebgpMultihop", "is for peers of another system", found, "remove it")
    for family in peer.families:
        if family not in families(lab):
            hint = "autojoin:cluster.podCidrs decide"
            yield Problem(
                f"{place}.families", "has a family that the cluster has not", family, hint
            )
    if not peer.families and peer.session_family not in families(lab):
        hint = f"give families, for example {families(lab)}"
        yield Problem(
            f"{place}.address", "is of a family that the cluster has not", peer.address, hint
        )
    assert lab.bgp is not None
    known = [each.name for each in lab.bgp.all_advertisements]
    for name in peer.advertise:
        if name not in known:
            yield Problem(
                f"{place}.advertise", "names no advertisement", name, nearest(name, known)
            )


def families(lab: Lab) -> list[str]:
    """The address families of the cluster."""
    has = {6 if ":" in cidr else 4 for cidr in lab.cluster.pod_cidrs}
    return [f"ipv{family}" for family in sorted(has)]


def _peer_address(lab: Lab, place: str, address: Address) -> Iterator[Problem]:
    kinds = {
        "a multicast address": address.is_multicast,
        "an unspecified address": address.is_unspecified,
        "a loopback address": address.is_loopback,
        "the broadcast address": str(address) == "255.255.255.255",
    }
    for kind, holds in kinds.items():
        if holds:
            hint = "give the address of the router that the nodes reach"
            yield Problem(place, f"is {kind}", str(address), hint)
    for key, network in pool_networks(lab):
        if address in network:
            yield Problem(place, f"is inside {key}", f"{address} in {network}")
    for cidr in lab.cluster.node_cidrs:
        network = ipaddress.ip_network(cidr)
        ends = (network.network_address, network.broadcast_address)
        if network.version == 4 and network.prefixlen < 31 and address in ends:
            yield Problem(place, f"is the network or broadcast address of {cidr}", str(address))


def _same_peers(place: str, instance: Instance) -> Iterator[Problem]:
    ends = [(peer.address, peer.port) for peer in instance.peers]
    for first, second in twins(ends):
        key = f"{place}.peers[{second}].address"
        yield Problem(key, f"is that of {place}.peers[{first}] too", ends[second][0])


def _far_peer(lab: Lab, place: str, instance: Instance, peer: Peer) -> Iterator[Problem]:
    networks = [ipaddress.ip_network(cidr) for cidr in lab.cluster.node_cidrs]
    address = ipaddress.ip_address(peer.address)
    near = address.is_link_local or any(address in network for network in networks)
    if peer.asn != instance.local_asn and not near and not peer.ebgp_multihop:
        wrong = "is in none of autojoin:cluster.nodeCidrs, and ebgpMultihop is not set"
        hint = "unless nodes have an address on its network, the session never comes up"
        yield Problem(f"{place}.address", wrong, peer.address, hint)


# --- advertisements -------------------------------------------------------------------------


def _advertisements(bgp: Bgp) -> Iterator[tuple[str, object]]:
    yield f"{BGP}.advertise", bgp.advertise
    for number, advertisement in enumerate(bgp.advertisements):
        yield f"{BGP}.advertisements[{number}]", advertisement


def _advertised(bgp: Bgp) -> Iterator[Problem]:
    """Advertisements that are empty, or that no peer gets."""
    peers = [peer for instance in bgp.all_instances for peer in instance.peers]
    empty = [not (each.pod_cidrs or each.services) for each in bgp.all_advertisements]
    if all(empty):
        hint = "set podCidrs, or give services"
        yield Problem(f"{BGP}.advertise", "advertises nothing", hint=hint)
    for number, advertisement in enumerate(bgp.all_advertisements):
        standard = advertisement.name == DEFAULT_ADVERTISEMENT
        place = f"{BGP}.advertise" if standard else f"{BGP}.advertisements[{number - 1}]"
        if empty[number] and not standard:
            yield Problem(place, "advertises nothing", hint="set podCidrs, or give services")
        given = [
            peer for peer in peers if not peer.advertise or advertisement.name in peer.advertise
        ]
        if peers and not given and not empty[number]:
            hint = f"name {advertisement.name} in the peer's advertise"
            yield Problem(place, "goes to no peer", advertisement.name, hint)
        if advertisement.selector.manifest() and not advertisement.services:
            hint = "remove the selector, or give services"
            yield Problem(
                f"{place}.selector", "selects Services, and none are advertised", hint=hint
            )
    for place, instance in places(bgp):
        for number, peer in enumerate(instance.peers):
            matches = list(zip(bgp.all_advertisements, empty, strict=True))
            chosen = peer.advertise or [each.name for each, _ in matches]
            nothing = [none for each, none in matches if each.name in chosen]
            if not all(empty) and nothing and all(nothing):
                key = f"{place}.peers[{number}].advertise"
                yield Problem(key, "selects only what advertises nothing", ", ".join(chosen))


# --- pools ----------------------------------------------------------------------------------


def _pool(lab: Lab, place: str, pool: LoadBalancerPool) -> Iterator[Problem]:
    if not pool.cidrs and not pool.ranges:
        hint = "give cidrs or ranges, for example cidrs: [192.168.50.0/24]"
        yield Problem(place, "has no addresses", pool.name, hint)
    for index, each in enumerate(pool.ranges):
        first, last = ipaddress.ip_address(each.start), ipaddress.ip_address(each.stop)
        found = f"{each.start} to {each.stop}"
        if first.version != last.version:
            yield Problem(f"{place}.ranges[{index}]", "mixes IPv4 and IPv6", found)
        elif int(first) > int(last):
            hint = "start comes first"
            yield Problem(f"{place}.ranges[{index}]", "ends before it starts", found, hint)
    blocks = [(key, each) for key, each in pool_networks(lab) if key.startswith(f"{place}.")]
    for key, network in blocks:
        if f"ipv{network.version}" not in families(lab):
            hint = "autojoin:cluster.podCidrs decide"
            wrong = "is of a family that the cluster has not"
            yield Problem(key, wrong, str(network), hint)
        for what, address in machines(lab):
            if address in network:
                hint = "a Service would get that address"
                yield Problem(key, f"holds the address of {what}", str(address), hint)


def _flat(lab: Lab) -> Iterator[Problem]:
    """Pools among the nodes' own addresses, whose neighbours ask for them on the link."""
    if at(lab.cilium.values, "l2announcements.enabled") is True:
        return
    for key, text, networks in pool_blocks(lab):
        for index, cidr in enumerate(lab.cluster.node_cidrs):
            nodes = ipaddress.ip_network(cidr)
            if any(each.version == nodes.version and each.overlaps(nodes) for each in networks):
                wrong = f"is part of autojoin:cluster.nodeCidrs[{index}], where BGP alone does not"
                wrong += " make it reachable"
                hint = (
                    "set l2announcements.enabled in autojoin:cilium.values, or use another network"
                )
                yield Problem(key, wrong, f"{text} in {cidr}", hint)


def machines(lab: Lab) -> Iterator[tuple[str, Address]]:
    """Addresses that are somebody's: no Service may get them."""
    hosts = [
        ("autojoin:cluster.apiServer", lab.cluster.api_host),
        ("autojoin:certificateAuthority.host", lab.certificate_authority.host.address),
        *(("autojoin:cluster.gateway", gateway) for gateway in lab.cluster.gateways),
    ]
    for name, host in lab.provisioning.items():
        hosts.append((f"autojoin:provisioning.{name}", host.address))
    for name, board in lab.boards.items():
        hosts.append((f"autojoin:boards.{name}", board.address))
    for number, server in enumerate(lab.cluster.dns_servers):
        hosts.append((f"autojoin:cluster.dnsServers[{number}]", server))
    for name, worker in lab.workers.items():
        hosts += [(f"autojoin:workers.{name}", address) for address in worker.addresses]
    for what, text in hosts:
        try:
            yield what, ipaddress.ip_address(text)
        except ValueError:
            continue  # a host name


# --- overrides ------------------------------------------------------------------------------


def _override(lab: Lab, place: str, override: Override) -> Iterator[Problem]:
    assert lab.bgp is not None
    worker = lab.workers.get(override.node)
    if worker is None:
        hint = nearest(override.node, list(lab.workers))
        yield Problem(f"{place}.node", "is no worker of autojoin:workers", override.node, hint)
    if override.router_id and ":" in override.router_id:
        found = override.router_id
        yield Problem(f"{place}.routerId", "is no IPv4 address", found, "write it as 192.168.10.21")
    by_name = {each.name: each for each in lab.bgp.all_instances}
    if override.instance is None and len(by_name) > 1:
        hint = f"one of {', '.join(by_name)}"
        yield Problem(f"{place}.instance", "is required where there are several", hint=hint)
        return
    name = override.instance or next(iter(by_name), "")
    instance = by_name.get(name)
    if instance is None:
        yield Problem(f"{place}.instance", "is no instance", name, nearest(name, list(by_name)))
        return
    if worker is not None and not instance.node_selector.selects(_labels(override.node, worker)):
        wrong = f"is not selected by instance {name}, so this has no effect"
        yield Problem(f"{place}.node", wrong, override.node)
    peers = {peer.name: peer for peer in instance.peers}
    for number, each in enumerate(override.peers):
        key = f"{place}.peers[{number}]"
        peer = peers.get(each.name)
        if peer is None:
            yield Problem(f"{key}.name", "is no peer", each.name, nearest(each.name, list(peers)))
        elif each.local_address and (":" in each.local_address) != (":" in peer.address):
            found = f"{each.local_address}, the peer is {peer.address}"
            yield Problem(f"{key}.localAddress", "is not of the peer's address family", found)


def _same_overrides(bgp: Bgp) -> Iterator[Problem]:
    for first, second in twins([(each.node, each.instance) for each in bgp.overrides]):
        key = f"{BGP}.overrides[{second}]"
        yield Problem(key, f"is for the node of {BGP}.overrides[{first}] too", hint="join them")
    ids = [each.router_id for each in bgp.overrides]
    for first, second in twins(ids):
        key = f"{BGP}.overrides[{second}].routerId"
        if bgp.overrides[first].node != bgp.overrides[second].node:
            yield Problem(key, f"is that of {BGP}.overrides[{first}] too", str(ids[second]))


# --- helpers --------------------------------------------------------------------------------


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
