"""machine.sh under dash: its own logic, with systemd and mounts stood in; the rest is the e2e's."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.machine_host.recipe import ASSEMBLE_SCRIPT, Book, recipe
from components.workers import nspawn
from components.workers.seed import Seed
from tests.unit.components.workers.fake_cluster import Authority

SEED = Seed("#cloud-config\n{}\n", "instance-id: a\n", "version: 2\n", "#cloud-config\n{}\n")
TOKEN = "ab" * 32
STAND_INS = """
systemctl() {
    printf '%s\\n' "$*" >>"$BASE/systemctl"
    case $* in
        restart*) touch "$BASE/active"; date +%s.%N >"$HOME_DIRECTORY/started" ;;
        stop*) rm -f "$BASE/active" ;;
        is-active*) [ -e "$BASE/active" ] ;;
    esac
}
mount_disk() { mkdir -p "$DISK/root"; }
unmount_disk() { :; }
start_relay() { printf 'relay\\n' >>"$BASE/systemctl"; }
"""


class Gate:
    """The part of a join gate that hears what hosts tell of their nodes."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[dict[str, Any]] = []
        self.down = False
        authority = Authority()
        self.authority_pem = authority.pem
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                known = self.headers["Authorization"] == f"Bearer {TOKEN}"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if known and not gate.down:
                    gate.heard.append({"path": self.path, **json.loads(body)})
                self.send_response(503 if gate.down else 204 if known else 401)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server_files(folder))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"https://127.0.0.1:{self.server.server_port}"

    def until(self, phase: str, state: str) -> dict[str, Any]:
        """The first event of that phase and state, once it was heard."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for event in self.heard:
                if (event["phase"], event["state"]) == (phase, state):
                    return event
            time.sleep(0.05)
        raise AssertionError(f"{phase} {state} was not heard: {self.heard}")


class Host:
    """A provisioning host in a folder."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder = folder
        self.gate = gate
        self.relays: list[subprocess.Popen[bytes]] = []
        self.machines = folder / "machines"
        (folder / "programs/books").mkdir(parents=True)
        shutil.copy(ASSEMBLE_SCRIPT, folder / "programs/assemble")
        functions, _, self.commands = nspawn.MACHINE_SCRIPT.read_text().partition("\ncommand=")
        self.script = (
            f"BASE={shlex.quote(str(folder))}\n{functions}\n"
            f"MACHINES=$BASE/machines LOCKS=$BASE/locks PROGRAMS=$BASE/programs UNITS=$BASE\n"
            "PROGRAM=$PROGRAMS/machine\n"
            f"{STAND_INS}\ncommand={self.commands}"
        )

    def machine(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["dash", "-c", self.script, "machine", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def apply(self, name: str = "worker-1", image: str = "/image", identity: str = "") -> None:
        members = nspawn.parcel(
            SEED,
            image=image,
            bridge="br0",
            gate_url=self.gate.url,
            authority_pem=self.gate.authority_pem,
            status_token=TOKEN,
            identity=identity,
            files={"/opt/tool/run": nspawn.File(b"#!/bin/sh\n", 0o755)},
        )
        result = self.machine("apply", name, "seed/user-data:0a1b2c3d", stdin=recipe(members))
        assert result.returncode == 0, result.stderr

    def relay(self, name: str = "worker-1") -> subprocess.Popen[bytes]:
        command = ["dash", "-c", self.script, "machine", "relay", name]
        self.relays.append(subprocess.Popen(command))
        return self.relays[-1]

    def restarts(self) -> int:
        log = self.folder / "systemctl"
        return log.read_text().count("restart") if log.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    gate = Gate(tmp_path)
    host = Host(tmp_path, gate)
    yield host
    for relay in host.relays:
        relay.kill()
        relay.wait()
    gate.server.shutdown()
    gate.server.server_close()


def test_apply_writes_the_machine_for_root_alone(host: Host) -> None:
    host.apply()
    home = host.machines / "worker-1"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "seed/user-data").stat().st_mode & 0o777 == 0o600
    inside = home / "disk/root/var/lib/cloud/seed/nocloud/user-data"
    assert inside.read_text() == SEED.user_data
    assert inside.stat().st_mode & 0o777 == 0o600
    tool = home / "disk/root/opt/tool/run"
    assert tool.stat().st_mode & 0o777 == 0o755
    assert tool.parent.stat().st_mode & 0o777 == 0o755
    assert not (host.machines / ".worker-1.incoming").exists()


def test_apply_restarts_what_has_not_joined_and_leaves_what_has(host: Host) -> None:
    host.apply()
    kept = host.machines / "worker-1/disk/root/kept"
    kept.touch()
    host.apply()
    assert host.restarts() == 2
    finish_join(host)
    host.apply()
    assert host.restarts() == 2
    assert kept.exists()
    assert (host.folder / "systemctl").read_text().count("relay\n") == 2


def test_only_another_identity_is_another_machine(host: Host) -> None:
    """Nothing else of the input touches one that has joined: it would find its join key used."""
    host.apply(identity="worker-1-g1-0")
    finish_join(host)
    host.apply(identity="worker-1-g1-0", image="/another")
    assert host.restarts() == 1
    host.apply(identity="worker-1-g1-1", image="/another")
    assert host.restarts() == 2
    assert not (host.machines / "worker-1/disk/root/var/lib/autojoin").exists()


def test_apply_of_something_else_starts_from_an_empty_disk(host: Host) -> None:
    host.apply()
    old = host.machines / "worker-1/disk/root/old"
    old.touch()
    host.apply(image="/another")
    assert not old.exists()
    assert host.restarts() == 2


def test_broken_input_changes_nothing(host: Host) -> None:
    host.apply()
    for text, message in (
        ("%%%\n", "not a recipe"),
        ("file 600 0 machine.env\n", "ends too early"),
        (recipe({"machine.env": nspawn.File(b"BRIDGE=a\n")}), "no seed/user-data"),
        (recipe({"../x": nspawn.File(b"")}), "names a file '../x'"),
        (recipe({}, Book("a\n")), "is missing. Its own step"),
    ):
        result = host.machine("apply", "worker-1", stdin=text)
        assert result.returncode == 1
        assert message in result.stderr
    assert (host.machines / "worker-1/complete").exists()
    assert host.restarts() == 1


def test_the_hosts_own_part_goes_with_the_last_machine(host: Host) -> None:
    host.apply()
    assert host.machine("uninstall").returncode == 0
    programs = host.folder / "programs"
    assert not (programs / "books").exists() and (programs / "assemble").exists()
    assert host.machine("remove", "worker-1").returncode == 0
    assert host.machine("uninstall").returncode == 0
    assert not (programs / "assemble").exists()


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "ä", "a" * 64, "a;b"])
def test_names_are_checked(host: Host, name: str) -> None:
    for command in ("apply", "relay", "remove", "run"):
        result = host.machine(command, name)
        assert result.returncode == 1
        assert f"machine name '{name}'" in result.stderr


def test_the_gate_hears_when_a_machine_was_started_and_that_it_stopped(host: Host) -> None:
    host.apply()
    console = "booting\n\x1b[31mno 'network'\x1b[0m\n\n"
    (host.machines / "worker-1/console.log").write_text(console)
    (host.folder / "active").unlink()
    relay = host.relay()
    begun = host.gate.until("start", "started")
    assert begun["path"] == "/v1/status/worker-1" and 0 <= begun["age"] < 20
    failed = host.gate.until("start", "failed")
    assert failed["message"] == "the machine stopped: console.log: no 'network'"
    assert relay.wait(20) == 0


def test_what_a_machine_could_not_tell_the_gate_is_read_on_its_disk(host: Host) -> None:
    host.apply()
    log = host.machines / "worker-1/disk/root/var/log/autojoin-join.log"
    log.parent.mkdir(parents=True)
    log.write_text("worker-1 clock done\nworker-1 authority failed: curl: (60) who (waited 6 s)\n")
    os.utime(log, (1, 1))  # of an earlier start
    relay = host.relay()
    host.gate.until("start", "started")
    time.sleep(1.5)
    assert len(host.gate.heard) == 1
    os.utime(log, (time.time() + 2, time.time() + 2))
    failed = host.gate.until("authority", "failed")
    assert failed["message"] == "curl: (60) who (waited 6 s)"
    time.sleep(1.5)
    assert len(host.gate.heard) == 2  # once
    finish_join(host)
    assert relay.wait(20) == 0


def test_a_join_that_no_gate_heard_of_is_told_once_it_listens(host: Host) -> None:
    host.gate.down = True
    host.apply()
    finish_join(host)
    relay = host.relay()
    time.sleep(1.2)
    host.gate.down = False
    host.gate.until("start", "started")
    host.gate.until("ready", "done")
    assert relay.wait(20) == 0


def test_remove_deletes_everything_and_may_be_repeated(host: Host) -> None:
    host.apply()
    for _ in range(2):
        result = host.machine("remove", "worker-1")
        assert (result.returncode, result.stderr) == (0, "")
        assert list(host.machines.iterdir()) == []


def test_what_is_another_identitys_is_not_removed(host: Host) -> None:
    host.apply(identity="worker-1-g2-0")
    result = host.machine("remove", "worker-1", "worker-1-g1-0")
    assert result.returncode == 0
    assert "machine worker-1 is worker-1-g2-0 here, not worker-1-g1-0: it stays" in result.stderr
    assert host.machine("remove", "worker-1").returncode == 1
    assert (host.machines / "worker-1/complete").exists()
    assert host.machine("remove", "worker-1", "worker-1-g2-0").returncode == 0
    assert list(host.machines.iterdir()) == []


def test_what_is_not_kept_goes(host: Host) -> None:
    host.apply(identity="worker-1-g1-0")
    host.apply("worker-2", identity="worker-2-g1-0")
    result = host.machine("keep", stdin="worker-2\nworker-3\n")
    assert result.returncode == 0, result.stderr
    assert "machine worker-1 is not of this stack any more: removed" in result.stderr
    assert [path.name for path in host.machines.iterdir()] == ["worker-2"]


def test_each_cluster_has_places_and_links_of_its_own(tmp_path: Path) -> None:
    """Two stacks on one host, with nodes of the same names."""
    functions, _, _ = nspawn.MACHINE_SCRIPT.read_text().partition("\ncommand=")
    shown = 'use_name node-1; printf "%s " "$PROGRAM" "$HOME_DIRECTORY" "$UNIT" "$MACHINE" "$LOCKS"'
    found = []
    for cluster in ("one", "two"):
        program = f"/usr/local/lib/autojoin/clusters/{cluster}/machine"
        command = ["dash", "-c", f"{functions}\n{shown}", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert found[0][:3] == [
        "/usr/local/lib/autojoin/clusters/one/machine",
        "/var/lib/autojoin/machines/one/node-1",
        "autojoin-machine-one@node-1.service",
    ]
    assert not set(found[0]) & set(found[1])
    assert all(len(f"vb-{words[3]}") <= 15 for words in found)


def finish_join(host: Host) -> None:
    """What a join leaves on the machine's disk at its end: its identity, no join key."""
    disk = host.machines / "worker-1/disk/root"
    (disk / "etc/autojoin").mkdir(parents=True)
    (disk / "var/lib/autojoin").mkdir(parents=True)
    (disk / "var/lib/autojoin/identity").write_text("worker-1-g1-0\n")
