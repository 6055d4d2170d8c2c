"""Identities, and that each secret belongs to one identity and one purpose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.workers import identity

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
SECRET = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"


@given(name=names, generation=st.integers(1, 10**6), digest=st.text(max_size=20))
def test_identity_is_readable_and_stable(name: str, generation: int, digest: str) -> None:
    made = identity.identity(name, generation, ["10.0.0.1"], digest)
    assert re.fullmatch(rf"{re.escape(name)}-g{generation}-[0-9a-f]{{8}}", made)
    assert made == identity.identity(name, generation, ("10.0.0.1",), digest)


def test_every_fact_changes_the_identity() -> None:
    facts = [
        ("a", 1, ["10.0.0.1"], ""),
        ("a", 2, ["10.0.0.1"], ""),
        ("b", 1, ["10.0.0.1"], ""),
        ("a", 1, ["10.0.0.2"], ""),
        ("a", 1, ["10.0.0.1", "10.0.0.2"], ""),
        ("a", 1, ["10.0.0.1"], "x"),
    ]
    assert len({identity.identity(*fact) for fact in facts}) == len(facts)


def test_secrets_differ_by_identity_and_by_purpose() -> None:
    made = {
        derive(secret, who)
        for derive in (identity.join_key, identity.status_token)
        for secret in (SECRET, SECRET.replace("abc", "abd"))
        for who in ("a-g1-00000000", "a-g2-00000000")
    }
    assert len(made) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in made)


def test_secret_does_not_hang_on_a_trailing_newline() -> None:
    assert identity.join_key(SECRET, "a") == identity.join_key(SECRET.strip(), "a")


def test_values_stay_what_they_are() -> None:
    """A changed derivation would lock every node of every lab out: this must never change."""
    assert identity.join_key(SECRET, "worker-1-g1-3f2a9c1d") == KNOWN_JOIN_KEY
    assert identity.identity("worker-1", 1, ["10.0.0.1"]) == KNOWN_IDENTITY


KNOWN_JOIN_KEY = "b6ead0221a0c3636eff5b71912e5c2208f5fde723d413754566a43a186f98526"
KNOWN_IDENTITY = "worker-1-g1-73d1e230"


def test_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="the stack's secret is empty"):
        identity.join_key(" \n", "a")
