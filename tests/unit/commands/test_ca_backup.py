"""Backups of the CA: what is no good is found before anything is made of it; SSH's refusals."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import tarfile
from pathlib import Path

import pytest

from commands import backup_file, ca_backup, ca_restore
from components.shell.ssh import SshError, host_key, options, refusal
from stack.models import Host
from tools.errors import LabError

PHRASE = "a pass phrase of some length"
HOST = Host(address="192.0.2.2", host_key="ssh-ed25519 " + "A" * 68)
STACK = Path("tests/unit/stack/valid.yaml")


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def content(tmp_path: Path) -> dict[str, bytes]:
    path = tmp_path / "certdb.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE certificates (status)")
        database.executemany("INSERT INTO certificates VALUES (?)", [("good",), ("revoked",)])
    files = {"certdb.sqlite": path.read_bytes(), "ca.pem": b"CERTIFICATE"}
    lines = [f"{hashlib.sha256(data).hexdigest()} *./{name}\n" for name, data in files.items()]
    return {**files, "MANIFEST": "".join(lines).encode()}


def test_a_backup_comes_back_as_it_was(content: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "backup"
    backup_file.write(path, backup_file.encrypted(tar(content), PHRASE))
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"CERTIFICATE" not in path.read_bytes()
    found = backup_file.Backup.of(backup_file.decrypted(path, PHRASE))
    assert {name: file.content for name, file in found.files.items()} == content
    assert found.summary() == "2 certificates, 1 of them revoked; without private keys"


def test_a_wrong_pass_phrase_and_an_altered_file_are_told(
    content: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "backup"
    whole = backup_file.encrypted(tar(content), PHRASE)
    path.write_bytes(whole)
    with pytest.raises(LabError):
        backup_file.Backup.of(backup_file.decrypted(path, "another one altogether"))
    for at in range(100, len(whole), 4999):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = backup_file.Backup.of(backup_file.decrypted(path, PHRASE))
        except LabError:
            continue
        # What is not inside a file of the tar (padding, times) may differ.
        assert {name: file.content for name, file in found.files.items()} == content
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabError):
        backup_file.Backup.of(backup_file.decrypted(path, PHRASE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ca.pem": b"ANOTHER"}, "damaged: ca.pem is not what its manifest says"),
        ({"../etc/passwd": b""}, "none of its own: ../etc/passwd"),
        ({"certdb.sqlite": None}, "certdb.sqlite is missing"),
        ({"MANIFEST": None}, "MANIFEST is missing"),
    ],
)
def test_what_is_no_backup_is_named(
    content: dict[str, bytes], change: dict[str, bytes | None], message: str
) -> None:
    changed = {**content, **change}
    files = {name: data for name, data in changed.items() if data is not None}
    with pytest.raises(LabError, match=message.replace(".", r"\.")):
        backup_file.Backup.of(tar(files))


def test_pass_phrases(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_text(f"{PHRASE}\nnot this\n")
    assert backup_file.passphrase(file, twice=True) == PHRASE
    file.write_text("short\n")
    with pytest.raises(LabError, match="at least 12 characters"):
        backup_file.passphrase(file, twice=True)
    with pytest.raises(LabError, match="can't be read"):
        backup_file.passphrase(tmp_path / "none", twice=False)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("x\nHost key verification failed.", "host.hostKey: 192.0.2.2 port 22 shows another host"),
        ("root@h: Permission denied (publickey).", "refuses the login of root"),
        ("ssh: connect to host h port 22: Connection refused", "can't be reached"),
        ("", "can't be reached (no reason given)"),
    ],
)
def test_refusals_name_the_key_of_the_configuration(said: str, message: str) -> None:
    assert message in refusal(HOST, said)


def test_only_the_pinned_kind_of_host_key_is_asked_for(tmp_path: Path) -> None:
    host = HOST.model_copy(update={"host_key": "ecdsa-sha2-nistp256 AAAA"})
    options(host, tmp_path)
    assert 'HostKeyAlgorithms "ecdsa-sha2-nistp256"\n' in (tmp_path / "config").read_text()


def test_commands_fail_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text(PHRASE)
    there = tmp_path / "there"
    there.touch()
    words = ["--passphrase-file", str(phrase)]
    assert ca_backup.main([str(tmp_path / "no.yaml"), *words]) == 1
    assert "no.yaml" in capsys.readouterr().err
    assert ca_restore.main([str(STACK), str(tmp_path / "none"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("autojoin: ") and len(error.splitlines()) == 1


def test_a_host_key_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "host.pub"
    host = Host(address="192.0.2.2", host_key=str(file))
    with pytest.raises(SshError, match=r"host\.hostKey: .*/host\.pub can't be read \(No such file"):
        host_key(host)
    file.write_text("no key\n")
    with pytest.raises(SshError, match="holds no public key"):
        host_key(host)
    file.write_text(f"{HOST.host_key} root@there\n")
    assert host_key(host) == host_key(HOST) == HOST.host_key
