"""The reference page is that of the models."""

from __future__ import annotations

from config.reference import page
from lab.pins import CHECKOUT


def test_the_page_is_current() -> None:
    assert (CHECKOUT / "docs/configuration.md").read_text() == page(), (
        "run `python -m config.reference > docs/configuration.md` and read the diff"
    )


def test_every_key_is_described() -> None:
    assert "| None |" not in page()
