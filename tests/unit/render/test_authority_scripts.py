"""The installers of CFSSL and the join gate, run for real but for systemd."""

from __future__ import annotations

import datetime
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from render import authority_host, join_gate
from render import certificate_authority as authority
from tests.unit.render.authority_machine import ADDRESS, Machine


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else None
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        hidden or serialization.NoEncryption(),
    )
    return data


def certificate(
    key: Any, *, ca: bool = True, identifier: bool = True, days: int = 100, sign: bool = True
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=200))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=sign,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    if identifier:
        public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(public, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def listener(key: Any = None) -> tuple[str, str]:
    """A key and a certificate request, as the tls provider makes them for the gate."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "autojoin join gate")])
    ).sign(key, hashes.SHA256())
    return key_pem(key).decode(), request.public_bytes(serialization.Encoding.PEM).decode()


CA_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
CA = certificate(CA_KEY)
LISTENER = listener()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        monkeypatch.setattr(authority_host, "_PLATFORMS", {"linux": machine.platform})
        monkeypatch.setattr(join_gate, "_GATE", str(machine.gate))
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        yield machine
    finally:
        machine.close()


def rows(machine: Machine) -> list[tuple[str, str]]:
    database = sqlite3.connect(machine.platform.certdb)
    try:
        return database.execute(
            "SELECT common_name, status FROM certificates ORDER BY rowid"
        ).fetchall()
    finally:
        database.close()


def good(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stderr
    return result


def test_install_prints_exactly_the_certificate_and_repeats_quietly(machine: Machine) -> None:
    first = good(machine.install_authority())
    assert first.stdout == CA.decode()
    assert [line.split()[-1] for line in machine.asked("restart")] == ["cfssl.service"]
    machine.forget()
    again = good(machine.install_authority())
    assert (again.stdout, again.stderr) == (CA.decode(), "")
    for verb in ("restart", "start", "daemon-reload", "enable"):
        assert machine.asked(verb) == []


def test_what_must_be_secret_is(machine: Machine) -> None:
    good(machine.install_authority())
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in machine.etc("cfssl").iterdir()}
    assert modes == {
        "ca.pem": "0o640",
        "ca-key.pem": "0o600",
        "config.json": "0o640",
        "db.json": "0o640",
        "gate.key": "0o640",
        "operator.key": "0o640",
    }
    assert machine.etc("cfssl").stat().st_mode & 0o777 == 0o750
    state = Path(machine.platform.authority_state)
    assert state.stat().st_mode & 0o777 == 0o700
    keys = [machine.etc(f"cfssl/{name}.key").read_text().strip() for name in ("gate", "operator")]
    assert len(set(keys)) == 2 and all(len(bytes.fromhex(key)) == 32 for key in keys)


def test_keys_and_certdb_are_made_once(machine: Machine) -> None:
    good(machine.install_authority())
    with sqlite3.connect(machine.platform.certdb) as database:
        database.execute(
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem,"
            " common_name) VALUES ('1', 'aa', 'good', 'PEM', 'kept')"
        )
        columns = database.execute("PRAGMA table_info(certificates)").fetchall()
    assert len(columns) == 13
    before = machine.etc("cfssl/gate.key").read_text()
    machine.forget()
    good(machine.install_authority(node_certificate_hours=24))
    assert rows(machine) == [("kept", "good")]
    assert machine.etc("cfssl/gate.key").read_text() == before
    assert [line.split()[-1] for line in machine.asked("restart")] == ["cfssl.service"]


def test_an_interrupted_run_restarts_the_next_time(machine: Machine) -> None:
    """Every file is in place, but the service still runs with the old ones."""
    good(machine.install_authority())
    machine.forget()
    machine.etc("cfssl/restart-due").touch()
    result = good(machine.install_authority())
    assert "an interrupted run before" in result.stderr
    assert len(machine.asked("restart")) == 1
    assert not machine.etc("cfssl/restart-due").exists()


def test_a_foreign_certdb_is_not_touched(machine: Machine) -> None:
    certdb = Path(machine.platform.certdb)
    certdb.parent.mkdir(parents=True)
    with sqlite3.connect(certdb) as database:
        database.execute("CREATE TABLE certificates (serial_number, pem)")
    before = certdb.read_bytes()
    result = machine.install_authority()
    assert result.returncode == 1 and "must have 13 columns, found 2" in result.stderr
    assert certdb.read_bytes() == before


PAIRS: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "no certificate": (None, key_pem(CA_KEY), "certificate: .*ca.pem is not there"),
    "no key": (CA, None, "key: .*ca-key.pem is not there"),
    "garbage": (b"hello\n", key_pem(CA_KEY), "is no certificate in PEM"),
    "garbage key": (CA, b"hello\n", "is no private key in PEM"),
    "pass phrase": (CA, key_pem(CA_KEY, b"secret"), "has a pass phrase"),
    "another key": (CA, key_pem(OTHER_KEY), "does not belong to"),
    "no authority": (certificate(CA_KEY, ca=False), key_pem(CA_KEY), "is no CA"),
    "may not sign": (certificate(CA_KEY, sign=False), key_pem(CA_KEY), "may not sign"),
    "no identifier": (
        certificate(CA_KEY, identifier=False),
        key_pem(CA_KEY),
        "has no subjectKeyIdentifier",
    ),
    "expired": (certificate(CA_KEY, days=-1), key_pem(CA_KEY), "has expired"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_bad_pair_is_named_before_anything_changes(machine: Machine, case: str) -> None:
    import re

    files = dict(zip(("ca.pem", "ca-key.pem"), PAIRS[case][:2], strict=True))
    for name, content in files.items():
        if content is None:
            (machine.source / name).unlink()
        else:
            (machine.source / name).write_bytes(content)
    result = machine.install_authority()
    assert result.returncode == 1 and result.stdout == ""
    assert re.search(PAIRS[case][2], result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not machine.etc("").exists() and not (machine.root / "programs").exists()


def test_missing_packages_are_named_all_at_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    packages = {
        **machine.platform.packages,
        "/no/cfssl": "golang-cfssl",
        "no-sqlite3": "sqlite3",
        "python3:no_cryptography": "python3-cryptography",
    }
    broken = replace(machine.platform, packages=packages)
    monkeypatch.setattr(authority_host, "_PLATFORMS", {"linux": broken})
    result = machine.install_authority()
    assert result.returncode == 1
    assert result.stderr == (
        f"{ADDRESS}: missing: cfssl no-sqlite3 no_cryptography; install them there: "
        "apt-get install --yes golang-cfssl sqlite3 python3-cryptography\n"
    )
    assert not machine.etc("").exists()


def test_the_gate_needs_the_authority(machine: Machine) -> None:
    result = machine.install_gate(*LISTENER)
    assert result.returncode == 1
    assert "the certificate authority is not set up" in result.stderr


def test_the_gate_comes_up_with_a_recorded_certificate(machine: Machine) -> None:
    good(machine.install_authority())
    result = good(machine.install_gate(*LISTENER))
    assert result.stdout == "" and "PRIVATE" not in result.stderr
    assert rows(machine) == [("autojoin join gate", "good")]
    cert = x509.load_pem_x509_certificate(machine.etc("join-gate/tls.pem").read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [ADDRESS]
    assert machine.etc("join-gate/tls-key.pem").stat().st_mode & 0o777 == 0o600
    machine.forget()
    again = good(machine.install_gate(*LISTENER))
    assert (again.stdout, again.stderr) == ("", "")
    assert machine.asked("restart") == [] and len(rows(machine)) == 1


def test_another_key_is_signed_anew(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    machine.forget()
    good(machine.install_gate(*listener(OTHER_KEY)))
    assert [line.split()[-1] for line in machine.asked("restart")] == ["join-gate.service"]
    assert len(rows(machine)) == 2
    cert = x509.load_pem_x509_certificate(machine.etc("join-gate/tls.pem").read_bytes())
    assert cert.public_key() == OTHER_KEY.public_key()


def test_a_key_that_does_not_fit_is_refused(machine: Machine) -> None:
    good(machine.install_authority())
    result = machine.install_gate(LISTENER[0], listener()[1])
    assert result.returncode == 1
    assert "does not belong to its certificate request" in result.stderr


def test_renewal_signs_only_when_due(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    program = Path(machine.platform.programs) / "join-gate.sh"
    machine.forget()
    good(machine.run(f"{program} renew"))
    assert len(rows(machine)) == 1 and machine.asked("restart") == []
    program.write_text(program.read_text().replace("10512000", "99999999"))
    good(machine.run(f"{program} renew"))
    assert len(rows(machine)) == 2
    assert [line.split()[-1] for line in machine.asked("restart")] == ["join-gate.service"]


def test_an_authority_set_up_anew_takes_its_gate_along(machine: Machine) -> None:
    """Its keys are new: a gate that kept the old one could have nothing signed."""
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    good(machine.run(authority.remove_command(machine.host)))
    good(machine.install_authority())
    upstream = machine.etc("join-gate/upstream.key").read_text()
    assert upstream == machine.etc("cfssl/gate.key").read_text()
    assert [line.split()[-1] for line in machine.asked("restart")][-1] == "join-gate.service"


def test_registration_works_through_what_was_installed(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    stdin = join_gate.register_input("worker-1", ["10.0.0.1"], 1, "one", "aa" * 32, "bb" * 32)
    result = good(machine.run(join_gate.register_command("worker-1"), stdin))
    assert json.loads(result.stdout) == {"node": "worker-1", "generation": 1, "identity": "one"}
    removed = good(machine.run(join_gate.remove_node_command("worker-1")))
    assert json.loads(removed.stdout) == {"node": "worker-1", "revoked": 0}


def test_removal_keeps_the_certdb_and_the_pair(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    # The user who owns the gate is root here, and must survive.
    stub = machine.root / "bin" / "userdel"
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    for _ in range(2):
        good(machine.run(join_gate.remove_command(machine.host)))
        good(machine.run(authority.remove_command(machine.host)))
    assert good(machine.run(join_gate.remove_node_command("worker-1"))).stdout == ""
    assert rows(machine) == [("autojoin join gate", "good")]
    assert sorted(path.name for path in machine.source.iterdir()) == ["ca-key.pem", "ca.pem"]
    left = [path for path in machine.root.rglob("*") if path.is_file()]
    kept = [path for path in left if path.parent.name not in ("bin", "state", "existing")]
    assert {path.name.partition("-")[0] for path in kept} == {"certdb.sqlite"}
    assert not list(machine.state.glob("*.pid"))
