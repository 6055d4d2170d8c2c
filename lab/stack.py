"""The stack of the embedded lab: its file, Pulumi.dev.yaml, and the engine's environment.

The file is in git, and the lab is made as it says. What exists only while there is a lab (keys,
kubeconfig, chart) is named in it by way of `.lab`, a link to the lab's state that git ignores.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_network
from pathlib import Path

from components.load import from_stack_file
from lab import place as places
from lab.facts import prepare as prepare_lab
from lab.place import POOL_DISTANCE, Addresses, Place
from stack.models import Lab
from stack.problem import ConfigError
from tools import install as tools
from tools.errors import LabError
from tools.pins import CHECKOUT, Layout
from tools.plugins import LAB_STACK
from tools.plugins import install as plugins
from tools.plugins import lab_stack as named

STACK = "dev"
FILE = CHECKOUT / f"Pulumi.{STACK}.yaml"
LINK = CHECKOUT / ".lab"
HYPERVISOR = "hypervisor"
# The file in git holds the salt of this word: a lab of its own would be an edit of each checkout.
PASSPHRASE = "dev"


def environment(place: Place) -> dict[str, str]:
    """What plain `pulumi` and `kubectl` need to work on the lab's stack."""
    return {
        **engine_environment(),
        **lab_stack(place.state / "pulumi", STACK),
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "KUBECONFIG": str(place.state / "kubeconfig"),
    }


def lab_stack(backend: Path, stack: str) -> dict[str, str]:
    """What makes a stack in the folder `backend` a lab's, one that stand-ins work for."""
    url = f"file://{backend}"
    return {
        "PULUMI_BACKEND_URL": url,
        "PULUMI_STACK": stack,
        LAB_STACK: named(url, stack),
    }


def engine_environment() -> dict[str, str]:
    """What the pinned engine needs, whatever the stack."""
    layout = Layout()
    return {
        "PATH": tools.search_path(layout),
        "PULUMI_HOME": str(plugins.home(layout)),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def exports(values: dict[str, str]) -> str:
    """Lines for a shell to `eval`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def exists(place: Place) -> bool:
    """Whether the stack is in the lab's backend."""
    return (place.state / "pulumi/.pulumi/stacks/autojoin" / f"{STACK}.json").exists()


def prepare() -> Place:
    """The lab's place with all that the stack file names, and the stack in the lab's own backend.

    Starts nothing. LabError where the stack file is wrong, or the lab was made otherwise.
    """
    place = places.allocate(CHECKOUT, addresses(FILE))
    prepare_lab(place)
    link(place)
    copy_chart(place)
    if exists(place):
        return place
    (place.state / "pulumi").mkdir(mode=0o700, exist_ok=True)
    pulumi = ["pulumi", "stack", "init", STACK, "--non-interactive"]
    answer = subprocess.run(
        pulumi,
        cwd=CHECKOUT,
        env={**os.environ, **environment(place)},
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise LabError(f"`{' '.join(pulumi)}` failed: {answer.stderr.strip()}")
    return place


def link(place: Place) -> None:
    """Let `.lab` in the checkout be the lab's state."""
    if LINK.is_symlink() and LINK.readlink() == place.state:
        return
    if LINK.exists() and not LINK.is_symlink():
        raise LabError(f"{LINK} is in the way: it is to be a link to {place.state}; move it away")
    LINK.unlink(missing_ok=True)
    LINK.symlink_to(place.state)


def copy_chart(place: Place) -> None:
    """The chart at a path that a newer pin does not change."""
    source, target = Layout().chart, place.state / "chart" / "cilium"
    if source.exists() and not target.exists():
        shutil.copytree(source, target)


# --- the file -------------------------------------------------------------------------------


def addresses(file: Path) -> Addresses:
    """Where the stack file puts the lab. LabError where it is wrong, or makes no lab."""
    try:
        lab = from_stack_file(file)
    except ConfigError as error:
        raise LabError(str(error)) from None
    if HYPERVISOR not in lab.provisioning:
        raise LabError(
            f"{file.name}: autojoin:provisioning.{HYPERVISOR} is missing:"
            " the lab's machines run there"
        )
    hypervisor = lab.provisioning[HYPERVISOR].address
    if lab.cluster.api_host != hypervisor:
        raise LabError(
            f"{file.name}: autojoin:cluster.apiServer: the lab's is on its hypervisor;"
            f" write https://{hypervisor}:6443"
        )
    network = network_of(hypervisor, lab, f"{file.name}: autojoin:provisioning.{HYPERVISOR}")
    authority = lab.certificate_authority.host.address
    where = f"{file.name}: autojoin:certificateAuthority.host"
    if network_of(authority, lab, where) != network:
        raise LabError(f"{where}.address: {authority} is not in {network}, as the hypervisor is")
    ipv4, ipv6 = networks(lab.cluster.service_cidrs)
    if not ipv4:
        raise LabError(f"{file.name}: autojoin:cluster.serviceCidrs: the lab's API server has IPv4")
    return Addresses(
        network,
        IPv4Address(hypervisor),
        IPv4Address(authority),
        ipv4[0],
        router_ipv6(lab),
        ipv6[0] if ipv6 else None,
    )


def router_ipv6(lab: Lab) -> IPv6Interface | None:
    """The hypervisor's address where the workers have IPv6: it is their gateway."""
    for network in networks(lab.cluster.node_cidrs)[1]:
        for gateway in lab.cluster.gateways:
            if ip_address(gateway) in network:
                return IPv6Interface(f"{gateway}/{network.prefixlen}")
    return None


def networks(cidrs: list[str]) -> tuple[list[IPv4Network], list[IPv6Network]]:
    """Networks by their family."""
    found = [ip_network(cidr) for cidr in cidrs]
    return (
        [each for each in found if isinstance(each, IPv4Network)],
        [each for each in found if isinstance(each, IPv6Network)],
    )


def network_of(address: str, lab: Lab, where: str) -> IPv4Network:
    """The node network that holds the address of one of the lab's hosts."""
    with contextlib.suppress(ValueError):  # a name, or IPv6
        for network in networks(lab.cluster.node_cidrs)[0]:
            if IPv4Address(address) in network and network.prefixlen == 24:
                return network
    raise LabError(
        f"{where}.address: {address} is in no IPv4 network of autojoin:cluster.nodeCidrs that is"
        " a /24, as the lab's is"
    )


def move(network: IPv4Network | None) -> str:
    """Rewrite the stack file for another /24, by default one that is free; says what was done.

    Every address keeps its last octet. LabError where there is a lab.
    """
    place = places.find(CHECKOUT)
    if place is not None:
        if place.hypervisor is not None:
            raise LabError("this checkout has a lab: run `make down` first")
        shutil.rmtree(place.state)  # keys for the old addresses, of a lab that never ran
    before = addresses(FILE).network
    after = network or places.free_network(CHECKOUT)
    text = FILE.read_text()
    for distance in (0, POOL_DISTANCE):
        old, new = (prefix(int(each.network_address) + distance) for each in (before, after))
        text = re.sub(rf"(?<![\d.]){re.escape(old)}", new, text)
    FILE.write_text(text)
    return f"{FILE.name}: the lab is moved from {before} to {after}"


def prefix(number: int) -> str:
    """The first three octets of an address, and the point after them."""
    return str(IPv4Address(number)).rpartition(".")[0] + "."
