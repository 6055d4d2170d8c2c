"""What is said of a CA that ends before the certificates that it signs."""

from __future__ import annotations

import datetime

import pytest

from components.certificate_authority import lifetime
from tests.unit.components.examples import AUTHORITY_PEM

END = datetime.datetime(2125, 12, 8, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("days", "hours", "said"),
    [
        (400, 8760, None),
        (365, 8760, None),
        (20, 8760, "ends in 20 days (2125-12-08), before a node's would"),
        (20, 24, None),
        (0.5, 24, "ends within a day"),
        (-3, 24, "ends already"),
    ],
)
def test_what_is_said(days: float, hours: int, said: str | None) -> None:
    found = lifetime.warning(AUTHORITY_PEM, hours, END - datetime.timedelta(days=days))
    assert (found is None) == (said is None)
    assert said is None or (found and said in found)


def test_what_is_no_certificate_says_nothing() -> None:
    assert lifetime.warning("", 8760, END) is None


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"joined": True, "trusts": True, "ofSigner": True}, None),
        ({"joined": False, "trusts": False, "ofSigner": True}, None),
        ({"joined": True}, None),  # of an older gate
        ({"joined": True, "trusts": False, "ofSigner": True}, "does not trust yet"),
        ({"joined": True, "trusts": True, "ofSigner": False}, "has a certificate of the CA that"),
    ],
)
def test_what_a_node_has_not_taken_up(node: dict[str, bool], said: str | None) -> None:
    found = lifetime.behind(node)
    assert (found is None) == (said is None)
    assert said is None or (found and found.startswith(said))
    told = lifetime.replacement({"a": node, "b": {"joined": True}})
    assert (told is None) == (said is None)
    assert told is None or told.startswith("1 of 2 nodes have not taken up what CAs are trusted")
