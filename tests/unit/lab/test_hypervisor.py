"""What the outer machine is made of; its start is the end-to-end tests' part."""

from __future__ import annotations

import os
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from lab import authority, facts, hypervisor, pki
from lab.hypervisor import Binaries
from lab.place import Place, usual
from tests.unit.components.machine_host.recipes import unpacked
from tools.errors import LabError


@pytest.fixture
def lab(tmp_path: Path) -> Place:
    place = Place(Path("/x"), "0badcafe", usual(IPv4Network("10.70.3.0/24")), tmp_path / "state")
    facts.prepare(place)
    return place


@pytest.fixture
def binaries(tmp_path: Path) -> Binaries:
    names = (*hypervisor.SERVICES, "kubelet")
    paths = {name: tmp_path / "bin" / name for name in names}
    for name, path in paths.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return Binaries(paths)


def test_everything_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError) as caught:
        hypervisor.find_binaries()
    lines = str(caught.value).splitlines()
    assert "etcd not found on PATH: run `make tools`" in lines
    assert "kubelet not found on PATH: run `make tools`" in lines


def test_layers_hold_their_binaries(lab: Place, binaries: Binaries) -> None:
    layers = hypervisor.write_layers(lab, binaries)
    assert (layers / "worker/usr/bin/kubelet").read_text() == "kubelet"
    worker = str(layers / "worker/usr")
    modprobe = ["/usr/sbin/modprobe", "-d", worker, "--all", "overlay", "br_netfilter"]
    assert subprocess.run(modprobe).returncode == 0
    shims = layers / "worker/etc/systemd/system/sysinit.target.wants/autojoin-shims.service"
    assert (layers / "worker" / str(shims.readlink()).lstrip("/")).is_file()


def test_layers_are_made_anew(lab: Place, binaries: Binaries) -> None:
    layers = hypervisor.write_layers(lab, binaries)
    (layers / "worker/stale").write_text("")
    hypervisor.write_layers(lab, binaries)
    assert not (layers / "worker/stale").exists()


def test_the_root_has_units_keys_and_the_machine_script(lab: Place) -> None:
    hypervisor.write_root(lab)
    upper = hypervisor.folder(lab) / "upper"
    wants = upper / "etc/systemd/system/multi-user.target.wants"
    for name in hypervisor.UNITS:
        target = (wants / f"{name}.service").readlink()
        assert (upper / str(target).lstrip("/")).is_file()
    settings = (upper / "etc/autojoin/hypervisor.env").read_text()
    expected = "ADDRESS=10.70.3.2\nBRIDGE_ADDRESSES=10.70.3.2/24\nSERVICES=10.30.0.0/16\n"
    assert settings == expected
    key = upper / "etc/ssh/ssh_host_ed25519_key"
    assert (key.stat().st_mode & 0o777) == 0o600
    assert os.access(upper / "usr/local/lib/autojoin/machine", os.X_OK)
    assert not list((upper / "etc/kubernetes/pki").glob("*ssh*"))


def test_what_is_in_the_root_beside_ours_stays(lab: Place) -> None:
    hypervisor.write_root(lab)
    unit = hypervisor.folder(lab) / "upper/etc/systemd/system/autojoin-machine@.service"
    unit.write_text("of the graph")
    hypervisor.write_root(lab)
    assert unit.read_text() == "of the graph"


def test_another_binary_asks_for_another_start(lab: Place, binaries: Binaries) -> None:
    before = hypervisor.fingerprint(lab, binaries)
    assert hypervisor.fingerprint(lab, binaries) == before
    binaries.paths["etcd"].write_text("another etcd")
    assert hypervisor.fingerprint(lab, binaries) != before


def test_a_colon_in_a_path_is_kept_apart() -> None:
    option = hypervisor.bind(Path("/cache/a:b"), "/usr/bin/x", read_only=True)
    assert option == "--bind-ro=/cache/a\\:b:/usr/bin/x"


def test_nobody_answers_where_nobody_is() -> None:
    assert not hypervisor.answers_ssh("127.0.0.1", port=1)


def test_the_seed_of_the_ca_host(lab: Place, tmp_path: Path) -> None:
    files = unpacked(authority.seed(lab), tmp_path / "books", tmp_path / "work")
    content = {name: (file.mode, file.content) for name, file in files.items()}
    assert content["files/etc/kubernetes-ca/ca-key.pem"][0] == 0o600
    assert content["files/etc/kubernetes-ca/ca.pem"][1] == (pki.folder(lab) / "ca.pem").read_bytes()
    user_data = content["seed/user-data"][1].decode()
    assert user_data.startswith("#cloud-config\n")
    document = yaml.safe_load(user_data)
    assert document["users"][0]["ssh_authorized_keys"] == [pki.ssh_public_key(lab, "client")]
    assert document["ssh_keys"]["ed25519_public"] == pki.ssh_public_key(lab, "authority-host")
    network = yaml.safe_load(content["seed/network-config"][1])
    assert network["ethernets"]["host0"]["addresses"] == ["10.70.3.3/24"]
    assert content["machine.env"][1].decode().splitlines() == [
        "IMAGE=/var/lib/autojoin/image",
        "BRIDGE=br0",
    ]


def test_the_seed_is_the_same_every_time(lab: Place) -> None:
    assert authority.seed(lab) == authority.seed(lab)
