"""`make status`: what is made of the answers of gate and API server; tests/e2e asks both."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from commands import status
from components.load import from_stack_file
from components.shell import ssh
from stack.models import Host
from tools.pins import CHECKOUT

CONFIG = CHECKOUT / "tests/unit/stack"
LAB = from_stack_file(CONFIG / "valid.yaml")
NAME, WORKER = next(iter(LAB.workers.items()))


def node(**changes: Any) -> dict[str, Any]:
    """A node as `gate status` prints it."""
    return {
        "node": NAME,
        "addresses": [WORKER.addresses[0]],
        "generation": WORKER.generation,
        "expired": False,
        "joined": False,
        "phase": None,
        "state": None,
        "message": None,
        "at": None,
    } | changes


@pytest.mark.parametrize(
    ("given", "join", "word"),
    [
        (None, "not registered", "`pulumi up` registers it"),
        (node(), "waiting", "nothing heard of it yet"),
        (node(phase="clock", state="started", message="waiting for time"), "clock started", "time"),
        (node(phase="runtime", state="failed", message="no socket"), "runtime failed", "no socket"),
        (node(joined=True), "has its certificate", ""),
        (node(joined=True, phase="ready", state="done"), "joined", ""),
        (node(expired=True), "expired", "raise its generation to join it anew"),
        (node(expired=True, joined=True, phase="ready", state="done"), "joined", ""),
        (node(generation=7), "waiting", "the stack file has generation 1"),
    ],
)
def test_how_far_a_join_came(given: dict[str, Any] | None, join: str, word: str) -> None:
    line = status.line(NAME, LAB, given, None)
    assert line.join == join and word in line.word


def test_every_worker_has_a_line_and_so_has_what_only_the_gate_knows() -> None:
    nodes = {"stranger": node(node="stranger", at=0.5)}
    shown = status.lines(LAB, nodes, {})
    assert [it.name for it in shown] == [*LAB.workers, "stranger"]
    assert "not in the stack file" in shown[-1].word
    rows = status.table(shown).splitlines()
    assert rows[0].split()[:3] == ["NAME", "HARDWARE", "ADDRESS"] and len(rows) == len(shown) + 1


@pytest.mark.parametrize(
    ("readiness", "ready", "fine"),
    [({NAME: "True"}, "True", True), ({}, "no Node", False), (None, "unknown", True)],
)
def test_ready_or_not(readiness: dict[str, str] | None, ready: str, fine: bool) -> None:
    """Without the API server, the gate's word that it was Ready is good enough."""
    joined = node(joined=True, phase="ready", state="done", at=1_700_000_000.0)
    line = status.line(NAME, LAB, joined, readiness)
    assert (line.ready, line.fine) == (ready, fine)
    assert line.at == "2023-11-14T22:13:20+00:00"


NOW = time.time()


@pytest.mark.parametrize(
    ("left", "trouble", "word"),
    [
        (0.9, None, ""),
        (0.34, None, ""),
        (0.3, None, "is not renewed: `journalctl -u autojoin-renew` on the machine says why"),
        (0.3, "the disk is full", "is not renewed: the disk is full"),
        (0.9, "renewed for a second key", "renewed for a second key"),
        (-0.1, None, "raise its generation to join it anew"),
    ],
)
def test_a_certificate_that_is_not_renewed_is_told_while_a_third_is_left(
    left: float, trouble: str | None, word: str
) -> None:
    life = 168 * 3600
    joined = node(joined=True, phase="ready", state="done", trouble=trouble)
    joined |= {"certificateFrom": NOW - life * (1 - left), "certificateUntil": NOW + life * left}
    line = status.line(NAME, LAB, joined, {NAME: "True"})
    assert word in line.word and line.fine == (not word) and line.join == "joined"


def run(monkeypatch: pytest.MonkeyPatch, file: Path, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["status", "home", "--file", str(file), *words])
    return status.main()


def test_a_host_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (CONFIG / "valid.yaml").read_text()
    monkeypatch.setattr(status, "open_lab", lambda file, stack: LAB)
    host = Host(address="127.0.0.1", port=1, host_key="ssh-ed25519 AAAA")
    lab = LAB.model_copy(
        update={
            "certificate_authority": LAB.certificate_authority.model_copy(update={"host": host})
        }
    )
    monkeypatch.setattr(status, "open_lab", lambda file, stack: lab)
    (tmp_path / "Pulumi.home.yaml").write_text(text)
    assert run(monkeypatch, tmp_path / "Pulumi.home.yaml") == 2
    shown = capsys.readouterr().err
    assert shown.startswith(
        "autojoin: the join gate can't be asked: autojoin:certificateAuthority."
    )
    assert len(shown.splitlines()) == 1 and "Connection refused" in shown


def test_a_bad_stack_file_is_told_as_check_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    file.write_text("config: {}\n")
    assert run(monkeypatch, file) == 2
    assert "autojoin:cluster" in capsys.readouterr().err


def test_json_is_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    joined = node(joined=True, phase="ready", state="done")
    monkeypatch.setattr(status, "open_lab", lambda file, stack: LAB)
    monkeypatch.setattr(status, "registered", lambda lab: {NAME: joined})
    monkeypatch.setattr(status, "ready", lambda lab: ({}, "no route to host"))
    assert run(monkeypatch, tmp_path / "x", "--json") == (0 if len(LAB.workers) == 1 else 1)
    shown = json.loads(capsys.readouterr().out)
    assert shown["apiServer"] == "no route to host"
    assert shown["workers"][0]["join"] == "joined"


def test_a_key_of_the_configuration_is_never_an_argument(tmp_path: Path) -> None:
    host = Host(
        address="192.0.2.1", port=2222, host_key="ssh-ed25519 AAAA", private_key=SecretStr("SECRET")
    )
    words = ssh.options(host, tmp_path)
    assert not any("SECRET" in word for word in words)
    assert (tmp_path / "key_host").stat().st_mode & 0o777 == 0o600
    assert "SECRET" not in (tmp_path / "config").read_text()
    assert (tmp_path / "known_hosts_host").read_text() == "host ssh-ed25519 AAAA\n"
