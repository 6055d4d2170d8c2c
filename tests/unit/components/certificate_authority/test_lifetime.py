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
