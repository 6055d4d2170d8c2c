"""A worker that moves: the old machine is gone, where it was, before the new one comes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from components import summary
from tests.preview.conftest import deployed_config
from tests.preview.deployed import Change, Config, Deployed, answers

pytestmark = pytest.mark.full

# The machines' host is dead where one is to be removed.
NO_ANSWER = {"*machine*remove*": "no route to host"}
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8"


def other_hardware(config: Config) -> None:
    worker = config["autojoin:workers"]["node-2"]
    config["autojoin:workers"]["node-2"] = {
        "hardware": "bhyve",
        "address": worker["address"],
        "provisioner": worker["provisioner"],
    }


def other_host(config: Config) -> None:
    hosts = config["autojoin:provisioning"]
    hosts["second"] = {**hosts["hypervisor"], "address": "203.0.113.77", "hostKey": OTHER_KEY}
    config["autojoin:workers"]["node-2"]["provisioner"] = "second"


def renamed_host(config: Config) -> None:
    hosts = config["autojoin:provisioning"]
    hosts["new-name"] = {**hosts.pop("hypervisor"), "address": "203.0.113.78"}
    for worker in config["autojoin:workers"].values():
        worker["provisioner"] = "new-name"


def other_key_hours(config: Config) -> None:
    config["autojoin:joinGate"] = {"joinKeyHours": 48}


def without_node_3(config: Config) -> None:
    del config["autojoin:workers"]["node-3"]


EDITS = (other_hardware, other_host, renamed_host, other_key_hours)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A stack of its own: it is changed in the end."""
    folder = tmp_path_factory.mktemp("moved")
    config = deployed_config()
    for worker in config["autojoin:workers"].values():
        worker.setdefault("provisioner", "hypervisor")
    yield Deployed(folder, config, NO_ANSWER)


@pytest.fixture(scope="module")
def previews(moved: Deployed) -> dict[str, str]:
    return moved.previews({edit.__name__: edit for edit in EDITS})


def steps(events: str) -> list[tuple[str, str]]:
    """What the engine does, in its order: operation and name."""
    found = [json.loads(line) for line in events.splitlines() if '"resourcePreEvent"' in line]
    about = [event["resourcePreEvent"]["metadata"] for event in found]
    return [(step["op"], step["urn"].rpartition("::")[2]) for step in about if step["op"] != "same"]


def told(events: str) -> dict[str, dict[str, str]]:
    nodes = summary.summarise(summary.read(events)).nodes
    return {kind: found for kind, found in nodes.items() if kind != "untouched"}


@pytest.mark.parametrize("edit", [other_hardware, other_host], ids=lambda edit: edit.__name__)
def test_the_old_machine_goes_first_and_the_worker_stays_itself(
    edit: Change, previews: dict[str, str]
) -> None:
    order = steps(previews[edit.__name__])
    gone = order.index(("delete-replaced", "node-2-machine"))
    assert gone < order.index(("create-replacement", "node-2-machine"))
    assert ("update", "node-2-registration") in order
    assert not [step for step in order if step[0] == "delete"]
    anew = "to be provisioned anew" if edit is other_hardware else "re-provisioned"
    assert told(previews[edit.__name__]) == {
        anew: {"node-2": told(previews[edit.__name__])[anew]["node-2"]}
    }


def test_a_host_that_is_renamed_or_has_another_address_touches_no_machine(
    previews: dict[str, str],
) -> None:
    order = steps(previews["renamed_host"])
    machines = [step for step in order if step[1].endswith(("-machine", "-registration"))]
    assert {op for op, _ in machines} <= {"update"}
    assert set(told(previews["renamed_host"])) <= {"settings changed"}
    assert ("create", "new-name-machines") in order and ("delete", "hypervisor-machines") in order


def test_other_hours_of_a_join_key_revoke_nothing(previews: dict[str, str]) -> None:
    found = summary.summarise(summary.read(previews["other_key_hours"]))
    assert set(found.nodes["registered again"]) == {"node-1", "node-2", "node-3"}
    assert (found.issued, found.revoked) == ([], [])


def names(state: list[dict[str, Any]]) -> set[str]:
    return {resource["urn"].rpartition("::")[2] for resource in state}


def test_a_dead_host_holds_up_no_revocation(moved: Deployed) -> None:
    """And what could not be removed there stays in the state, until it can."""
    fewer = copy.deepcopy(moved.config)
    without_node_3(fewer)
    answer = moved.up(fewer, "--continue-on-error")
    assert answer.returncode != 0 and "no route to host" in answer.stdout + answer.stderr
    left = names(moved.state())
    assert "node-3-registration" not in left and "node-3-machine" in left
    moved.host.answers(answers())
    answer = moved.up(fewer)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert not {name for name in names(moved.state()) if name.startswith("node-3")}
