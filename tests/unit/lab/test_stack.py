"""The dev stack file: the lab that is made of it, and how it moves to another network."""

from __future__ import annotations

import base64
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from components.load import examine, from_stack_file
from lab import facts, hypervisor, place, stack
from lab.place import Addresses
from tools.errors import LabError
from tools.pins import CHECKOUT, CILIUM_VERSION, KUBERNETES_VERSION


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stack file of another checkout, whose labs are recorded elsewhere."""
    path = tmp_path / "checkout/Pulumi.dev.yaml"
    path.parent.mkdir()
    path.write_bytes(
        subprocess.run(
            ["git", "show", ":Pulumi.dev.yaml"], cwd=CHECKOUT, check=True, capture_output=True
        ).stdout
    )
    monkeypatch.setattr(stack, "FILE", path)
    monkeypatch.setattr(stack, "CHECKOUT", path.parent)
    monkeypatch.setattr(place, "STATE_ROOT", tmp_path / "state")
    return path


def test_it_has_neither_problem_nor_warning_and_the_pinned_versions(file: Path) -> None:
    report = examine(file)
    lab = report.checked()
    # The registry's CA comes with the lab, which need not have been made.
    assert (report.problems, report.warnings) == ([], lab.missing_files)
    assert lab.cluster.kubernetes_version == KUBERNETES_VERSION
    assert lab.cilium.version == CILIUM_VERSION
    assert {worker.image for worker in lab.workers.values()} == {facts.WORKER_IMAGE}


def test_the_lab_has_the_addresses_of_the_file(file: Path) -> None:
    text = file.read_text().replace("10.64.0.3", "10.64.0.7").replace("10.30.0.0", "10.40.0.0")
    file.write_text(text)
    assert stack.addresses(file) == Addresses(
        IPv4Network("10.64.0.0/24"),
        IPv4Address("10.64.0.2"),
        IPv4Address("10.64.0.7"),
        IPv4Network("10.40.0.0/16"),
    )


def test_with_ipv6_networks_the_router_and_services_have_both_families(file: Path) -> None:
    """In whatever order the file names the families."""
    text = file.read_text().replace("[10.30.0.0/16]", '["fd00:30::/112", 10.30.0.0/16]')
    text = text.replace("[10.64.0.0/24]", '["fd00:64::/64", 10.64.0.0/24]')
    text = text.replace("gateway: 10.64.0.2", 'gateway: ["fd00:64::2", 10.64.0.2]')
    file.write_text(text)
    found = stack.addresses(file)
    assert hypervisor.settings(found).splitlines() == [
        "ADDRESS=10.64.0.2",
        "BRIDGE_ADDRESSES=10.64.0.2/24 fd00:64::2/64",
        "SERVICES=10.30.0.0/16,fd00:30::/112",
    ]
    lab = place.allocate(file.parent, found, place.STATE_ROOT)
    assert place.read(lab.state, place.STATE_ROOT) == lab
    with pytest.raises(LabError, match="`make down` first"):
        place.allocate(file.parent, place.usual(found.network), place.STATE_ROOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  hypervisor:", "  host:", "provisioning.hypervisor is missing"),
        (
            "https://10.64.0.2",
            "https://10.64.0.5",
            r"apiServer: .* write https://10\.64\.0\.2:6443",
        ),
        ("nodeCidrs: [10.64.0.0/24]", "nodeCidrs: [10.64.0.0/16]", "that is a /24"),
        ("[10.30.0.0/16]", '["fd00:30::/112"]', "serviceCidrs: the lab's API server has IPv4"),
        ("address: 10.64.0.3", "address: ca.example.org", "host.address: ca.example.org is in no"),
        ("config:", "konfig:", "did you mean config"),
    ],
)
def test_a_file_that_makes_no_lab_is_told(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(LabError, match=message):
        stack.addresses(file)


def test_it_moves_with_all_addresses_and_its_comments(file: Path) -> None:
    before = file.read_text()
    assert "from 10.64.0.0/24 to 10.99.2.0/24" in stack.move(IPv4Network("10.99.2.0/24"))
    lab = from_stack_file(file)
    assert lab.workers["worker-3"].addresses == ("10.99.2.13",)
    assert lab.bgp and lab.bgp.load_balancer_pools[0].cidrs == ["10.227.2.0/24"]
    assert "10.64." not in file.read_text()
    stack.move(IPv4Network("10.64.0.0/24"))
    assert file.read_text() == before


def test_it_moves_to_a_free_network_by_itself(file: Path) -> None:
    stack.move(None)
    assert stack.addresses(file).network == place.free_network(file.parent)


def test_a_lab_that_is_there_is_not_moved(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = place.STATE_ROOT
    found = place.allocate(file.parent, stack.addresses(file), root)
    monkeypatch.setattr(place, "find", lambda _: place.read(found.state, root))
    place.with_process(found, place.Process(1, 1))
    with pytest.raises(LabError, match="`make down` first"):
        stack.move(None)
    place.with_process(found, None)
    stack.move(None)
    assert not found.state.exists()


def test_the_salt_is_that_of_the_passphrase(file: Path) -> None:
    """Else the first command of the engine would write into a file that is in git, or fail."""
    stated = yaml.safe_load(file.read_text())["encryptionsalt"]
    _, salt, _, nonce, sealed = (base64.b64decode(part + "==") for part in stated.split(":"))
    key = PBKDF2HMAC(SHA256(), 32, salt, 1_000_000).derive(stack.PASSPHRASE.encode())
    assert AESGCM(key).decrypt(nonce, sealed, None) == b"pulumi"
