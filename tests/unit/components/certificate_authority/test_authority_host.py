"""The CA's host by `pulumi up`: what is wrong is told, nothing lost; what is due is renewed."""

from __future__ import annotations

import datetime
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from components.certificate_authority.authority_host import FILES
from tests.unit.components.certificate_authority.authority_machine import Machine, key_pem
from tests.unit.components.certificate_authority.authority_stack import AuthorityStack
from tests.unit.components.certificate_authority.test_authority_scripts import CA, CA_KEY
from tests.unit.tools.plugins.plugin_engine import Project
from tests.unit.tools.plugins.ssh_server import SshServer, generate_key

pytestmark = pytest.mark.full

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityStack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "sshd").mkdir()
    shutil.copytree(FILES, folder / "files")
    script = folder / "files/certificate-authority.sh"
    # The installer need not wait out its ten seconds for a lock.
    script.write_text(script.read_text().replace(".timeout 10000", ".timeout 100"))
    machine = Machine(folder / "machine")
    server = SshServer(folder / "sshd")
    try:
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        project = Project(folder / "project")
        made = AuthorityStack(project, machine, server, folder / "files")
        server.start()
        made.up()
        yield made
    finally:
        server.stop()
        machine.close()


@contextmanager
def another_host_key(stack: AuthorityStack) -> Iterator[None]:
    pinned = stack.host["host_key"]
    stack.host["host_key"] = generate_key(stack.server.folder / "other_host")
    yield
    stack.host["host_key"] = pinned


@contextmanager
def another_type_of_host_key(stack: AuthorityStack) -> Iterator[None]:
    pinned = stack.host["host_key"]
    stack.host["host_key"] = generate_key(stack.server.folder / "ecdsa", kind="ecdsa")
    yield
    stack.host["host_key"] = pinned


@contextmanager
def another_login_key(stack: AuthorityStack) -> Iterator[None]:
    known = stack.host["private_key_file"]
    generate_key(stack.server.folder / "stranger")
    stack.host["private_key_file"] = str(stack.server.folder / "stranger")
    yield
    stack.host["private_key_file"] = known


@contextmanager
def sshd_is_down(stack: AuthorityStack) -> Iterator[None]:
    stack.server.stop()
    yield
    stack.server.start()


@contextmanager
def stub(stack: AuthorityStack, name: str, body: str) -> Iterator[None]:
    stack.machine.stub(name, body)
    yield
    (stack.machine.root / "bin" / name).unlink()


def not_root(stack: AuthorityStack) -> AbstractContextManager[None]:
    return stub(stack, "id", 'if [ "$*" = -u ]; then echo 1000; else echo alice; fi')


def full_disk(stack: AuthorityStack) -> AbstractContextManager[None]:
    return stub(stack, "df", "printf 'x\\nx 1 1 17 1 /\\n'")


@contextmanager
def locked(stack: AuthorityStack) -> Iterator[None]:
    script = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('BEGIN EXCLUSIVE');"
    program = f"{script} print('locked', flush=True); input()"
    with stack.machine.running([sys.executable, "-c", program, stack.machine.platform.certdb]):
        yield


@contextmanager
def certdb_of_another(stack: AuthorityStack) -> Iterator[None]:
    change(stack, "'00' || authority_key_identifier")
    yield
    change(stack, "substr(authority_key_identifier, 3)")


def change(stack: AuthorityStack, identifier: str) -> None:
    """Another CA's identifier for every certificate, all of it in the database's one file."""
    database = sqlite3.connect(stack.machine.platform.certdb)
    with database:
        database.execute(f"UPDATE certificates SET authority_key_identifier = {identifier}")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


@contextmanager
def another_key(stack: AuthorityStack) -> Iterator[None]:
    key = stack.machine.source / "ca-key.pem"
    key.write_bytes(key_pem(OTHER_KEY))
    yield
    key.write_bytes(key_pem(CA_KEY))


@contextmanager
def port_taken(stack: AuthorityStack) -> Iterator[None]:
    stack.machine.run("systemctl stop ocsp-responder.service")
    script = "import socket; s = socket.create_server(('127.0.0.1', 8889)); print(s, flush=True)"
    with stack.machine.running([sys.executable, "-c", f"{script}; input()"]):
        yield


Case = Callable[[AuthorityStack], AbstractContextManager[None]]
SSH = r'before hook "look at certificateAuthority\.host" failed: autojoin:certificateAuthority\.'
BAD: dict[str, tuple[Case, str]] = {
    "wrong host key": (
        another_host_key,
        SSH + r"host\.hostKey: 127\.0\.0\.1 port \d+ shows another host key \(SHA256:\S+\) than "
        r"this one \(SHA256:\S+\); nothing was sent there\..* "
        r"ssh-keyscan -t ed25519,ecdsa -p \d+ 127\.0\.0\.1",
    ),
    "host key of another type": (
        another_type_of_host_key,
        SSH + r"host\.hostKey: .* shows another host key \(.*Their offer: ssh-ed25519\) than this",
    ),
    "refused login": (
        another_login_key,
        SSH + r"host: 127\.0\.0\.1 port \d+ refuses the login of \w+ with privateKeyFile "
        r".*stranger \(.*Permission denied \(publickey.*\)\.\); put its public half into",
    ),
    "connection refused": (
        sshd_is_down,
        SSH + r"host: 127\.0\.0\.1 port \d+ can't be reached \(.*Connection refused\); see that",
    ),
    "not root": (not_root, "127.0.0.1: must run as root, found user alice; log in as root"),
    "disk full": (full_disk, "has 17 KiB free, needs 20480; make room there"),
    "certdb locked": (locked, "certdb.sqlite is locked by another program; end that one"),
    "certdb of another CA": (certdb_of_another, r"holds \d certificates of another CA, not of"),
    "key mismatch": (another_key, r"certificateAuthority\.key: .*ca-key\.pem does not belong to"),
    "port in use": (port_taken, "port 8889 is taken by another program, ocsp-responder needs it"),
}


@pytest.mark.parametrize("case", BAD)
def test_up_names_what_is_wrong_and_loses_nothing(stack: AuthorityStack, case: str) -> None:
    prepare, message = BAD[case]
    stack.hours += 1  # something to do there
    with prepare(stack):
        before = stack.machine.snapshot()
        shown = stack.up(fails=True)
        assert stack.machine.snapshot() == before
    diagnostics = shown.split("Diagnostics:")[1]
    assert re.search(message, diagnostics), shown
    assert "Traceback" not in shown
    assert diagnostics.count("error: ") <= 3, shown
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY", shown)


def test_and_once_it_is_right_the_change_is_made(stack: AuthorityStack) -> None:
    stack.hours += 1
    assert "1 updated" in stack.up()
    assert f'"{stack.hours}h"' in stack.machine.etc("cfssl/config.json").read_text()
    assert "unchanged" in stack.up()
    assert Path(stack.machine.platform.certdb).exists()


def certificate(stack: AuthorityStack) -> x509.Certificate:
    return x509.load_pem_x509_certificate(stack.machine.etc("join-gate/tls.pem").read_bytes())


def age(hours: int) -> Callable[[dict[str, dict[str, Any]]], None]:
    """Has the state's clock look as it will in that many hours."""

    def change(resources: dict[str, dict[str, Any]]) -> None:
        outputs = resources["gate-renewal"]["outputs"]
        for name in ("validityStartTime", "validityEndTime"):
            moment = datetime.datetime.fromisoformat(outputs[name])
            earlier = moment - datetime.timedelta(hours=hours)
            outputs[name] = earlier.strftime("%Y-%m-%dT%H:%M:%SZ")

    return change


def test_a_listener_certificate_is_renewed_within_its_last_third(stack: AuthorityStack) -> None:
    """And not an hour before, and not again after; its key stays."""
    stack.gate = True
    stack.up()
    first = certificate(stack)
    stack.edit_state(age(5839))
    assert "gate-renewal" not in stack.preview()
    stack.edit_state(age(2))  # 5841 of 8760 hours
    preview = stack.preview()
    assert re.search(r"\+-tls:index/selfSignedCert:SelfSignedCert: \(replace", preview)
    assert re.search(r"~ command:remote:Command: \(update\)[^+]*gate-service", preview)
    assert "gate-key" not in preview
    shown = stack.up()
    assert "join-gate: restarted for: renewal tls.pem" in shown, shown
    second = certificate(stack)
    assert second.serial_number != first.serial_number
    assert second.public_key() == first.public_key()
    assert "unchanged" in stack.preview()
    assert "unchanged" in stack.up()
    assert certificate(stack) == second
