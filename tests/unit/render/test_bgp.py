"""Custom resources of BGP and pools."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from render.bgp import BgpSettings, Peer, Pool, api_version, custom_resources, definitions

SETTINGS = BgpSettings(
    chart_version="1.18.4",
    local_asn=65010,
    peers=(Peer("router", "192.168.10.1", 65001), Peer("second", "2001:db8::1", 65002)),
    communities=("65000:99",),
    pod_cidrs=True,
    services=("LoadBalancerIP",),
    pools=(Pool("ippool", ("192.168.50.0/24",)),),
)


def by_kind(settings: BgpSettings) -> dict[str, Any]:
    return {resource["kind"]: resource["spec"] for resource in custom_resources(settings)}


@pytest.mark.parametrize(
    ("chart", "version"),
    [("1.17.9", "cilium.io/v2alpha1"), ("1.18.4", "cilium.io/v2"), ("1.20.2", "cilium.io/v2")],
)
def test_the_api_version_follows_the_chart(chart: str, version: str) -> None:
    assert api_version(chart) == version
    resources = custom_resources(dataclasses.replace(SETTINGS, chart_version=chart))
    assert {resource["apiVersion"] for resource in resources} == {version}


def test_every_peer_refers_to_the_peer_config_that_is_made() -> None:
    """A peer without one advertises nothing, silently."""
    resources = custom_resources(SETTINGS)
    made = [item["metadata"]["name"] for item in resources if item["kind"] == "CiliumBGPPeerConfig"]
    (instance,) = by_kind(SETTINGS)["CiliumBGPClusterConfig"]["bgpInstances"]
    assert [peer["peerConfigRef"]["name"] for peer in instance["peers"]] == made * 2
    assert [peer["peerASN"] for peer in instance["peers"]] == [65001, 65002]


def test_each_family_of_the_peers_selects_the_advertisements() -> None:
    families = by_kind(SETTINGS)["CiliumBGPPeerConfig"]["families"]
    advertisement = next(
        item for item in custom_resources(SETTINGS) if item["kind"] == "CiliumBGPAdvertisement"
    )
    assert [family["afi"] for family in families] == ["ipv4", "ipv6"]
    for family in families:
        assert family["advertisements"]["matchLabels"] == advertisement["metadata"]["labels"]


def test_communities_are_on_every_advertisement() -> None:
    advertisements = by_kind(SETTINGS)["CiliumBGPAdvertisement"]["advertisements"]
    assert len(advertisements) == 2
    for advertisement in advertisements:
        assert advertisement["attributes"]["communities"] == {"standard": ["65000:99"]}


def test_pools_have_blocks() -> None:
    """`cidrs`, which stands in many guides, was removed in 1.16 and is pruned silently."""
    spec = by_kind(SETTINGS)["CiliumLoadBalancerIPPool"]
    assert spec == {"blocks": [{"cidr": "192.168.50.0/24"}], "disabled": False}


def test_definitions_are_those_of_the_resources() -> None:
    assert definitions(custom_resources(dataclasses.replace(SETTINGS, pools=()))) == [
        "ciliumbgpadvertisements.cilium.io",
        "ciliumbgpclusterconfigs.cilium.io",
        "ciliumbgppeerconfigs.cilium.io",
    ]
