"""Two network namespaces with a cable between: a router in one, speakers as nodes in the other.

What a speaker announces is what Cilium's agents would: it is worked out from the rendered custom
resources, not from the configuration that the router's side is made from.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.bgp.routers import bird, frr, gobgp, openbgpd
from components.bgp.routers.router import Router
from stack.bgp import Peer
from stack.models import Lab

SECONDS = 20
FIRST_API_PORT = 50051

# Prefix to its standard communities, in order.
Routes = dict[str, list[str]]


@dataclass(frozen=True)
class Service:
    """What of a Service decides how it is announced: addresses by kind, labels."""

    addresses: dict[str, list[str]]
    labels: dict[str, str] = field(default_factory=dict)


def routes_of_node(
    resources: list[dict[str, Any]], peer: Peer, shares: list[str], services: list[Service]
) -> Routes:
    """What the agent of a node whose pods live in `shares` announces to a peer."""
    configs = {each["metadata"]["name"]: each["spec"] for each in resources if is_a(each, "Peer")}
    (reference,) = {
        each["peerConfigRef"]["name"]
        for resource in resources
        if is_a(resource, "Cluster")
        for instance in resource["spec"]["bgpInstances"]
        for each in instance["peers"]
        if each["peerAddress"] == peer.address
    }
    found: Routes = {}
    for family in configs[reference]["families"]:
        for resource in resources:
            labels = resource["metadata"].get("labels", {})
            selected = selects(family["advertisements"], labels)
            if resource["kind"] == "CiliumBGPAdvertisement" and selected:
                for advertisement in resource["spec"]["advertisements"]:
                    communities = advertisement.get("attributes", {}).get("communities", {})
                    for prefix in announced(advertisement, shares, services):
                        version = ipaddress.ip_network(prefix).version
                        if family["afi"] == f"ipv{version}":
                            found[prefix] = sorted(communities.get("standard", []))
    return found


def is_a(resource: dict[str, Any], kind: str) -> bool:
    return bool(resource["kind"] == f"CiliumBGP{kind}Config")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
    }
    return wanted and all(
        tests[each["operator"]](labels.get(each["key"]), each.get("values"))
        for each in selector.get("matchExpressions", [])
    )


def announced(
    advertisement: dict[str, Any], shares: list[str], services: list[Service]
) -> Iterator[str]:
    if advertisement["advertisementType"] == "PodCIDR":
        yield from shares
        return
    for service in services:
        if selects(advertisement["selector"], service.labels):
            for kind in advertisement["service"]["addresses"]:
                for address in service.addresses.get(kind, []):
                    yield str(ipaddress.ip_network(address))


# --- namespaces -----------------------------------------------------------------------------


@dataclass
class Network:
    """The namespaces `router` and `nodes`; every process that was started in them."""

    folder: Path
    name: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    speakers: int = 0

    def inside(self, side: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{side}", *words]

    def start(self, side: str, *words: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{Path(words[0]).name}-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            self.inside(side, *words), stdout=log, stderr=log, start_new_session=True
        )
        self.processes.append(process)
        return process

    def run(self, side: str, *words: str) -> str:
        answer = subprocess.run(self.inside(side, *words), capture_output=True, text=True)
        assert answer.returncode == 0, f"{words}: {answer.stdout}{answer.stderr}\n{self.logs()}"
        return answer.stdout

    def logs(self) -> str:
        return "\n".join(f"{p.name}:\n{p.read_text()[-2500:]}" for p in self.folder.glob("*.log"))

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        self.speakers = 0

    def until(self, read: Callable[[], Any], wanted: Any) -> None:
        """Wait until `read` gives `wanted`; it may fail meanwhile, while a process starts."""
        deadline = time.monotonic() + SECONDS
        found: Any = None
        while time.monotonic() < deadline:
            try:
                found = read()
            except (AssertionError, ValueError, KeyError) as error:
                found = error
            if found == wanted:
                return
            time.sleep(0.2)
        raise AssertionError(f"found {found}\nnot {wanted}\n{self.logs()}")


@contextmanager
def network(folder: Path, router: list[str], nodes: list[str]) -> Iterator[Network]:
    """Addresses, with their prefix lengths, on either end of the cable."""
    made = Network(folder, f"autojoin-test-{os.getpid()}")
    ends = {"router": ("ajr", router), "nodes": ("ajn", nodes)}
    try:
        for side in ends:
            ip("netns", "add", f"{made.name}-{side}")
            # No waiting until an IPv6 address is known to be nobody else's.
            made.run(side, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        other = f"{made.name}-nodes"
        made.run(
            "router", "ip", "link", "add", "ajr", "type", "veth", "peer", "ajn", "netns", other
        )
        for side, (link, addresses) in ends.items():
            for address in addresses:
                made.run(side, "ip", "address", "add", address, "dev", link)
            made.run(side, "ip", "link", "set", link, "up")
            made.run(side, "ip", "link", "set", "lo", "up")
        yield made
    finally:
        made.stop()
        for side in ends:
            subprocess.run(["ip", "netns", "del", f"{made.name}-{side}"], capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# --- a node ---------------------------------------------------------------------------------


def speak(network: Network, lab: Lab, peer: Peer, address: str, routes: Routes) -> None:
    """A GoBGP speaker with the settings of a node's session, as its agent would have them."""
    assert lab.bgp is not None
    network.speakers += 1
    port = FIRST_API_PORT + network.speakers
    hold, keep_alive = peer.timers
    neighbor: dict[str, Any] = {
        "config": {"neighbor-address": peer.address, "peer-as": peer.asn},
        "transport": {"config": {"local-address": address, "remote-port": peer.port}},
        "timers": {
            "config": {
                "hold-time": hold,
                "keepalive-interval": keep_alive,
                "connect-retry": 1,
                "idle-hold-time-after-reset": 1,
            }
        },
        "afi-safis": [
            {"config": {"afi-safi-name": f"{family}-unicast"}} for family in peer.route_families
        ],
    }
    if peer.password:
        neighbor["config"]["auth-password"] = peer.password.get_secret_value()
    if peer.ebgp_multihop:
        neighbor["ebgp-multihop"] = {
            "config": {"enabled": True, "multihop-ttl": peer.ebgp_multihop}
        }
    identifier = f"192.0.2.{network.speakers}"
    document = {
        "global": {"config": {"as": lab.bgp.local_asn, "router-id": identifier, "port": -1}},
        "neighbors": [neighbor],
    }
    file = network.folder / f"node-{network.speakers}.json"
    file.write_text(json.dumps(document))
    network.start("nodes", *gobgpd(file, "json", port))
    client = ["gobgp", "-p", str(port)]
    network.until(lambda: bool(network.run("nodes", *client, "global")), True)
    for prefix, communities in routes.items():
        family = f"ipv{ipaddress.ip_network(prefix).version}"
        words = [*client, "global", "rib", "-a", family, "add", prefix, "nexthop", address]
        words += ["community", ",".join(communities)] if communities else []
        network.run("nodes", *words)


def gobgpd(file: Path, kind: str, port: int) -> list[str]:
    hosts = f"--api-hosts=127.0.0.1:{port}"
    return ["gobgpd", "-t", kind, "-f", str(file), hosts, "--pprof-disable", "-p"]


# --- routers --------------------------------------------------------------------------------


class GoBgp:
    """Each kind of router: `check` by its own checker, `start`, and `learned` routes."""

    render = gobgp

    def __init__(self, network: Network, router: Router) -> None:
        self.network = network
        self.router = router
        self.file = network.folder / self.render.FILE
        self.file.write_text(self.render.text(router))
        self.file.chmod(0o640)  # bgpd takes no file that everybody can read

    def check(self) -> None:
        self.network.run("router", "gobgpd", "-d", "-t", "yaml", "-f", str(self.file))

    def start(self) -> None:
        self.network.start("router", *gobgpd(self.file, "yaml", FIRST_API_PORT))

    def learned(self, family: str) -> Routes:
        words = ["gobgp", "-p", str(FIRST_API_PORT), "global", "rib", "-a", family, "-j"]
        return {
            prefix: sorted(
                f"{value >> 16}:{value & 0xFFFF}"
                for attribute in paths[0]["attrs"]
                for value in attribute.get("communities", [])
            )
            for prefix, paths in json.loads(self.network.run("router", *words)).items()
        }


class Frr(GoBgp):
    render = frr
    BGPD = "/usr/lib/frr/bgpd"

    @property
    def words(self) -> list[str]:
        folder = str(self.network.folder)
        # It gives up root, and then makes its sockets there.
        shutil.chown(folder, "frr", "frr")
        shutil.chown(self.file, "frr", "frr")
        words = [self.BGPD, "-f", str(self.file), "-p", str(self.router.port), "-P", "0", "-Z"]
        return [*words, "--vty_socket", folder, "-i", f"{folder}/bgpd.pid", "--log", "stdout"]

    def check(self) -> None:
        self.network.run("router", "vtysh", "-C", "-f", str(self.file))
        # bgpd's own check names what it refuses, and ends well all the same.
        assert "[EC " not in self.network.run("router", *self.words, "-C")

    def start(self) -> None:
        self.network.start("router", *self.words)

    def show(self, *words: str) -> Any:
        vtysh = ["vtysh", "--vty_socket", str(self.network.folder), "-d", "bgpd", "-c"]
        return json.loads(
            self.network.run("router", *vtysh, " ".join(["show bgp", *words, "json"]))
        )

    def learned(self, family: str) -> Routes:
        found: Routes = {}
        for prefix in self.show(family, "unicast")["routes"]:
            path = self.show(family, "unicast", prefix)["paths"][0]
            found[prefix] = sorted(path.get("community", {}).get("list", []))
        return found


class Bird(GoBgp):
    render = bird

    def check(self) -> None:
        self.network.run("router", "bird", "-p", "-c", str(self.file))

    def start(self) -> None:
        folder = self.network.folder
        words = ["bird", "-f", "-c", str(self.file), "-s", f"{folder}/bird.ctl"]
        self.network.start("router", *words, "-P", f"{folder}/bird.pid")

    def learned(self, family: str) -> Routes:
        control = f"{self.network.folder}/bird.ctl"
        table = "master4" if family == "ipv4" else "master6"
        shown = self.network.run(
            "router", "birdc", "-r", "-s", control, "show", "route", "table", table, "all"
        )
        found: Routes = {}
        prefix = ""
        for line in shown.splitlines():
            start = re.match(r"([0-9a-f.:]+/\d+)\s", line)
            if start:
                prefix = start[1]
                found[prefix] = []
            community = re.match(r"\s*BGP\.community: (.*)", line)
            if community:
                pairs = re.findall(r"\((\d+),(\d+)\)", community[1])
                found[prefix] = sorted(f"{first}:{second}" for first, second in pairs)
        return found


class OpenBgpd(GoBgp):
    render = openbgpd
    # Its processes are confined to this folder, which its service would make: here in a file
    # system of the process's own (`ip netns exec` gives it mounts of its own).
    CONFINED = "mount -t tmpfs none /run && mkdir -p -m 755 /run/openbgpd && exec bgpd -d -f $0"

    def check(self) -> None:
        self.network.run("router", "bgpd", "-n", "-f", str(self.file))

    @property
    def socket(self) -> str:
        return f"{self.network.folder}/bgpd.sock"

    def start(self) -> None:
        self.file.write_text(f'{self.file.read_text()}socket "{self.socket}"\n')
        self.network.start("router", "sh", "-c", self.CONFINED, str(self.file))

    def learned(self, family: str) -> Routes:
        kind = "inet" if family == "ipv4" else "inet6"
        words = ["bgpctl", "-s", self.socket, "-j", "show", "rib", "detail", "selected", kind]
        return {
            entry["prefix"]: sorted(entry.get("communities", []))
            for entry in json.loads(self.network.run("router", *words)).get("rib", [])
        }


KINDS: dict[str, type[GoBgp]] = {
    "gobgp": GoBgp,
    "frr": Frr,
    "bird": Bird,
    "openbgpd": OpenBgpd,
}
