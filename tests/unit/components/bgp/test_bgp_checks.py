"""Cross-checks of autojoin:bgp and autojoin:cilium: each wrong lab with the lines it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components import checks
from stack.problem import ConfigError
from tests.unit.components.bgp.bgp_examples import POST, lab

ROUTER = {"name": "router", "address": "192.168.10.1", "asn": 65001}
POOL = {"name": "ippool", "cidrs": ["192.168.50.0/24"]}
BGP = "autojoin:bgp"
CASES = yaml.safe_load((Path(__file__).parent / "bgp_problems.yaml").read_text())


def peer(**settings: Any) -> dict[str, Any]:
    return {"bgp__peers": [{**ROUTER, **settings}]}


def pools(*settings: dict[str, Any]) -> dict[str, Any]:
    return {"bgp__loadBalancerPools": list(settings)}


def override(**settings: Any) -> dict[str, Any]:
    return {"bgp__overrides": [{"node": "bhyve-1", **settings}]}


def values(**settings: Any) -> dict[str, Any]:
    return {"cilium": {"version": "1.18.4", "values": settings}}


def problems(changes: dict[str, Any]) -> list[str]:
    """What is wrong with the post's lab after `changes`, in the lines that a person reads."""
    changed = dict(changes)
    version = changed.pop("version", "1.18.4")
    try:
        lab(version, **changed)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["problems"][0].split(" ")[0])
def test_wrong(case: dict[str, Any]) -> None:
    assert problems(case["change"]) == case["problems"]


def test_all_at_once() -> None:
    changes = {**peer(asn=65535), **pools({"name": "empty"}), **override(node="none")}
    assert len(problems(changes)) == 3


def warned(changes: dict[str, Any]) -> list[str]:
    return [str(warning) for warning in checks.warnings(lab(**changes)) if BGP in warning.key]


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        (
            peer(address="203.0.113.1"),
            f"{BGP}.peers[0].address: is in none of autojoin:cluster.nodeCidrs, and ebgpMultihop",
        ),
        (
            {"bgp__nodeSelector": {"matchLabels": {"bgp": "wroker"}}},
            f"{BGP}.nodeSelector: matches no worker",
        ),
        (
            {"bgp__advertise": {"services": ["ClusterIP"]}},
            f"{BGP}.loadBalancerPools: are given out and not advertised",
        ),
        (
            {
                **peer(families=["ipv4", "ipv6"]),
                "cluster__podCidrs": ["10.20.0.0/16", "fd00::/104"],
            },
            f"{BGP}.peers[0].families: has routes over an ipv4 session whose next hop many refuse",
        ),
    ],
)
def test_warned_of(changes: dict[str, Any], start: str) -> None:
    (found,) = warned(changes)
    assert found.startswith(start)


def test_right_ones_give_no_warning() -> None:
    assert warned({}) == []
    assert warned(peer(address="203.0.113.1", ebgpMultihop=2)) == []


def test_values_that_the_lab_says_too_are_warned_of() -> None:
    found = checks.warnings(lab(**values(cluster={"name": "other"}, k8sServicePort=6443)))
    wrong = "has the last word over autojoin:cluster.name ('other')"
    assert [str(each) for each in found if "values" in each.key] == [
        f"autojoin:cilium.values.cluster.name: {wrong}"
    ]


def test_a_chart_of_another_version_is_named(tmp_path: Any) -> None:
    (tmp_path / "Chart.yaml").write_text("name: cilium\nversion: 1.17.0\n")
    chart = {"version": "1.18.4", "chart": str(tmp_path)}
    assert problems({"cilium": chart}) == [
        f"autojoin:cilium.version: is not that of {tmp_path} (1.18.4);"
        " write version: 1.17.0, or take another chart"
    ]


def test_the_posts_lab_is_right() -> None:
    assert POST["bgp"]
    assert problems({}) == []
