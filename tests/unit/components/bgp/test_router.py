"""The router's side of the sessions: checked by each router's own checker, and run.

Speakers announce what Cilium would for the lab, and more than that: what a router has learned must
be exactly what the lab's configuration says.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.bgp import resources as bgp
from components.bgp.routers.router import routers
from stack.models import Lab
from tests.unit.components.bgp.bgp_examples import POST, full_lab, lab
from tests.unit.components.bgp.bgp_network import (
    KINDS,
    Network,
    Service,
    network,
    routes_of_node,
    speak,
)

SERVICES = [
    Service({"ClusterIP": ["10.30.0.10", "fd00:30::a"], "LoadBalancerIP": ["192.168.50.1"]}),
    Service(
        {"ClusterIP": ["10.30.0.11"], "LoadBalancerIP": ["192.168.50.2", "fd00:50::1"]},
        labels={"internal": "yes"},
    ),
]
SHARES = {
    "bhyve-1": ["10.20.1.0/24", "fd00:20::100/120"],
    "rk1-1": ["10.20.2.0/24", "fd00:20::200/120"],
}
ADDRESSES = {"bhyve-1": ("192.168.10.21", "fd00:10::21"), "rk1-1": ("192.168.10.31", "fd00:10::31")}
# Announced besides, and none of the lab's: a default route, the whole pod network, a neighbour's.
STRAY = ["0.0.0.0/0", "10.20.0.0/16", "10.20.3.0/25", "172.16.0.0/16", "::/0", "fd00:99::/64"]
BOTH = {
    "cluster__podCidrs": ["10.20.0.0/16", "fd00:20::/104"],
    "cluster__serviceCidrs": ["10.30.0.0/16", "fd00:30::/112"],
    "cluster__nodeCidrs": ["192.168.10.0/24", "fd00:10::/64"],
    "bgp__loadBalancerPools": [
        {"name": "ippool", "cidrs": ["192.168.50.0/24", "fd00:50::/112"]},
    ],
}
PEER = {"name": "router", "address": "192.168.10.1", "asn": 65001}
EXAMPLES: dict[str, dict[str, Any]] = {
    # The post's, with workers that are told one by one.
    "post": {},
    # A password, short timers, graceful restart, a Service that is not selected.
    "settings": {
        **BOTH,
        "bgp__peers": [
            {
                **PEER,
                "password": "s3cret-of-9",
                "holdTime": 9,
                "gracefulRestart": 60,
            }
        ],
        "bgp__advertise": {
            "selector": {"matchExpressions": [{"key": "internal", "operator": "DoesNotExist"}]}
        },
    },
    # Over IPv6, where no address of the workers is known: any node of the network.
    "range": {**BOTH, "bgp__peers": [{**PEER, "address": "fd00:10::1", "port": 1179}]},
    # Inside one autonomous system.
    "inside": {"bgp__peers": [{**PEER, "asn": 65010}], "bgp__communities": []},
}


@pytest.fixture(scope="module")
def cable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    router = ["192.168.10.1/24", "fd00:10::1/64"]
    nodes = [f"{v4}/24" for v4, _ in ADDRESSES.values()]
    nodes += [f"{v6}/64" for _, v6 in ADDRESSES.values()]
    with network(tmp_path_factory.mktemp("bgp"), router, nodes) as made:
        yield made


@pytest.fixture
def wire(cable: Network) -> Iterator[Network]:
    """The cable with nothing running on it, and a folder that routers can reach without root."""
    with tempfile.TemporaryDirectory(prefix="autojoin-test-") as folder:
        Path(folder).chmod(0o755)
        cable.folder = Path(folder)
        yield cable
        cable.stop()


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_router_learns_what_the_lab_says(wire: Network, kind: str, example: str) -> None:
    wanted = lab(**EXAMPLES[example])
    assert wanted.bgp
    (router,) = routers(wanted, show_passwords=True)
    end = KINDS[kind](wire, router)
    end.check()
    end.start()
    (peer,) = wanted.bgp.peers
    resources = bgp.custom_resources(wanted.cilium.version, wanted.bgp)
    expected: dict[str, list[str]] = {}
    for node, shares in SHARES.items():
        routes = routes_of_node(resources, peer, shares, SERVICES)
        expected |= routes
        stray: dict[str, list[str]] = {
            prefix: [] for prefix in STRAY if fits(prefix, peer.route_families)
        }
        address = ADDRESSES[node][peer.session_family == "ipv6"]
        speak(wire, wanted, peer, address, {**routes, **stray})
    assert expected
    for family in peer.route_families:
        of_family = {prefix: each for prefix, each in expected.items() if fits(prefix, [family])}
        wire.until(lambda family=family: end.learned(family), of_family)  # type: ignore[misc]


def fits(prefix: str, families: list[Any]) -> bool:
    return f"ipv{ipaddress.ip_network(prefix).version}" in families


@pytest.mark.parametrize("kind", KINDS)
def test_each_router_takes_what_every_key_gives(wire: Network, kind: str) -> None:
    found = routers(full_lab(), show_passwords=True)
    assert [router.name for router in found] == [
        "router",
        "plain",
        "six",
        "far",
        "inside-reflector",
    ]
    for router in found:
        KINDS[kind](wire, router).check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkers_can_refuse(wire: Network, kind: str) -> None:
    (router,) = routers(lab())
    end = KINDS[kind](wire, router)
    end.file.write_text(end.file.read_text() + "\nbroken configuration {\n")
    with pytest.raises(AssertionError):
        end.check()


def texts(lab: Lab, **options: bool) -> str:
    return "".join(
        kind.render.text(router) for router in routers(lab, **options) for kind in KINDS.values()
    )


def test_a_password_is_shown_only_when_asked() -> None:
    peers = [{**PEER, "password": "s3cret-of-9"}]
    hidden = texts(lab(bgp__peers=peers))
    assert "s3cret" not in hidden
    # Once for each session; GoBGP says it again for each neighbor.
    assert hidden.count("REDACTED") == 3 + len(POST["workers"])
    assert "s3cret-of-9" in texts(lab(bgp__peers=peers), show_passwords=True)


def test_a_node_of_its_own_system_is_met_as_such() -> None:
    override = {"node": "rk1-1", "localAsn": 65099}
    (router,) = routers(lab(bgp__overrides=[override]))
    asns = {each.name: each.asn for each in router.sessions[0].neighbors}
    assert asns == {"bhyve-1": 65010, "rk1-1": 65099, "cm4-1": 65010, "metal-1": 65010}


def test_nodes_that_are_not_selected_are_no_neighbors() -> None:
    full = {router.name: router for router in routers(full_lab())}
    names = [each.name for each in full["inside-reflector"].sessions[0].neighbors]
    assert names == ["metal-1"]


def test_gobgps_document_is_yaml_with_each_neighbor() -> None:
    (router,) = routers(lab())
    document = yaml.safe_load(KINDS["gobgp"].render.text(router))
    found = [each["config"]["neighbor-address"] for each in document["neighbors"]]
    assert found == [worker["address"] for worker in POST["workers"].values()]
