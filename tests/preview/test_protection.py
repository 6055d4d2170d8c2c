"""A protected worker: what would remove it or make its machine another one is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.preview.conftest import deployed_config
from tests.preview.deployed import Change, Config, Deployed

pytestmark = pytest.mark.full


def remove_it(config: Config) -> None:
    del config["autojoin:workers"]["node-2"]


def renew_it(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["generation"] = 2


def move_it(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["address"] = "203.0.113.99"


def other_hardware(config: Config) -> None:
    worker = {"hardware": "bhyve", "address": "203.0.113.12", "protect": True}
    config["autojoin:workers"]["node-2"] = {**worker, "provisioner": "hypervisor"}


def other_resolver_for_all(config: Config) -> None:
    config["autojoin:cluster"]["dnsServers"] = ["203.0.113.2"]


def wait_longer_for_it(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["joinTimeout"] = 600


def renew_another(config: Config) -> None:
    config["autojoin:workers"]["node-1"]["generation"] = 2


def renew_it_unprotected(config: Config) -> None:
    config["autojoin:workers"]["node-2"] |= {"generation": 2, "protect": False}


REFUSED = (remove_it, renew_it, move_it, other_hardware, other_resolver_for_all)
ALLOWED = (wait_longer_for_it, renew_another, renew_it_unprotected)


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    config = deployed_config()
    config["autojoin:workers"]["node-2"]["protect"] = True
    yield Deployed(tmp_path_factory.mktemp("protected"), config)


@pytest.mark.parametrize("edit", REFUSED, ids=lambda edit: edit.__name__)
def test_a_preview_refuses_what_the_worker_would_not_survive(
    edit: Change, protected: Deployed
) -> None:
    said = protected.refused_preview(edit)
    if edit is remove_it:
        assert "node-2-registration" in said and "it is protected" in said
    else:
        assert "node-2 is protected, and this edit makes its machine another one" in said
        assert "autojoin:workers.node-2.protect: false" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("edit", ALLOWED, ids=lambda edit: edit.__name__)
def test_it_allows_all_else(edit: Change, protected: Deployed) -> None:
    assert protected.preview(edit)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (remove_it, "node-2: protected, so not removed"),
        (renew_it, "node-2 is protected, and this edit makes its machine another one"),
    ],
    ids=["remove_it", "renew_it"],
)
def test_without_a_preview_nothing_happens_to_it_either(
    edit: Change, said: str, protected: Deployed
) -> None:
    before = of_the_worker(protected)
    config = copy.deepcopy(protected.config)
    edit(config)
    answer = protected.up(config)
    assert answer.returncode
    assert said in answer.stdout
    assert of_the_worker(protected) == before


def of_the_worker(stack: Deployed) -> list[dict[str, Any]]:
    found = [it for it in stack.state() if "::node-2" in it["urn"]]
    assert len(found) == 3
    return [{key: it.get(key) for key in ("urn", "inputs", "outputs")} for it in found]
