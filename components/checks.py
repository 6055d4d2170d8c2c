"""Cross-checks: what is wrong between keys that are each right by themselves."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations

from components.bgp import checks as bgp_checks
from components.cilium import checks as cilium_checks
from components.cilium import version_checks
from components.workers import checks as worker_checks
from stack.models import Lab
from stack.problem import Problem
from stack.types import Network


def problems(lab: Lab) -> list[Problem]:
    """Every problem of `lab`, in the order of the sections."""
    return [
        *_networks(lab),
        *_reach(lab),
        *version_checks.problems(lab),
        *_authority(lab),
        *_hosts(lab),
        *cilium_checks.problems(lab),
        *bgp_checks.problems(lab),
        *worker_checks.problems(lab, taken(lab)),
    ]


def warnings(lab: Lab) -> list[Problem]:
    """What may be meant, but is seldom; nothing of it stops `pulumi up`."""
    return [
        *version_checks.warnings(lab),
        *cilium_checks.warnings(lab),
        *bgp_checks.warnings(lab),
        *_unused(lab),
    ]


def _named_networks(lab: Lab) -> Iterator[tuple[str, Network]]:
    sections = {
        "autojoin:cluster.podCidrs": lab.cluster.pod_cidrs,
        "autojoin:cluster.serviceCidrs": lab.cluster.service_cidrs,
        "autojoin:cluster.nodeCidrs": lab.cluster.node_cidrs,
    }
    for key, cidrs in sections.items():
        for index, cidr in enumerate(cidrs):
            yield f"{key}[{index}]", ipaddress.ip_network(cidr)
    yield from bgp_checks.pool_networks(lab)


def _networks(lab: Lab) -> Iterator[Problem]:
    for (first, one), (second, other) in combinations(_named_networks(lab), 2):
        if one.version == other.version and one.overlaps(other):
            yield Problem(second, f"overlaps {first}", f"{other} and {one}", "use another network")


def _reach(lab: Lab) -> Iterator[Problem]:
    """Addresses that nodes must reach do not lie in networks that live inside the cluster."""
    inside = [
        (key, network)
        for key, network in _named_networks(lab)
        if "podCidrs" in key or "serviceCidrs" in key
    ]
    gateway = lab.cluster.gateway
    if gateway and not any(
        ipaddress.ip_address(gateway) in ipaddress.ip_network(cidr)
        for cidr in lab.cluster.node_cidrs
    ):
        hint = f"they are {', '.join(lab.cluster.node_cidrs)}"
        key = "autojoin:cluster.gateway"
        yield Problem(key, "is in none of autojoin:cluster.nodeCidrs", gateway, hint)
    for text, place in taken(lab).items():
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        for key, network in inside:
            if address in network:
                yield Problem(place, f"lies in {key}", f"{text} in {network}", "no node reaches it")


def _authority(lab: Lab) -> Iterator[Problem]:
    authority = lab.certificate_authority
    if authority.source == "existing":
        for name, path in (("certificate", authority.certificate), ("key", authority.key)):
            if path is None:
                yield Problem(
                    f"autojoin:certificateAuthority.{name}",
                    "is required with source: existing",
                    hint="the absolute path on the CA host",
                )


def _hosts(lab: Lab) -> Iterator[Problem]:
    hosts = {"autojoin:certificateAuthority.host": lab.certificate_authority.host}
    hosts |= {f"autojoin:provisioning.{name}": host for name, host in lab.provisioning.items()}
    for key, host in hosts.items():
        if host.private_key and host.private_key_file:
            hint = "give the key itself, or its file"
            yield Problem(f"{key}.privateKeyFile", "stands beside privateKey", hint=hint)


def _unused(lab: Lab) -> Iterator[Problem]:
    """Sections' entries that nothing refers to: often one of the two names is misspelt."""
    boards = {worker.bmc for worker in lab.workers.values()}
    for name in lab.boards:
        if name not in boards:
            hint = "a worker names its board with bmc"
            yield Problem(f"autojoin:boards.{name}", "is the board of no worker", hint=hint)
    users = {worker.provisioner for worker in lab.workers.values()}
    for name in lab.provisioning if len(lab.provisioning) > 1 else ():
        if name not in users:
            hint = "a worker names its host with provisioner"
            yield Problem(f"autojoin:provisioning.{name}", "feeds no worker", hint=hint)
    if not lab.workers:
        yield Problem("autojoin:workers", "has no workers", hint="the cluster will have no nodes")


def taken(lab: Lab) -> dict[str, str]:
    """Addresses that are not a node's, and the keys that say so."""
    found = {
        lab.cluster.api_host: "autojoin:cluster.apiServer",
        lab.certificate_authority.host.address: "autojoin:certificateAuthority.host.address",
    }
    if lab.cluster.gateway:
        found[lab.cluster.gateway] = "autojoin:cluster.gateway"
    for name, board in lab.boards.items():
        found[board.address] = f"autojoin:boards.{name}.address"
    for name, host in lab.provisioning.items():
        found[host.address] = f"autojoin:provisioning.{name}.address"
    for place, instance in bgp_checks.places(lab.bgp) if lab.bgp else ():
        for index, peer in enumerate(instance.peers):
            found[peer.address] = f"{place}.peers[{index}].address"
    return found
