"""The dev stack file: what the lab writes into it, and what it leaves to a person."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.load import from_stack_file
from lab import stack
from lab.facts import LabFacts
from tools.errors import LabError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk7"


def facts(subnet: str) -> LabFacts:
    network = IPv4Network(subnet)
    return LabFacts(
        subnet=network,
        api_server=f"https://{network[2]}:6443",
        kubeconfig=Path("/lab/kubeconfig"),
        ca_address=network[3],
        ca_host_key=KEY,
        hypervisor_address=network[2],
        hypervisor_host_key=KEY,
        private_key_file=Path("/lab/key"),
        chart=Path("/lab/chart"),
    )


HERE = facts("10.64.1.0/24")
THERE = facts("10.99.2.0/24")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "Pulumi.dev.yaml"
    monkeypatch.setattr(stack, "FILE", path)
    yield path


def written(lab: LabFacts) -> dict[str, Any]:
    return stack.lab_config(lab, Path("/lab/chart/cilium"))


def test_what_is_written_passes_the_check(file: Path) -> None:
    stack.save({"config": written(HERE)})
    lab = from_stack_file(file)
    assert len(lab.workers) == stack.WORKERS
    assert lab.workers["worker-1"].address == "10.64.1.11"


def test_a_true_file_is_left_as_it_is() -> None:
    config = written(HERE)
    stack.update(config, HERE, written(HERE))
    assert config == written(HERE)


def test_edits_of_a_person_stay() -> None:
    config = written(HERE)
    config["autojoin:cluster"]["nodeCidrs"].append("10.64.9.0/24")
    config["autojoin:workers"]["worker-1"]["labels"] = {"bgp": "worker", "disk": "fast"}
    edited = yaml.safe_load(yaml.safe_dump(config))
    stack.update(config, HERE, written(HERE))
    assert config == edited


def test_the_labs_own_facts_are_put_right() -> None:
    config = written(HERE)
    config["autojoin:certificateAuthority"]["host"]["hostKey"] = "ssh-ed25519 AAAAother"
    config["autojoin:cluster"]["apiServer"] = "https://10.64.1.9:6443"
    stack.update(config, HERE, written(HERE))
    assert config == written(HERE)


def test_on_another_subnet_addresses_keep_their_last_octet() -> None:
    config = written(HERE)
    config["autojoin:workers"]["worker-4"] = {"hardware": "nspawn", "address": "10.64.1.77"}
    stack.update(config, THERE, written(THERE))
    assert config["autojoin:workers"].pop("worker-4")["address"] == "10.99.2.77"
    assert config == written(THERE)


@pytest.mark.parametrize("text", ["config: [", "- a", "config: 3", ""])
def test_a_broken_file_is_named_and_kept(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(LabError, match=r"Pulumi\.dev\.yaml"):
        stack.load()
    assert file.read_text() == text


WRONG = ["text", 3, ["a"], None]
SECTIONS = ["cluster", "certificateAuthority", "provisioning", "workers"]


@pytest.mark.parametrize(("section", "value"), list(itertools.product(SECTIONS, WRONG)))
def test_a_section_that_is_no_mapping_is_an_error_for_a_person(section: str, value: Any) -> None:
    config = written(HERE)
    config[f"autojoin:{section}"] = value
    with pytest.raises(LabError, match=f"autojoin:{section}"):
        stack.update(config, THERE, written(THERE))


def test_a_worker_that_is_no_mapping_is_left_to_the_check() -> None:
    config = written(HERE)
    config["autojoin:workers"]["worker-1"] = "text"
    stack.update(config, THERE, written(THERE))
    assert config["autojoin:workers"]["worker-1"] == "text"
