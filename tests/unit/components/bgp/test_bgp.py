"""Custom resources of BGP and pools."""

from __future__ import annotations

from typing import Any

import pytest

from components.bgp import resources as bgp
from stack.models import Lab
from tests.unit.components.bgp.bgp_examples import full_lab, lab

BIRD = {"name": "bird", "address": "192.168.10.3", "asn": 65002}


def resources(lab: Lab) -> list[dict[str, Any]]:
    assert lab.bgp
    return bgp.custom_resources(lab.cilium.version, lab.bgp)


def specs(lab: Lab, kind: str) -> dict[str, Any]:
    """Name to spec of every resource of a kind."""
    return {
        item["metadata"]["name"]: item["spec"] for item in resources(lab) if item["kind"] == kind
    }


def peers(*settings: dict[str, Any]) -> Lab:
    return lab(bgp__peers=list(settings))


@pytest.mark.parametrize(
    ("chart", "version"),
    [
        ("1.17.9", "cilium.io/v2alpha1"),
        ("1.18.4", "cilium.io/v2"),
        ("1.19.4", "cilium.io/v2"),
        ("1.20.2", "cilium.io/v2"),
    ],
)
def test_the_api_version_follows_the_chart(chart: str, version: str) -> None:
    assert {item["apiVersion"] for item in resources(lab(chart))} == {version}


def test_every_reference_is_to_something_that_is_made_before() -> None:
    """A peer whose config is absent advertises nothing, silently; so does one without families."""
    full = full_lab()
    assert full.bgp
    seen: set[str] = set()
    secrets = set(bgp.passwords(full.bgp))
    labels = set()
    for stage in bgp.stages("1.18.4", full.bgp):
        for item in stage:
            if item["kind"] == "CiliumBGPClusterConfig":
                for instance in item["spec"]["bgpInstances"]:
                    assert {peer["peerConfigRef"]["name"] for peer in instance["peers"]} <= seen
            if item["kind"] == "CiliumBGPAdvertisement":
                labels.add(item["metadata"]["labels"]["advertise"])
            reference = item["spec"].get("authSecretRef")
            assert reference is None or reference in secrets
        seen |= {item["metadata"]["name"] for item in stage}
    assert labels == {"bgp", "public"}


def test_peers_without_settings_of_their_own_share_one_config_a_family() -> None:
    many = peers(BIRD, {**BIRD, "name": "other", "address": "192.168.10.4"})
    assert list(specs(many, "CiliumBGPPeerConfig")) == ["cilium-peer"]
    assert list(specs(full_lab(), "CiliumBGPPeerConfig")) == [
        "cilium-peer-router",
        "cilium-peer",
        "cilium-peer-ipv6",
        "cilium-peer-far",
        "cilium-peer-inside-reflector",
    ]


@pytest.mark.parametrize(
    ("settings", "timers"),
    [
        ({}, None),
        ({"holdTime": 9}, (9, 3)),
        ({"holdTime": 3}, (3, 1)),
        ({"keepAliveTime": 10}, (90, 10)),
        ({"holdTime": 240, "keepAliveTime": 20}, (240, 20)),
    ],
)
def test_a_hold_time_alone_is_never_below_the_keepalive(
    settings: dict[str, int], timers: tuple[int, int] | None
) -> None:
    """Cilium refuses `holdTimeSeconds: 9` alone: the keepalive's default is 30."""
    (spec,) = specs(peers({**BIRD, **settings}), "CiliumBGPPeerConfig").values()
    held = {}
    if timers:
        held = dict(zip(("holdTimeSeconds", "keepAliveTimeSeconds"), timers, strict=True))
    assert spec["timers"] == {"connectRetryTimeSeconds": 10, **held}


def test_a_peer_gets_what_it_names() -> None:
    public = {"name": "public", "podCidrs": False, "services": ["LoadBalancerIP"]}
    chosen = lab(
        bgp__advertisements=[public],
        bgp__peers=[
            BIRD,
            {**BIRD, "name": "wan", "address": "192.168.10.9", "advertise": ["public"]},
        ],
    )
    made = specs(chosen, "CiliumBGPPeerConfig")
    selectors = {name: spec["families"][0]["advertisements"] for name, spec in made.items()}
    everything = {"key": "advertise", "operator": "In", "values": ["bgp", "public"]}
    assert selectors == {
        "cilium-peer": {"matchExpressions": [everything]},
        "cilium-peer-wan": {"matchLabels": {"advertise": "public"}},
    }


def test_communities_of_the_section_are_on_every_advertisement() -> None:
    made = specs(full_lab(), "CiliumBGPAdvertisement")
    for spec in made.values():
        for advertisement in spec["advertisements"]:
            standard = advertisement["attributes"]["communities"]["standard"]
            assert standard[0] == "65000:99"
    (public,) = made["public"]["advertisements"]
    assert public["attributes"]["communities"] == {
        "standard": ["65000:99", "65000:100"],
        "wellKnown": ["no-export"],
    }


def test_nodes_that_are_selected_apart_have_resources_apart() -> None:
    made = specs(full_lab(), "CiliumBGPClusterConfig")
    assert list(made) == ["cilium-bgp", "cilium-bgp-inside"]
    assert made["cilium-bgp-inside"]["nodeSelector"] == {"matchLabels": {"bgp": "storage"}}
    names = [each["name"] for spec in made.values() for each in spec["bgpInstances"]]
    assert names == ["instance-65010", "inside"]


def test_instances_on_the_same_nodes_share_a_resource() -> None:
    second = {"name": "second", "localAsn": 65020, "peers": [BIRD]}
    (spec,) = specs(lab(bgp__instances=[second]), "CiliumBGPClusterConfig").values()
    assert [each["localASN"] for each in spec["bgpInstances"]] == [65010, 65020]


def test_pools_have_blocks() -> None:
    """`cidrs`, which stands in many guides, was removed in 1.16 and is pruned silently."""
    assert specs(lab(), "CiliumLoadBalancerIPPool") == {
        "ippool": {
            "blocks": [{"cidr": "192.168.50.0/24"}],
            "disabled": False,
            "allowFirstLastIPs": "No",
        }
    }


def test_definitions_are_those_of_the_resources_in_their_version() -> None:
    assert bgp.definitions(resources(lab("1.17.0", bgp__loadBalancerPools=[]))) == [
        "ciliumbgpadvertisements.cilium.io/v2alpha1",
        "ciliumbgpclusterconfigs.cilium.io/v2alpha1",
        "ciliumbgppeerconfigs.cilium.io/v2alpha1",
    ]


def test_a_password_is_in_no_resource() -> None:
    full = full_lab()
    assert full.bgp
    assert "correct-horse" not in str(resources(full))
    assert bgp.passwords(full.bgp) == {"cilium-peer-router-password": "correct-horse"}
