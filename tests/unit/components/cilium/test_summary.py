"""What the summary of `make preview` says of Cilium's release."""

from __future__ import annotations

from typing import Any

import pytest

from components.cilium.versions import between
from components.summary import Preview, Step, summarise, text

URN = "urn:pulumi:x::autojoin::autojoin:index:Cilium$kubernetes:helm.sh/v3:Release::cilium-release"


def shown(old: dict[str, Any], new: dict[str, Any]) -> str:
    return text(summarise(Preview([Step("update", URN, old, new)])))


@pytest.mark.parametrize(
    ("old", "new", "skipped"),
    [
        ("1.18.4", "1.20.2", ["1.19"]),
        ("1.17.0", "1.20.2", ["1.18", "1.19"]),
        ("1.20.2", "1.18.4", ["1.19"]),
        ("1.18.4", "1.19.4", []),
        ("1.18.4", "1.18.9", []),
        ("", "1.20.2", []),
    ],
)
def test_a_minor_release_that_is_skipped_is_named(old: str, new: str, skipped: list[str]) -> None:
    assert between(old, new) == skipped
    said = shown({"version": old}, {"version": new})
    assert ("skips" in said) == bool(skipped)
    assert f"skips {', '.join(skipped)}:" in said or not skipped


def test_networks_of_pods_are_appended_and_never_replaced() -> None:
    def pods(*cidrs: str) -> dict[str, Any]:
        return {"values": {"ipam": {"operator": {"clusterPoolIPv4PodCIDRList": list(cidrs)}}}}

    assert "podCidrs lose 10.20.0.0/16" in shown(pods("10.20.0.0/16"), pods("10.21.0.0/16"))
    assert "lose" not in shown(pods("10.20.0.0/16"), pods("10.20.0.0/16", "10.21.0.0/16"))
