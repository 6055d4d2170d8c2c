"""The store's promises that are hard to reach from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.join_gate.program.store import EVENTS_KEPT, Registration, Serial, Store


def registration(identity: str = "one", name: str = "worker-1") -> Registration:
    return Registration(name, ("10.0.0.1",), 1, identity, b"k" * 32, b"t" * 32, 3600.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "gate.sqlite"))


def test_old_events_make_room(store: Store) -> None:
    store.register(registration(), [])
    for _ in range(EVENTS_KEPT + 10):
        store.append_events("worker-1", [(1.0, "node", "started", "")])
    store.append_events("worker-1", [(2.0, "node", "done", ""), (3.0, "ready", "done", "")])
    events = store.events("worker-1", 0)
    last = EVENTS_KEPT + 12
    assert [event.number for event in events] == list(range(last - EVENTS_KEPT + 1, last + 1))
    assert [(event.at, event.phase) for event in events[-2:]] == [(2.0, "node"), (3.0, "ready")]


def test_events_of_unknown_nodes_are_not_kept(store: Store) -> None:
    store.append_events("nobody", [(1.0, "node", "started", "")])
    assert store.events("nobody", 0) == []


def test_a_claim_binds_one_key(store: Store) -> None:
    store.register(registration(), [])
    assert store.claim("worker-1", "one", "a")
    assert store.claim("worker-1", "one", "a")
    assert not store.claim("worker-1", "one", "b")
    assert not store.claim("worker-1", "another identity", "a")
    store.release("worker-1", "one", "a")
    assert store.claim("worker-1", "one", "b")


def test_a_certificate_that_was_overtaken_is_marked_for_revocation(store: Store) -> None:
    """The node was registered anew while CFSSL signed for its old identity."""
    store.register(registration("one"), [])
    store.claim("worker-1", "one", "a")
    store.register(registration("two"), [])
    assert not store.issued("worker-1", "one", "a", "PEM", Serial("1", "aa"))
    assert store.to_revoke() == [Serial("1", "aa")]
    node = store.node("worker-1")
    assert node is not None and node.certificate is None and node.public_key is None


def test_the_same_identity_keeps_the_join(store: Store) -> None:
    store.register(registration(), [])
    store.claim("worker-1", "one", "a")
    assert store.issued("worker-1", "one", "a", "PEM", Serial("1", "aa"))
    store.append_events("worker-1", [(1.0, "ready", "done", "")])
    assert store.register(registration(), []) is False
    node = store.node("worker-1")
    assert node is not None and node.certificate == "PEM" and node.public_key == "a"
    assert len(store.events("worker-1", 0)) == 1 and store.to_revoke() == []


def test_removal_marks_what_was_issued_and_what_the_certdb_knew(store: Store) -> None:
    store.register(registration(), [])
    store.claim("worker-1", "one", "a")
    store.issued("worker-1", "one", "a", "PEM", Serial("1", "aa"))
    assert store.remove("worker-1", "another", [Serial("2", "aa")]) == "one"
    assert store.names() == ["worker-1"] and store.to_revoke() == []
    assert store.remove("worker-1", "one", [Serial("2", "aa"), Serial("1", "aa")]) is None
    assert sorted(serial.number for serial in store.to_revoke()) == ["1", "2"]
    store.revoked(Serial("1", "aa"))
    store.revoked(Serial("2", "aa"))
    assert store.to_revoke() == [] and store.names() == []
