"""Cross-checks: what is wrong between keys that are each right by themselves."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from itertools import combinations

from config import bgp_checks, cilium_checks, version_checks
from config.models import Lab, Worker
from config.problem import Problem
from config.types import Address, Network

BUILT_HARDWARE = {"nspawn"}


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
        *_workers(lab),
        *_boards(lab),
        *_hardware(lab),
    ]


def warnings(lab: Lab) -> list[Problem]:
    """What may be meant, but is seldom; nothing of it stops `pulumi up`."""
    return [
        *version_checks.warnings(lab),
        *cilium_checks.warnings(lab),
        *bgp_checks.warnings(lab),
        *_unused(lab),
    ]


def unbuilt(lab: Lab) -> list[Problem]:
    """What the configuration may say and this version can't do yet: `up` refuses it."""
    found = []
    for name, worker in lab.workers.items():
        if worker.hardware not in BUILT_HARDWARE:
            key = f"autojoin:workers.{name}.hardware"
            found.append(Problem(key, "is not built yet", worker.hardware, "nspawn is"))
    return found


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
    for text, place in _taken(lab).items():
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


def _taken(lab: Lab) -> dict[str, str]:
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


def _ends(address: Address, networks: list[Network]) -> bool:
    """Whether an IPv4 address names its network or everybody in it."""
    return any(
        address in network
        and network.version == 4
        and network.prefixlen < 31
        and address in (network.network_address, network.broadcast_address)
        for network in networks
    )


def _boards(lab: Lab) -> Iterator[Problem]:
    for name, worker in lab.workers.items():
        if lab.boards and worker.bmc is not None and worker.bmc not in lab.boards:
            hint = f"boards of autojoin:boards are: {', '.join(lab.boards)}"
            key = f"autojoin:workers.{name}.bmc"
            yield Problem(key, "is no board of autojoin:boards", worker.bmc, hint)


def _workers(lab: Lab) -> Iterator[Problem]:
    networks: list[Network] = [ipaddress.ip_network(cidr) for cidr in lab.cluster.node_cidrs]
    names = list(lab.workers)
    taken = _taken(lab)
    for name, worker in lab.workers.items():
        address = ipaddress.ip_address(worker.address)
        if not any(address in network for network in networks):
            yield Problem(
                f"autojoin:workers.{name}.address",
                "is in none of autojoin:cluster.nodeCidrs",
                worker.address,
                f"they are {', '.join(lab.cluster.node_cidrs)}",
            )
        elif _ends(address, networks):
            wrong = "is the first or last address of its network"
            yield Problem(f"autojoin:workers.{name}.address", wrong, worker.address)
        if worker.address in taken:
            key = f"autojoin:workers.{name}.address"
            yield Problem(key, f"is that of {taken[worker.address]} too", worker.address)
    for attribute in ("address", "mac"):
        values = [getattr(worker, attribute) for worker in lab.workers.values()]
        for first, second in _twins(values):
            yield Problem(
                f"autojoin:workers.{names[second]}.{attribute}",
                f"is that of autojoin:workers.{names[first]} too",
                str(getattr(lab.workers[names[second]], attribute)),
                "each node has its own",
            )
    slots = [(worker.bmc, worker.slot) if worker.slot else None for worker in lab.workers.values()]
    for first, second in _twins(slots):
        yield Problem(
            f"autojoin:workers.{names[second]}.slot",
            f"is that of autojoin:workers.{names[first]} too",
            _slot(lab.workers[names[second]]),
            "one module a slot",
        )


def _slot(worker: Worker) -> str:
    board = f"board {worker.bmc}, " if worker.bmc else ""
    return f"{board}slot {worker.slot}"


_REQUIRED = {"bare-metal": ("mac", "disk"), "turing-rk1": ("slot",), "turing-cm4": ("slot",)}


def _hardware(lab: Lab) -> Iterator[Problem]:
    for name, worker in lab.workers.items():
        for attribute in _REQUIRED.get(worker.hardware, ()):
            if getattr(worker, attribute) is None:
                key = f"autojoin:workers.{name}.{attribute}"
                yield Problem(key, f"is required with hardware: {worker.hardware}")
        yield from _provisioner(lab, name, worker)


def _provisioner(lab: Lab, name: str, worker: Worker) -> Iterator[Problem]:
    key = f"autojoin:workers.{name}"
    if worker.provisioner and worker.provisioner not in lab.provisioning:
        known = ", ".join(lab.provisioning) or "none"
        hint = f"hosts of autojoin:provisioning are: {known}"
        yield Problem(f"{key}.provisioner", "is no provisioning host", worker.provisioner, hint)
    elif worker.hardware != "nspawn":
        return
    elif lab.provisioner(worker) is None:
        hint = "name one host in autojoin:provisioning, or the worker's provisioner"
        yield Problem(f"{key}.provisioner", "is required with hardware: nspawn", hint=hint)
    if worker.hardware == "nspawn" and worker.image is None:
        hint = "the root folder of its machines on the provisioning host"
        yield Problem(f"{key}.image", "is required with hardware: nspawn", hint=hint)


def _twins(values: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Pairs of indexes at which the same value, None aside, stands; the earliest one first."""
    seen: dict[object, int] = {}
    for index, value in enumerate(values):
        if value is None:
            continue
        if value in seen:
            yield seen[value], index
        seen.setdefault(value, index)
