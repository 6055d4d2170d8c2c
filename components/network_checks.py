"""Cross-checks of networks and ways: what overlaps, and what nodes reach from their addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from itertools import combinations

from components import from_lab
from components.bgp import checks as bgp_checks
from components.workers import sources
from components.workers.hardware_types import HARDWARE
from components.workers.seed import Cluster
from stack.models import Lab, Worker
from stack.problem import Problem, some
from stack.repeats import twins
from stack.types import Network

_GATEWAY = "autojoin:cluster.gateway"
_RESOLVERS = "autojoin:cluster.dnsServers"


def problems(lab: Lab) -> Iterator[Problem]:
    """What can't work."""
    yield from _overlaps(lab)
    yield from _inside(lab)
    yield from _gateways(lab)
    yield from _strangers(lab)


def warnings(lab: Lab) -> Iterator[Problem]:
    """What may work by means that are not in the configuration."""
    yield from _one_family(lab)
    yield from _silent_services(lab)
    yield from _ways(lab)
    yield from _packages(lab)


# --- networks --------------------------------------------------------------------------------


def _blocks(lab: Lab) -> Iterator[tuple[str, str, list[Network]]]:
    """Key, text and networks of everything that has addresses."""
    sections = {
        "autojoin:cluster.podCidrs": lab.cluster.pod_cidrs,
        "autojoin:cluster.serviceCidrs": lab.cluster.service_cidrs,
        "autojoin:cluster.nodeCidrs": lab.cluster.node_cidrs,
    }
    for key, cidrs in sections.items():
        for index, cidr in enumerate(cidrs):
            yield f"{key}[{index}]", cidr, [ipaddress.ip_network(cidr)]
    yield from bgp_checks.pool_blocks(lab)


def _overlaps(lab: Lab) -> Iterator[Problem]:
    for (first, one, these), (second, other, those) in combinations(_blocks(lab), 2):
        # A pool among the nodes' own addresses is usual in flat networks: components/bgp/checks.py.
        if "nodeCidrs" in first and "loadBalancerPools" in second:
            continue
        if any(a.version == b.version and a.overlaps(b) for a in these for b in those):
            yield Problem(second, f"overlaps {first}", f"{other} and {one}", "use another network")


def _inside(lab: Lab) -> Iterator[Problem]:
    """Addresses that nodes must reach do not lie in networks that live inside the cluster."""
    resolvers = {
        server: f"{_RESOLVERS}[{number}]" for number, server in enumerate(lab.cluster.dns_servers)
    }
    for text, place in (taken(lab) | resolvers).items():
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        for key, _, networks in _blocks(lab):
            if ("podCidrs" in key or "serviceCidrs" in key) and address in networks[0]:
                found = f"{text} in {networks[0]}"
                yield Problem(place, f"lies in {key}", found, "no node reaches it")


def taken(lab: Lab) -> dict[str, str]:
    """Addresses that are not a node's, and the keys that say so."""
    found = {
        lab.cluster.api_host: "autojoin:cluster.apiServer",
        lab.certificate_authority.host.address: "autojoin:certificateAuthority.host.address",
    }
    found |= dict.fromkeys(lab.cluster.gateways, _GATEWAY)
    for name, board in lab.boards.items():
        found[board.address] = f"autojoin:boards.{name}.address"
    for name, host in lab.provisioning.items():
        found[host.address] = f"autojoin:provisioning.{name}.address"
    for place, instance in bgp_checks.places(lab.bgp) if lab.bgp else ():
        for index, peer in enumerate(instance.peers):
            found[peer.address] = f"{place}.peers[{index}].address"
    return found


# --- gateways --------------------------------------------------------------------------------


def _gateways(lab: Lab) -> Iterator[Problem]:
    cluster = from_lab.cluster(lab.cluster)
    served: list[Network | int] = []
    for gateway in cluster.gateways:
        network = cluster.network_of(gateway)
        if network is None and not cluster.is_on_link(gateway):
            hint = f"they are {', '.join(cluster.node_cidrs)}"
            yield Problem(_GATEWAY, "is in none of autojoin:cluster.nodeCidrs", gateway, hint)
        served.append(network or ipaddress.ip_address(gateway).version)
    for first, second in twins(served):
        hint = "one for each network of nodes"
        found = f"{cluster.gateways[first]} and {cluster.gateways[second]}"
        yield Problem(_GATEWAY, "has two for the same nodes", found, hint)
    for cidr, names in _without_gateway(lab, cluster).items():
        wrong = f"has none in {cidr}, where workers are"
        hint = f"give a list with one for each network, for example [{_example(cluster, cidr)}]"
        yield Problem(_GATEWAY, wrong, some(names), hint)


def _without_gateway(lab: Lab, cluster: Cluster) -> dict[str, list[str]]:
    """Networks with workers and without a gateway, of a family that has one elsewhere."""
    right = [it for it in cluster.gateways if cluster.network_of(it) or cluster.is_on_link(it)]
    versions = {ipaddress.ip_address(gateway).version for gateway in right}
    found: dict[str, list[str]] = {}
    for name, worker in lab.workers.items():
        for address in worker.addresses:
            network = cluster.network_of(address)
            if network and network.version in versions and not cluster.gateway_of(address):
                found.setdefault(str(network), []).append(name)
    return found


def _example(cluster: Cluster, cidr: str) -> str:
    first = ipaddress.ip_network(cidr).network_address + 1
    return ", ".join((*cluster.gateways, str(first)))


# --- families and ways -------------------------------------------------------------------------


def _families(addresses: Iterable[str]) -> set[str]:
    """The address families of addresses or networks."""
    return {"IPv6" if ":" in address else "IPv4" for address in addresses}


def _strangers(lab: Lab) -> Iterator[Problem]:
    """Workers with no address of a family that pods have: Cilium's agent does not start there."""
    pods = _families(lab.cluster.pod_cidrs)
    for name, worker in lab.workers.items():
        if not pods & _families(worker.addresses):
            wrong = f"is not {' or '.join(sorted(pods))}, which autojoin:cluster.podCidrs are"
            key, found = f"autojoin:workers.{name}.address", ", ".join(worker.addresses)
            yield Problem(key, wrong, found, "add an address of that family")


def _one_family(lab: Lab) -> Iterator[Problem]:
    pods = _families(lab.cluster.pod_cidrs)
    for family in sorted(pods) if len(pods) > 1 else ():
        names = [
            name
            for name, worker in lab.workers.items()
            if family not in _families(worker.addresses)
        ]
        if names:
            wrong = f"have no {family} address in a dual-stack cluster: their pods are without it"
            hint = "give address as a list of two, one of each family"
            yield Problem("autojoin:workers", wrong, some(names), hint)


def _silent_services(lab: Lab) -> Iterator[Problem]:
    """Cilium has the families of the pods, and Services get addresses of the API server's."""
    pods = _families(lab.cluster.pod_cidrs)
    for index, cidr in enumerate(lab.cluster.service_cidrs):
        if not pods & _families([cidr]):
            wrong = "is of a family that pods have not: no node answers there"
            hint = "add a network of it to autojoin:cluster.podCidrs"
            yield Problem(f"autojoin:cluster.serviceCidrs[{index}]", wrong, cidr, hint)


def _reaches(cluster: Cluster, worker: Worker, text: str) -> bool:
    """Whether an address is on the worker's network, or behind its gateway. Names pass."""
    try:
        target = ipaddress.ip_address(text)
    except ValueError:
        return True
    for address in worker.addresses:
        network = cluster.network_of(address)
        if network and network.version == target.version:
            return target in network or cluster.gateway_of(address) is not None
    return False


def _ways(lab: Lab) -> Iterator[Problem]:
    cluster = from_lab.cluster(lab.cluster)
    targets = {
        "autojoin:cluster.apiServer": lab.cluster.api_host,
        "autojoin:certificateAuthority.host": lab.certificate_authority.host.address,
    }
    told = {name for names in _without_gateway(lab, cluster).values() for name in names}
    others = [(name, worker) for name, worker in lab.workers.items() if name not in told]
    for key, target in targets.items():
        names = [name for name, worker in others if not _reaches(cluster, worker, target)]
        if names:
            hint = "give a gateway, or the workers an address of its family"
            wrong = f"gives workers no way to {key} at {target}"
            yield Problem(_GATEWAY, wrong, some(names), hint)


def _packages(lab: Lab) -> Iterator[Problem]:
    """A plain image installs packages at first boot: from names, which take a resolver and a way
    to the Internet, or from addresses.
    """
    cluster = from_lab.cluster(lab.cluster)
    asked = {
        name: sources.hosts(cluster.packages, cluster.kubernetes_version, worker)
        for name, worker in lab.workers.items()
        if HARDWARE[worker.hardware].installs(worker)
    }
    what = "and these workers install packages at first boot"
    deaf = [
        name
        for name, hosts in asked.items()
        if not all(map(_is_address, hosts))
        and not any(_reaches(cluster, lab.workers[name], it) for it in cluster.dns_servers)
    ]
    if deaf:
        wrong = "has no resolver that is reached" if cluster.dns_servers else "is empty"
        hint = "give a resolver, or images that hold all with imageKind: template"
        yield Problem(_RESOLVERS, f"{wrong}, {what}", some(deaf), hint)
    shut = [
        name
        for name, hosts in asked.items()
        if not any(map(cluster.gateway_of, lab.workers[name].addresses))
        and not all(_is_address(it) and _reaches(cluster, lab.workers[name], it) for it in hosts)
    ]
    if shut:
        hint = "give a gateway, or images that hold all with imageKind: template"
        yield Problem(_GATEWAY, f"is missing, {what}", some(shut), hint)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
