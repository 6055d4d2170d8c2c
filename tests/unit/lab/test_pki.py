"""The lab's certificates, judged by openssl and ssh-keygen."""

from __future__ import annotations

import base64
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from lab import facts, pki
from lab.place import Place, usual


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("state")
    place = Place(Path("/x"), "0badcafe", usual(IPv4Network("10.70.3.0/24")), root)
    facts.prepare(place)
    return place


def openssl(*arguments: str) -> str:
    answer = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_every_certificate_verifies_for_its_purpose(lab: Place) -> None:
    keys = pki.folder(lab)
    for identity in pki.identities(lab):
        purpose = "sslserver" if identity.server_names else "sslclient"
        file = str(keys / f"{identity.file}.pem")
        openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile",
                str(keys / "ca.pem"), file)  # fmt: skip


def test_keys_belong_to_their_certificates(lab: Place) -> None:
    keys = pki.folder(lab)
    for name in ("ca", *(identity.file for identity in pki.identities(lab))):
        public = openssl("x509", "-in", str(keys / f"{name}.pem"), "-noout", "-pubkey")
        assert openssl("pkey", "-in", str(keys / f"{name}-key.pem"), "-pubout") == public


def test_the_api_server_is_named_as_clients_call_it(lab: Place) -> None:
    text = openssl("x509", "-in", str(pki.folder(lab) / "kube-apiserver.pem"), "-noout",
                   "-ext", "subjectAltName")  # fmt: skip
    for name in ("IP Address:10.70.3.2", "IP Address:10.30.0.1", "DNS:kubernetes.default"):
        assert name in text


def test_subjects_are_what_the_authorizer_reads(lab: Place) -> None:
    def subject(name: str) -> str:
        file = str(pki.folder(lab) / f"{name}.pem")
        return openssl("x509", "-in", file, "-noout", "-subject", "-nameopt", "RFC2253").strip()

    assert subject("admin") == "subject=CN=admin,O=system:masters"
    assert subject("kube-controller-manager") == "subject=CN=system:kube-controller-manager"
    assert subject("kube-scheduler") == "subject=CN=system:kube-scheduler"


def test_private_files_are_private(lab: Place) -> None:
    private = [
        path
        for path in pki.folder(lab).iterdir()
        if b"PRIVATE KEY" in path.read_bytes() or path.suffix == ".kubeconfig"
    ]
    assert len(private) > 8
    assert all((path.stat().st_mode & 0o777) == 0o600 for path in private)
    assert (pki.folder(lab).stat().st_mode & 0o777) == 0o700


def test_a_second_time_changes_nothing(lab: Place) -> None:
    before = {path.name: path.read_bytes() for path in pki.folder(lab).iterdir()}
    facts.prepare(lab)
    assert {path.name: path.read_bytes() for path in pki.folder(lab).iterdir()} == before


def test_a_lost_authority_renews_all_that_it_signed(tmp_path: Path) -> None:
    place = Place(Path("/x"), "0badcafe", usual(IPv4Network("10.70.3.0/24")), tmp_path)
    keys = pki.ensure(place)
    ssh_key = (keys / "ssh-client").read_bytes()
    (keys / "ca-key.pem").unlink()
    pki.ensure(place)
    for name in ("kube-apiserver", "admin"):
        openssl("verify", "-CAfile", str(keys / "ca.pem"), str(keys / f"{name}.pem"))
    config = yaml.safe_load((keys / "admin.kubeconfig").read_text())
    held = config["clusters"][0]["cluster"]["certificate-authority-data"]
    assert base64.b64decode(held) == (keys / "ca.pem").read_bytes()
    assert (keys / "ssh-client").read_bytes() == ssh_key


def test_half_a_pair_is_made_whole(tmp_path: Path) -> None:
    place = Place(Path("/x"), "0badcafe", usual(IPv4Network("10.70.3.0/24")), tmp_path)
    keys = pki.ensure(place)
    (keys / "admin.pem").unlink()
    (keys / "service-account.pub").unlink()
    pki.ensure(place)
    public = openssl("x509", "-in", str(keys / "admin.pem"), "-noout", "-pubkey")
    assert openssl("pkey", "-in", str(keys / "admin-key.pem"), "-pubout") == public
    signer = openssl("pkey", "-in", str(keys / "service-account.key"), "-pubout")
    assert signer == (keys / "service-account.pub").read_text()


def test_ssh_keys_are_pairs(lab: Place) -> None:
    for name in ("client", "hypervisor-host", "authority-host"):
        private = pki.ssh_private_key_path(lab, name)
        answer = subprocess.run(
            ["ssh-keygen", "-y", "-f", str(private)], capture_output=True, text=True, check=True
        )
        assert answer.stdout.split()[:2] == pki.ssh_public_key(lab, name).split()


def test_the_kubeconfig_and_the_certificate_name_the_labs_own_addresses(lab: Place) -> None:
    config = yaml.safe_load((lab.state / "kubeconfig").read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://10.70.3.2:6443"
    text = openssl("x509", "-in", str(pki.folder(lab) / "kube-apiserver.pem"), "-noout", "-text")
    assert "IP Address:10.70.3.2" in text and "IP Address:10.30.0.1" in text
