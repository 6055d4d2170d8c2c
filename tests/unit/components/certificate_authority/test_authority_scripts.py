"""The installers of CFSSL and the join gate, run for real but for systemd."""

from __future__ import annotations

import base64
import datetime
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from commands.backup_file import Backup
from components.certificate_authority import authority_host
from components.certificate_authority import installation as authority
from components.certificate_authority.platforms import PLATFORMS
from components.join_gate import installation as join_gate
from tests.unit.components.certificate_authority.authority_machine import (
    ADDRESS,
    SIGNER,
    Machine,
    key_pem,
    listener,
)
from tests.unit.components.certificate_authority.conftest import both_processors


def certificate(
    key: Any,
    *,
    ca: bool = True,
    identifier: bool = True,
    days: float = 4000,
    sign: bool = True,
    crl: bool = True,
    above: Any = None,
) -> bytes:
    """A CA's certificate; one of an intermediate CA where `above` is the key that signs it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]) if above else name
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder(root, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=200))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=sign,
                crl_sign=crl,
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
    return builder.sign(above or key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CA_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
CA = certificate(CA_KEY)
LISTENER = listener()


@pytest.fixture
def machine(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        monkeypatch.setitem(PLATFORMS, "linux", machine.platform)
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
    assert machine.restarted() == ["cfssl", "ocsp-responder"]
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
        "cfssl.sha256": "0o640",
        "config.json": "0o640",
        "db.json": "0o640",
        "gate.key": "0o640",
        "ocsp-key.pem": "0o600",
        "ocsp-request.pem": "0o640",
        "operator.key": "0o640",
        "responder-ca.pem": "0o640",
        "responder.json": "0o640",
        "trust.pem": "0o640",
        "trust.signed": "0o640",
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
            " common_name) SELECT '1', authority_key_identifier, 'good', 'PEM', 'kept'"
            " FROM certificates"
        )
        columns = database.execute("PRAGMA table_info(certificates)").fetchall()
    assert len(columns) == 13
    before = machine.etc("cfssl/gate.key").read_text()
    machine.forget()
    good(machine.install_authority(node_certificate_hours=24))
    assert rows(machine) == [("OCSP signer", "good"), ("kept", "good")]
    assert machine.etc("cfssl/gate.key").read_text() == before
    assert machine.restarted() == ["cfssl"]


def test_an_interrupted_run_restarts_the_next_time(machine: Machine) -> None:
    """Every file is in place, but the service still runs with the old ones."""
    good(machine.install_authority())
    machine.forget()
    machine.etc("cfssl/restart-due").touch()
    result = good(machine.install_authority())
    assert "an interrupted run before" in result.stderr
    assert machine.restarted() == ["cfssl"]
    assert not machine.etc("cfssl/restart-due").exists()


def test_a_foreign_certdb_is_not_touched(machine: Machine) -> None:
    certdb = Path(machine.platform.certdb)
    certdb.parent.mkdir(parents=True)
    with sqlite3.connect(certdb) as database:
        database.execute("CREATE TABLE certificates (serial_number, pem)")
    before = certdb.read_bytes()
    result = machine.install_authority()
    assert result.returncode == 1 and "is no certdb of CFSSL" in result.stderr
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


Prepare = Callable[[Machine], None]


def other_authority(machine: Machine) -> None:
    good(machine.install_authority())
    (machine.source / "ca.pem").write_bytes(certificate(OTHER_KEY))
    (machine.source / "ca-key.pem").write_bytes(key_pem(OTHER_KEY))


def locked(machine: Machine) -> None:
    good(machine.install_authority())
    script = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('BEGIN EXCLUSIVE');"
    machine.start([sys.executable, "-c", f"{script} print('locked', flush=True); input()",
                   machine.platform.certdb])  # fmt: skip
    # The installer need not wait out its ten seconds.
    text = (authority_host.FILES / "certificate-authority.sh").read_text()
    machine.replace_file("certificate-authority.sh", text.replace(".timeout 10000", ".timeout 100"))


def garbage_certdb(machine: Machine) -> None:
    good(machine.install_authority())
    Path(machine.platform.certdb).write_bytes(b"hello\n" * 2000)


def port_taken(machine: Machine) -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 8889)); print(s, flush=True)"
    machine.start([sys.executable, "-c", f"{script}; input()"])


def full_disk(machine: Machine) -> None:
    machine.stub("df", "printf 'x\\nx 1 1 17 1 /\\n'")


def not_root(machine: Machine) -> None:
    machine.stub("id", 'if [ "$*" = -u ]; then echo 1000; else echo alice; fi')


BAD: dict[str, tuple[Prepare, str]] = {
    "certdb of another CA": (other_authority, "holds 1 certificates of another CA, not of"),
    "certdb locked": (locked, r"certdb.sqlite is locked by another program; end that one"),
    "certdb damaged": (garbage_certdb, "certdb.sqlite cannot be read: .*not a database"),
    "port in use": (port_taken, r"port 8889 is taken by another program, ocsp-responder needs it"),
    "disk full": (full_disk, "has 17 KiB free, needs 20480; make room there"),
    "not root": (not_root, "must run as root, found user alice; log in as root"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_loses_nothing(machine: Machine, case: str) -> None:

    prepare, message = BAD[case]
    prepare(machine)
    before = machine.snapshot()
    machine.forget()
    result = machine.install_authority(node_certificate_hours=24)
    assert result.returncode == 1 and result.stdout == ""
    assert re.search(message, result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert machine.snapshot() == before
    assert machine.restarted() == []


@both_processors
def test_an_update_that_does_not_run_is_taken_back(machine: Machine) -> None:
    """Hours beyond what CFSSL can count: it refuses its configuration and ends."""
    good(machine.install_authority())
    before = machine.snapshot()
    script = (authority_host.FILES / "certificate-authority.sh").read_text()
    machine.replace_file("certificate-authority.sh", script.replace('probe.py" 10', 'probe.py" 2'))
    result = machine.install_authority(node_certificate_hours=10**12)
    assert result.returncode == 1 and result.stdout == ""
    assert "cfssl: the update failed and was taken back: it runs as before" in result.stderr
    after = machine.snapshot()
    for name in ("config.json", "db.json", "ca-key.pem", "gate.key"):
        assert after[f"etc/cfssl/{name}"] == before[f"etc/cfssl/{name}"]
    answer = machine.run(
        "curl -sS -d '{}' http://127.0.0.1:8888/api/v1/cfssl/info --retry 20 --retry-delay 0"
        " --retry-connrefused"
    )
    assert json.loads(answer.stdout)["result"]["certificate"].strip() == CA.decode().strip()
    assert good(machine.install_authority()).stdout == CA.decode()


OLD_SCHEMA = """
CREATE TABLE certificates (serial_number blob NOT NULL, authority_key_identifier blob NOT NULL,
  ca_label blob, status blob NOT NULL, reason int, expiry timestamp, revoked_at timestamp,
  pem blob NOT NULL, PRIMARY KEY(serial_number, authority_key_identifier));
CREATE TABLE ocsp_responses (serial_number blob NOT NULL, authority_key_identifier blob NOT NULL,
  body blob NOT NULL, expiry timestamp, PRIMARY KEY(serial_number, authority_key_identifier));
"""


@both_processors
def test_an_older_certdb_is_migrated(machine: Machine) -> None:
    """As CFSSL made it before its second migration; without issued_at nothing can be signed."""
    certdb = Path(machine.platform.certdb)
    certdb.parent.mkdir(parents=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key()).digest.hex()
    with sqlite3.connect(certdb) as database:
        database.executescript(OLD_SCHEMA)
        database.execute(
            "INSERT INTO certificates VALUES ('7', ?, '', 'good', 0, '2030-01-01', NULL, 'PEM')",
            (identifier,),
        )
    result = good(machine.install_authority())
    assert "an older schema; added: issued_at not_before metadata sans common_name" in result.stderr
    assert rows(machine) == [(None, "good"), ("OCSP signer", "good")]
    with sqlite3.connect(f"{certdb}.before-migration") as copy:
        assert copy.execute("SELECT count(*) FROM certificates").fetchall() == [(1,)]
    assert "older schema" not in good(machine.install_authority()).stderr


def test_another_certificate_than_nodes_were_given_changes_nothing(machine: Machine) -> None:
    good(machine.install_authority())
    (machine.source / "ca.pem").write_bytes(certificate(CA_KEY, days=50))
    before = machine.snapshot()
    given = authority.install_input(machine.host, *SIGNER, CA.decode().strip())
    result = machine.run(authority.install_command(machine.host), given)
    assert result.returncode == 1
    assert "is another one than nodes were given; where that is meant: pulumi up" in result.stderr
    assert machine.snapshot() == before


def test_missing_packages_are_named_all_at_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:

    packages = {
        **machine.platform.packages,
        "/no/openssl": "openssl",
        "no-sqlite3": "sqlite3",
        "python3:no_cryptography": "python3-cryptography",
    }
    broken = replace(machine.platform, packages=packages)
    monkeypatch.setitem(PLATFORMS, "linux", broken)
    result = machine.install_authority()
    assert result.returncode == 1
    assert result.stderr == (
        f"{ADDRESS}: missing: openssl no-sqlite3 no_cryptography; install them there: "
        "apt-get install --yes openssl sqlite3 python3-cryptography\n"
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
    assert rows(machine) == [("OCSP signer", "good"), ("autojoin join gate", "good")]
    cert = x509.load_pem_x509_certificate(machine.etc("join-gate/tls.pem").read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [ADDRESS]
    assert machine.etc("join-gate/tls-key.pem").stat().st_mode & 0o777 == 0o600
    machine.forget()
    again = good(machine.install_gate(*LISTENER))
    assert (again.stdout, again.stderr) == ("", "")
    assert machine.asked("restart") == [] and len(rows(machine)) == 2


def test_kubeadms_authority_may_sign_no_crl_and_needs_none(machine: Machine) -> None:
    (machine.source / "ca.pem").write_bytes(certificate(CA_KEY, crl=False))
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    program = f"{machine.platform.programs}/certificate-authority.sh"
    good(machine.run(f"{program} refresh"))
    assert not Path(machine.platform.authority_state, "ca.crl").exists()
    cert = x509.load_pem_x509_certificate(machine.etc("join-gate/tls.pem").read_bytes())
    kinds = {it.oid for it in cert.extensions}
    assert ExtensionOID.CRL_DISTRIBUTION_POINTS not in kinds
    assert ExtensionOID.AUTHORITY_INFORMATION_ACCESS in kinds  # OCSP
    machine.forget()
    assert good(machine.install_authority()).stderr == ""
    assert machine.asked("restart") == []


def test_an_intermediate_authority_is_one(machine: Machine) -> None:
    """Whoever is given its certificate trusts that, and asks for no chain above it."""
    pem = certificate(CA_KEY, above=OTHER_KEY)
    (machine.source / "ca.pem").write_bytes(pem)
    assert good(machine.install_authority()).stdout == pem.decode()
    good(machine.install_gate(*LISTENER))
    assert rows(machine) == [("OCSP signer", "good"), ("autojoin join gate", "good")]


@both_processors
def test_no_certificate_outlives_its_authority(machine: Machine) -> None:
    pem = certificate(CA_KEY, days=1)
    (machine.source / "ca.pem").write_bytes(pem)
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    said = good(machine.install_authority()).stderr
    assert "before nodes' certificates would: theirs end with it" in said
    good(machine.install_gate(*LISTENER))
    settings = json.loads(machine.etc("cfssl/config.json").read_text())["signing"]
    profiles = (settings["default"], *settings["profiles"].values())
    assert {it["not_after"] for it in profiles} == {end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    cert = x509.load_pem_x509_certificate(machine.etc("join-gate/tls.pem").read_bytes())
    assert cert.not_valid_after_utc == end
    # As long as it can be: neither is signed anew again and again.
    good(machine.run(f"{machine.platform.programs}/certificate-authority.sh refresh"))
    good(machine.run(f"{machine.platform.programs}/join-gate.sh renew"))
    assert len(rows(machine)) == 2


def test_another_key_is_signed_anew(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    machine.forget()
    good(machine.install_gate(*listener(OTHER_KEY)))
    assert machine.restarted() == ["join-gate"]
    assert len(rows(machine)) == 3
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
    assert len(rows(machine)) == 2 and machine.asked("restart") == []
    program.write_text(program.read_text().replace("10512000", "99999999"))
    good(machine.run(f"{program} renew"))
    assert len(rows(machine)) == 3
    assert machine.restarted() == ["join-gate"]


def test_an_authority_set_up_anew_takes_its_gate_along(machine: Machine) -> None:
    """Its keys are new: a gate that kept the old one could have nothing signed."""
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    good(machine.run(authority.remove_command(machine.host)))
    good(machine.install_authority())
    upstream = machine.etc("join-gate/upstream.key").read_text()
    assert upstream == machine.etc("cfssl/gate.key").read_text()
    assert machine.restarted()[-1] == "join-gate"


def test_registration_works_through_what_was_installed(machine: Machine) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    stdin = join_gate.register_input("worker-1", ["10.0.0.1"], 1, "one", "aa" * 32, "bb" * 32)
    result = good(machine.run(join_gate.register_command(machine.host, "worker-1"), stdin))
    assert json.loads(result.stdout) == {"node": "worker-1", "generation": 1, "identity": "one"}
    removed = good(machine.run(join_gate.remove_node_command(machine.host, "worker-1", "one")))
    assert json.loads(removed.stdout) == {"node": "worker-1", "revoked": 0}


def test_a_replaced_gate_knows_its_nodes(machine: Machine) -> None:
    """`pulumi up --replace` of the service: deleted, then made again."""
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    register = join_gate.register_command(machine.host, "worker-1")
    stdin = join_gate.register_input("worker-1", ["10.0.0.1"], 1, "one", "aa" * 32, "bb" * 32)
    good(machine.run(register, stdin))
    before = good(machine.run(join_gate.status_command(machine.host))).stdout
    removed = good(machine.run(join_gate.remove_command(machine.host)))
    assert "the join gate's state stays" in removed.stderr
    assert not machine.etc("join-gate").exists()
    good(machine.install_gate(*LISTENER))
    assert good(machine.run(join_gate.status_command(machine.host))).stdout == before
    assert json.loads(before)["nodes"][0]["node"] == "worker-1"


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
    assert (
        good(machine.run(join_gate.remove_node_command(machine.host, "worker-1", "one"))).stdout
        == ""
    )
    assert rows(machine) == [("OCSP signer", "good"), ("autojoin join gate", "good")]
    assert sorted(path.name for path in machine.source.iterdir()) == ["ca-key.pem", "ca.pem"]
    left = [path for path in machine.root.rglob("*") if path.is_file()]
    kept = [path for path in left if path.parent.name not in ("bin", "state", "existing")]
    assert {path.name.partition("-")[0] for path in kept} == {"certdb.sqlite"}
    assert not list(machine.state.glob("*.pid"))


def generate(machine: Machine) -> subprocess.CompletedProcess[str]:
    host = replace(
        machine.host,
        source="generate",
        certificate="",
        key="",
        subject={"country": "SE", "locality": "Stockholm"},
    )
    return machine.run(authority.pair_command(host), authority.pair_input(host))


@both_processors
def test_a_pair_is_made_once_and_never_leaves(machine: Machine) -> None:
    first = good(generate(machine))
    certificate = x509.load_pem_x509_certificate(first.stdout.encode())
    assert certificate.subject.rfc4514_string() == "CN=kubernetes-ca,L=Stockholm,C=SE"
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = machine.root / "generated" / "ca-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in first.stdout + first.stderr
    before = machine.snapshot()
    again = good(generate(machine))
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert machine.snapshot() == before
    # All of it works with that pair; and a removal keeps it.
    installed = good(machine.install_authority(source="generate", certificate="", key=""))
    assert installed.stdout == first.stdout
    good(machine.run(authority.remove_command(machine.host)))
    assert good(generate(machine)).stdout == first.stdout


@pytest.mark.full
def test_another_pair_is_made_and_takes_the_place_of_the_first(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        ("", ""),
        tuple(str(machine.root / "generated" / name) for name in ("next.pem", "next-key.pem")),
    )
    own = tuple(str(machine.root / "generated" / name) for name in ("ca.pem", "ca-key.pem"))

    def edit(signs: tuple[str, ...], also: tuple[str, ...]) -> str:
        """As `pulumi up`: what nodes are to trust."""
        changes: dict[str, Any] = {"source": "generate", "also": also}
        changes |= {"certificate": signs[0], "key": signs[1]}
        host = replace(machine.host, **changes)
        given = good(machine.run(authority.pair_command(host), authority.pair_input(host))).stdout
        assert good(machine.install_authority(**changes)).stdout == given
        return given

    alone = edit(first, ("", ""))
    good(machine.install_gate(*LISTENER))
    # Not at one blow: a new CA that is to sign is made for a certdb that holds nothing.
    host = replace(machine.host, source="generate", certificate=second[0], key=second[1])
    refused = machine.run(authority.pair_command(host), authority.pair_input(host))
    assert refused.returncode == 1 and "name it as also" in refused.stderr
    both = edit(first, second)
    made = both.removeprefix(alone)
    assert both.startswith(alone) and made
    subject = x509.load_pem_x509_certificate(made.encode()).subject.rfc4514_string()
    assert subject == "CN=kubernetes-ca next"
    assert edit(second, own) == made + alone
    listener_pem = machine.etc("join-gate/tls.pem").read_bytes()
    issuer = x509.load_pem_x509_certificate(listener_pem).issuer.rfc4514_string()
    assert issuer == "CN=kubernetes-ca next"
    answer = good(machine.run(f"{authority.backup_command(machine.host, keys=True)} | base64 -w0"))
    backup = Backup.of(base64.b64decode(answer.stdout))
    assert edit(second, ("", "")) == made
    before = rows(machine)
    assert (
        "restarted"
        not in good(
            machine.install_authority(source="generate", certificate=second[0], key=second[1])
        ).stderr
    )
    assert rows(machine) == before
    assert not list(machine.etc("cfssl").glob("also*"))
    machine.close()

    fresh = Machine(tmp_path / "fresh")
    monkeypatch.setitem(PLATFORMS, "linux", fresh.platform)
    next_pem, next_key, ca_pem, ca_key = (
        str(fresh.root / "generated" / Path(it).name) for it in (*second, *own)
    )
    host = replace(
        fresh.host,
        source="generate",
        certificate=next_pem,
        key=next_key,
        also=(ca_pem, ca_key),
    )
    try:
        data = authority.restore_input(host, backup.files, join_gate.files(host))
        good(fresh.run(authority.restore_command(host), data))
        assert fresh.etc("cfssl/trust.pem").read_text() == made + alone
    finally:
        fresh.close()


def test_ocsp_and_a_crl_are_there_for_both(machine: Machine) -> None:
    (machine.source / "next.pem").write_bytes(certificate(OTHER_KEY))
    (machine.source / "next-key.pem").write_bytes(key_pem(OTHER_KEY))
    old, new = (
        (str(machine.source / f"{name}.pem"), str(machine.source / f"{name}-key.pem"))
        for name in ("ca", "next")
    )
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    (machine.root / "old.pem").write_bytes(machine.etc("join-gate/tls.pem").read_bytes())
    good(machine.install_authority(also=new))
    good(machine.install_authority(certificate=new[0], key=new[1], also=old))
    (machine.root / "new.pem").write_bytes(machine.etc("join-gate/tls.pem").read_bytes())

    def status(name: str, issuer: str) -> str:
        words = f"openssl ocsp -issuer {issuer} -CAfile {issuer} -cert {machine.root}/{name}.pem"
        result = machine.run(f"{words} -url http://127.0.0.1:8889")
        return result.stdout.partition(": ")[2].partition("\n")[0] or result.stdout.strip()

    def crl(path: str, issuer: str) -> str:
        fetched = f"curl -sf http://127.0.0.1:8889/{path}"
        return machine.run(f"{fetched} | openssl crl -inform DER -noout -CAfile {issuer}").stderr

    assert (status("old", old[0]), status("new", new[0])) == ("good", "good")
    assert "unauthorized" in status("old", new[0]) and "unauthorized" in status("new", old[0])
    assert "verify OK" in crl("ca.crl", new[0]) and "verify OK" in crl("also.crl", old[0])
    with sqlite3.connect(machine.platform.certdb) as database:
        database.execute(
            "UPDATE certificates SET status = 'revoked', reason = 4,"
            " revoked_at = '2026-01-31 12:00:00' WHERE rowid ="
            " (SELECT min(rowid) FROM certificates WHERE common_name = 'autojoin join gate')"
        )
    assert (status("old", old[0]), status("new", new[0])) == ("revoked", "good")
    good(machine.install_authority(certificate=new[0], key=new[1]))
    assert "unauthorized" in status("old", old[0]) and status("new", new[0]) == "good"
    assert "verify OK" not in crl("also.crl", old[0])


def test_a_key_left_by_an_interrupted_run_is_used(machine: Machine) -> None:
    good(generate(machine))
    key = (machine.root / "generated" / "ca-key.pem").read_bytes()
    (machine.root / "generated" / "ca.pem").unlink()
    pem = good(generate(machine)).stdout
    assert (machine.root / "generated" / "ca-key.pem").read_bytes() == key
    public = serialization.load_pem_private_key(key, None).public_key()
    assert x509.load_pem_x509_certificate(pem.encode()).public_key() == public


def test_no_second_authority_is_made_beside_a_first(machine: Machine) -> None:
    good(generate(machine))
    good(machine.install_authority(source="generate", certificate="", key=""))
    pair = [machine.root / "generated" / name for name in ("ca-key.pem", "ca.pem")]
    pair[0].unlink()
    result = generate(machine)
    assert (
        result.returncode == 1 and "ca-key.pem is not there, but its certificate" in result.stderr
    )
    pair[1].unlink()
    result = generate(machine)
    assert result.returncode == 1 and "holds certificates of an earlier CA" in result.stderr
    assert not any(path.exists() for path in pair)


@pytest.mark.parametrize("keys", [True, False])
def test_a_backup_makes_the_same_authority_on_a_fresh_host(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: bool
) -> None:
    good(machine.install_authority())
    good(machine.install_gate(*LISTENER))
    stdin = join_gate.register_input("worker-1", ["10.0.0.1"], 1, "one", "aa" * 32, "bb" * 32)
    good(machine.run(join_gate.register_command(machine.host, "worker-1"), stdin))
    before = rows(machine)
    command = authority.backup_command(machine.host, keys=keys)
    answer = good(machine.run(f"{command} | base64 -w0"))
    backup = Backup.of(base64.b64decode(answer.stdout))
    assert backup.has_keys == keys
    private = [name for name, file in backup.files.items() if b"PRIVATE KEY" in file.content]
    assert sorted(private) == (["ca-key.pem", "ocsp-key.pem", "tls-key.pem"] if keys else [])
    assert ("gate.key" in backup.files) == keys
    assert not list(Path(machine.platform.authority_state).glob("backup*"))
    restore = authority.restore_command(machine.host)
    data = authority.restore_input(machine.host, backup.files, join_gate.files(machine.host))
    refused = machine.run(restore, data)
    assert refused.returncode == 1 and "certdb.sqlite is here already" in refused.stderr
    machine.close()

    fresh = Machine(tmp_path / "fresh")
    monkeypatch.setitem(PLATFORMS, "linux", fresh.platform)
    data = authority.restore_input(fresh.host, backup.files, join_gate.files(fresh.host))
    try:
        if not keys:
            lacking = fresh.run(restore, data)
            assert lacking.returncode == 1 and "made without keys" in lacking.stderr
            (fresh.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        good(fresh.run(authority.restore_command(fresh.host), data))
        assert rows(fresh) == before
        if not keys:
            assert good(fresh.install_authority()).stdout == CA.decode()
            return
        gate = f"{fresh.platform.programs}/gate --settings {fresh.etc('join-gate')}/gate.json"
        status = good(fresh.run(f"{gate} status worker-1"))
        assert json.loads(status.stdout)["node"] == "worker-1"
        fresh.forget()
        assert good(fresh.install_authority()).stderr == ""
        assert good(fresh.install_gate(*LISTENER)).stderr == ""
    finally:
        fresh.close()
