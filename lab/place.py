"""Where the lab of one checkout lives: its names, its state folder, its addresses.

Two checkouts on one machine have two labs. What a lab occupies is recorded in its lab.json, so that
another checkout can keep clear of it, and finds it again when the checkout itself is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Interface, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TextIO

from lab import cgroup
from tools.errors import LabError

STATE_ROOT = Path("/var/lib/autojoin")
FIRST_SECOND_OCTET = 64
IDENTIFIER = re.compile("[0-9a-f]{8}")
POOL_DISTANCE = 128 << 16  # 10.192.0.0/24 … 10.255.255.0/24
SUBNETS = 64 * 256  # 10.64.0.0/24 … 10.127.255.0/24
SERVICES = IPv4Network("10.30.0.0/16")


@dataclass(frozen=True)
class Process:
    """A process by number and start time (clock ticks since boot): a reused number shows."""

    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started


@dataclass(frozen=True)
class Addresses:
    """What the stack file says: the machines' /24, the two hosts in it, the Services' network.

    With IPv6 beside it the hypervisor, which is the router, has an address of that, and so have
    Services. None of it is routed on this machine, so that labs may have the same.
    """

    network: IPv4Network
    hypervisor: IPv4Address
    authority: IPv4Address
    services: IPv4Network = SERVICES
    router_ipv6: IPv6Interface | None = None
    services_ipv6: IPv6Network | None = None


def usual(network: IPv4Network) -> Addresses:
    """Those of the stack file in git, moved to `network`."""
    return Addresses(network, network[2], network[3])


@dataclass(frozen=True)
class Place:
    """The lab of one checkout; `hypervisor` is the outer machine's process."""

    checkout: Path
    identifier: str
    addresses: Addresses
    root: Path = STATE_ROOT
    hypervisor: Process | None = None
    fingerprint: str = ""

    @property
    def state(self) -> Path:
        return self.root / self.identifier

    @property
    def machine(self) -> str:
        return f"aj-{self.identifier}"

    @property
    def interface(self) -> str:
        """The host's side of the veth, as systemd-nspawn names it; 14 of 15 characters."""
        return f"ve-{self.machine}"

    @property
    def network(self) -> IPv4Network:
        return self.addresses.network

    @property
    def host_address(self) -> IPv4Address:
        """This machine's own."""
        return self.network[1]

    @property
    def pool(self) -> IPv4Network:
        """The load balancer addresses, which this machine routes to the lab's router."""
        return pool_of(self.network)

    @property
    def hypervisor_address(self) -> IPv4Address:
        return self.addresses.hypervisor

    @property
    def authority_address(self) -> IPv4Address:
        return self.addresses.authority

    @property
    def api_server(self) -> str:
        return f"https://{self.hypervisor_address}:6443"

    def running(self) -> bool:
        return self.hypervisor is not None and self.hypervisor.alive()


def pool_of(network: IPv4Network) -> IPv4Network:
    """The load balancer addresses of the lab with this network."""
    return IPv4Network((int(network.network_address) + POOL_DISTANCE, 24))


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def identifier_of(checkout: Path) -> str:
    return hashlib.sha256(os.path.realpath(checkout).encode()).hexdigest()[:8]


def candidate(number: int) -> IPv4Network:
    second, third = divmod(number % SUBNETS, 256)
    return IPv4Network(f"10.{FIRST_SECOND_OCTET + second}.{third}.0/24")


def choose(identifier: str, taken: list[IPv4Network]) -> IPv4Network:
    """The subnet that the identifier points to, or the next one that overlaps nothing taken."""
    start = int(identifier, 16)
    for step in range(SUBNETS):
        network = candidate(start + step)
        if not any(network.overlaps(other) for other in taken):
            return network
    raise LabError("no free 10.64.0.0/10 subnet is left on this machine: run `make down ALL=1`")


def routed_networks(*, but: str = "") -> dict[IPv4Network, str]:
    """The IPv4 networks that this machine routes or holds, with the interface of each.

    The default route overlaps everything and is left out; so is interface `but`.
    """
    found: dict[IPv4Network, str] = {}
    command = ["ip", "-json", "-4", "route", "show", "table", "all"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise LabError(f"`{' '.join(command)}` failed: {answer.stderr.strip()}")
    for route in json.loads(answer.stdout or "[]"):
        destination, device = route.get("dst", "default"), route.get("dev", "?")
        if destination == "default" or device == but or route.get("type") == "broadcast":
            continue
        with contextlib.suppress(ValueError):
            network = ip_network(destination, strict=False)
            if isinstance(network, IPv4Network) and network.prefixlen:
                found[network] = device
    return found


@contextlib.contextmanager
def lock(root: Path = STATE_ROOT, name: str = ".lock") -> Iterator[None]:
    """One holder at a time on this machine; freed by the kernel when the holder dies."""
    file = locked(root, name)
    with file:
        yield


def locked(root: Path, name: str) -> TextIO:
    """The lock's file, held; it is tried again where the holder before removed it."""
    while True:
        make_root(root)
        with contextlib.suppress(FileNotFoundError):
            file = (root / name).open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
            if same_file(root / name, file.fileno()):
                return file
            file.close()


def same_file(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def make_root(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        raise LabError(f"{root} cannot be made: the lab needs root; run it with sudo") from error


def read(folder: Path, root: Path) -> Place | None:
    """The lab recorded in `folder`/lab.json; None where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads((folder / "lab.json").read_text())
        process = record.get("hypervisor")
        return Place(
            checkout=Path(record["checkout"]),
            identifier=folder.name,
            addresses=recorded_addresses(record),
            root=root,
            hypervisor=Process(process["pid"], process["started"]) if process else None,
            fingerprint=record.get("fingerprint", ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def recorded_addresses(record: dict[str, Any]) -> Addresses:
    found = usual(IPv4Network(record["subnet"]))
    router, services = record.get("routerIpv6"), record.get("servicesIpv6")
    return Addresses(
        found.network,
        IPv4Address(record.get("hypervisorAddress", found.hypervisor)),
        IPv4Address(record.get("authorityAddress", found.authority)),
        IPv4Network(record.get("services", found.services)),
        IPv6Interface(router) if router else None,
        IPv6Network(services) if services else None,
    )


def write(place: Place) -> None:
    """Record the place in its lab.json; whole or not at all."""
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = place.hypervisor
    record = {
        "checkout": str(place.checkout),
        "subnet": str(place.network),
        "hypervisorAddress": str(place.hypervisor_address),
        "authorityAddress": str(place.authority_address),
        "services": str(place.addresses.services),
        "routerIpv6": str(place.addresses.router_ipv6 or ""),
        "servicesIpv6": str(place.addresses.services_ipv6 or ""),
        "hypervisor": {"pid": process.pid, "started": process.started} if process else None,
        "fingerprint": place.fingerprint,
    }
    temporary = place.state / "lab.json.new"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(place.state / "lab.json")


def others(identifier: str, root: Path = STATE_ROOT) -> list[Place]:
    """Every recorded lab but the one with `identifier`."""
    if not root.is_dir():
        return []
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    found = (read(folder, root) for folder in folders if folder.name != identifier)
    return [place for place in found if place]


def unrecorded(root: Path = STATE_ROOT) -> list[Place]:
    """What is left of labs that have no readable record: a folder or a control group alone."""
    names = {entry.name for entry in root.iterdir() if entry.is_dir()} if root.is_dir() else set()
    if root == STATE_ROOT:
        names |= set(cgroup.names())
    found = sorted(name for name in names if IDENTIFIER.fullmatch(name))
    unknown = usual(IPv4Network("0.0.0.0/24"))
    lost = [name for name in found if read(root / name, root) is None]
    return [Place(Path("?"), name, unknown, root) for name in lost]


def allocate(checkout: Path, addresses: Addresses, root: Path = STATE_ROOT) -> Place:
    """The place of `checkout` with these addresses; LabError where its lab was made with others."""
    checkout = Path(os.path.realpath(checkout))
    identifier = identifier_of(checkout)
    with lock(root):
        recorded = read(root / identifier, root)
        if recorded is None:
            recorded = Place(checkout, identifier, addresses, root)
            write(recorded)
    if recorded.addresses != addresses:
        raise LabError(
            f"the lab of this checkout was made with {told(recorded.addresses)}, and the stack"
            f" file says {told(addresses)}: run `make down` first, or take the edit back"
        )
    return recorded


def told(addresses: Addresses) -> str:
    return (
        f"network {addresses.network}, hypervisor {addresses.hypervisor},"
        f" CA host {addresses.authority}, Services {addresses.services},"
        f" IPv6 {addresses.router_ipv6 or 'off'}, its Services {addresses.services_ipv6 or 'none'}"
    )


def free_network(checkout: Path, root: Path = STATE_ROOT) -> IPv4Network:
    """A network for the lab of `checkout` that no other lab has and this machine does not route."""
    identifier = identifier_of(checkout)
    taken = [place.network for place in others(identifier, root)]
    return choose(identifier, taken + list(routed_networks()))


def find(checkout: Path, root: Path = STATE_ROOT) -> Place | None:
    """The recorded place of `checkout`, made by nobody but `allocate`."""
    return read(root / identifier_of(checkout), root)


def conflict(place: Place) -> str | None:
    """What this machine routes into the lab's network elsewhere than to the lab, or None."""
    labs = {other.interface: other.checkout for other in others(place.identifier, place.root)}
    for network, device in routed_networks(but=place.interface).items():
        if network.overlaps(place.network) or network.overlaps(place.pool):
            lab = f", the lab of {labs[device]}" if device in labs else ""
            return f"{network} on interface {device}{lab}"
    return None


def with_process(place: Place, process: Process | None, fingerprint: str = "") -> Place:
    """Record that the outer machine runs as `process` (or, with None, that it does not)."""
    changed = replace(place, hypervisor=process, fingerprint=fingerprint)
    write(changed)
    return changed
