"""What an edit means for a machine that a person starts, in the summary of `make preview`."""

from __future__ import annotations

from typing import Any

from components.summary import Preview, Step, summarise, text

PARENT = "urn:pulumi:x::autojoin::autojoin:workers:Bhyve::guest"
COMMAND = f"{PARENT.rpartition('::')[0]}$command:remote:Command::guest"


def shown(anew: bool, hardware: str = "bhyve", **changes: Any) -> str:
    """The summary where the delivery's input changes, and with `anew` the identity."""
    old = {"hardware": hardware, "address": "10.0.0.1", "generation": 1, "userDataSha256": "a" * 64}
    steps = [
        Step("same", PARENT),
        Step("update", f"{COMMAND}-machine", parent=PARENT, diffs=("stdin",)),
    ]
    if anew:
        before, after = ({"delete": f"gate remove guest guest-{it}"} for it in ("g1-a", "g2-b"))
        urn = f"{COMMAND}-registration"
        steps.append(Step("update", urn, before, after, parent=PARENT, diffs=("stdin", "delete")))
    outputs = {"nodes": {"guest": old}}, {"nodes": {"guest": {**old, **changes}}}
    return text(summarise(Preview(steps, *outputs)))


def test_a_seed_that_a_joined_node_will_not_read_names_the_generation() -> None:
    found = shown(False, userDataSha256="b" * 64)
    assert "guest: seed delivered anew (seed aaaaaaaa → bbbbbbbb; raise its generation" in found
    assert "keeps running, with what it joined with" in found
    assert "revoked" not in found


def test_files_beside_the_seed_change_nothing_of_the_node() -> None:
    assert "guest: files delivered anew (not its seed): keeps running" in shown(False)


def test_a_new_generation_is_for_a_person_to_provision() -> None:
    found = shown(True, generation=2, userDataSha256="b" * 64)
    assert "guest: to be provisioned anew (generation 1 → 2" in found
    assert "by hand" in found and "revoked of guest" in found


def test_a_second_address_is_told() -> None:
    found = shown(True, generation=2, addresses=["10.0.0.1", "fd00::1"], userDataSha256="b" * 64)
    assert "address 10.0.0.1 → 10.0.0.1 and fd00::1" in found


def test_a_guest_that_its_host_makes_is_for_nobody_to_provision() -> None:
    found = shown(True, generation=2, userDataSha256="b" * 64, startedByUp=True)
    assert "guest: re-provisioned (generation 1 → 2" in found
    assert "by hand" not in found


def test_what_the_graph_installs_says_what_becomes_of_its_disk() -> None:
    found = shown(True, "bare-metal", generation=2, startedByUp=True)
    assert "guest: re-installed (generation 1 → 2): drained, SWITCHED OFF, its DISK IS" in found
    found = shown(False, "bare-metal", userDataSha256="b" * 64, startedByUp=True)
    assert "guest: seed delivered anew" in found
    assert "keeps running" in found
    machine = {"hardware": "bare-metal", "address": "10.0.0.1", "startedByUp": True}
    for op, kind in (("create", "installed"), ("delete", "switched off")):
        nodes = {"nodes": {"guest": machine}}
        outputs = ({}, nodes) if op == "create" else (nodes, {})
        told = text(summarise(Preview([Step(op, PARENT)], *outputs)))
        assert f"guest: {kind} (bare-metal, 10.0.0.1): " in told
