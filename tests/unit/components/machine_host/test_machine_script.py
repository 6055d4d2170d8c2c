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
"""


class Gate:
    """The status part of a join gate: what it says about every node, as lines."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        authority = Authority()
        self.authority_pem = authority.pem
        gate = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers["Authorization"] == f"Bearer {TOKEN}"
                after = int(self.path.partition("after=")[2].partition("&")[0])
                new = [line for line in gate.lines if int(line.split("\t")[0]) > after]
                if not new and "wait=0" not in self.path:
                    time.sleep(0.2)
                self.send_response(200 if known else 401)
                self.end_headers()
                self.wfile.write("".join(line + "\n" for line in new).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server_files(folder))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"https://127.0.0.1:{self.server.server_port}"

    def say(self, phase: str, state: str, message: str = "") -> None:
        number = len(self.lines) + 1
        self.lines.append(f"{number}\t{time.time() + 1.5:.3f}\t{phase}\t{state}\t{message}")


class Host:
    """A provisioning host in a folder."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder = folder
        self.gate = gate
        self.machines = folder / "machines"
        (folder / "programs/books").mkdir(parents=True)
        shutil.copy(ASSEMBLE_SCRIPT, folder / "programs/assemble")
        functions, _, self.commands = nspawn.MACHINE_SCRIPT.read_text().partition("\ncommand=")
        self.script = (
            f"BASE={shlex.quote(str(folder))}\n{functions}\n"
            f"MACHINES=$BASE/machines LOCKS=$BASE/locks PROGRAMS=$BASE/programs UNITS=$BASE\n"
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

    def apply(self, name: str = "worker-1", image: str = "/image") -> None:
        members = nspawn.parcel(
            SEED,
            image=image,
            bridge="br0",
            gate_url=self.gate.url,
            authority_pem=self.gate.authority_pem,
            status_token=TOKEN,
            files={"/opt/tool/run": nspawn.File(b"#!/bin/sh\n", 0o755)},
        )
        result = self.machine("apply", name, "seed/user-data:0a1b2c3d", stdin=recipe(members))
        assert result.returncode == 0, result.stderr

    def restarts(self) -> int:
        log = self.folder / "systemctl"
        return log.read_text().count("restart") if log.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    gate = Gate(tmp_path)
    yield Host(tmp_path, gate)
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
    host.gate.say("ready", "done")
    assert host.machine("await", "worker-1", "10").returncode == 0
    host.apply()
    assert host.restarts() == 2
    assert kept.exists()


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


def test_a_machine_of_an_earlier_version_is_left_alone(host: Host) -> None:
    """Its mark was the tar that its input was; its definition is the same all the same."""
    host.apply()
    home = host.machines / "worker-1"
    (home / "complete").rename(home / "seed.tar")
    host.gate.say("ready", "done")
    assert host.machine("await", "worker-1", "10").returncode == 0
    host.apply()
    assert host.restarts() == 1
    assert not (home / "complete").exists()


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
    for command in ("apply", "await", "remove", "run"):
        result = host.machine(command, name)
        assert result.returncode == 1
        assert f"machine name '{name}'" in result.stderr


def test_await_prints_phases_and_ends_with_a_summary(host: Host) -> None:
    host.apply()
    for phase in ("clock", "authority", "certificate", "runtime", "kubelet", "node"):
        host.gate.say(phase, "done")
    host.gate.say("ready", "started", "no CNI yet")
    host.gate.say("ready", "done")
    result = host.machine("await", "worker-1", "10")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("worker-1: clock done (1.")
    assert lines[6].endswith(" s): no CNI yet")
    summary = json.loads(lines[-1])
    assert summary["node"] == "worker-1"
    assert 1 < summary["readySeconds"] < 10
    assert list(summary["phases"]) == [
        *("clock", "authority", "certificate", "runtime", "kubelet", "node", "ready")
    ]
    again = host.machine("await", "worker-1", "10")
    assert again.stdout.splitlines() == [lines[-1]]


def test_await_names_the_phase_that_failed_and_what_to_do(host: Host) -> None:
    host.apply()
    host.gate.say("certificate", "failed", "already joined; raise its generation")
    result = host.machine("await", "worker-1", "10")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "worker-1 did not join: phase certificate: already joined; raise its generation; "
        "do what the join gate's message says, then run this again"
    )


def test_failures_of_an_earlier_attempt_do_not_decide_the_next(host: Host) -> None:
    host.gate.say("certificate", "failed", "yesterday")
    host.apply()
    host.gate.say("ready", "done")
    result = host.machine("await", "worker-1", "10")
    assert result.returncode == 0, result.stderr


def test_silence_ends_with_the_last_line_of_the_machine(host: Host) -> None:
    host.apply()
    (host.machines / "worker-1/console.log").write_text("booting\n\x1b[31mno network\x1b[0m\n\n")
    host.gate.say("clock", "done")
    result = host.machine("await", "worker-1", "2")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "worker-1 did not join: phase clock: nothing more was heard within 2 s; "
        "last line of console.log: no network; "
        "set the clock of the machine or its host, then run this again"
    )


def test_what_a_machine_could_not_tell_the_gate_is_read_on_its_disk(host: Host) -> None:
    host.apply()
    log = host.machines / "worker-1/disk/root/var/log/autojoin-join.log"
    log.parent.mkdir(parents=True)
    log.write_text("worker-1 clock done\nworker-1 authority failed: curl: (60) who (waited 6 s)\n")
    os.utime(log, (1, 1))  # of an earlier start
    assert "nothing more was heard" in host.machine("await", "worker-1", "1").stderr
    os.utime(log, (time.time() + 2, time.time() + 2))
    result = host.machine("await", "worker-1", "30")
    assert result.returncode == 1
    told = "worker-1 did not join: phase authority: curl: (60) who (waited 6 s); check that"
    assert told in result.stderr


def test_machine_that_stopped_ends_the_wait_at_once(host: Host) -> None:
    host.apply()
    (host.folder / "active").unlink()
    started = time.monotonic()
    result = host.machine("await", "worker-1", "30")
    assert result.returncode == 1
    assert "phase start: the machine stopped: " in result.stderr
    assert time.monotonic() - started < 10


def test_gate_out_of_reach_is_named(host: Host) -> None:
    host.apply()
    (host.machines / "worker-1/await.env").write_text("GATE_URL=https://127.0.0.1:1\n")
    result = host.machine("await", "worker-1", "1")
    assert result.returncode == 1
    assert "the provisioning host cannot follow it at the join gate: curl: (7)" in result.stderr


def test_remove_deletes_everything_and_may_be_repeated(host: Host) -> None:
    host.apply()
    for _ in range(2):
        result = host.machine("remove", "worker-1")
        assert (result.returncode, result.stderr) == (0, "")
        assert list(host.machines.iterdir()) == []


def finish_join(host: Host) -> None:
    """What a join leaves on the machine's disk at its end: its identity, no join key."""
    disk = host.machines / "worker-1/disk/root"
    (disk / "etc/autojoin").mkdir(parents=True)
    (disk / "var/lib/autojoin").mkdir(parents=True)
    (disk / "var/lib/autojoin/identity").write_text("worker-1-g1-0\n")


def test_a_machine_that_joined_with_nobody_waiting_is_left_running(host: Host) -> None:
    """After a power cut the hypervisor starts machines by itself, before they are applied again."""
    host.apply()
    finish_join(host)
    host.gate.say("clock", "done")
    host.gate.say("ready", "done")
    host.apply()
    assert host.restarts() == 1
    result = host.machine("await", "worker-1", "10")
    assert result.returncode == 0, result.stderr
    assert list(json.loads(result.stdout.splitlines()[-1])["phases"]) == ["clock", "ready"]


def test_a_join_that_no_gate_heard_of_is_seen_on_the_disk(host: Host) -> None:
    host.apply()
    time.sleep(0.2)
    finish_join(host)
    host.apply()
    result = host.machine("await", "worker-1", "10")
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout.splitlines()[-1])["readySeconds"] < 5
    assert "joined before the join gate listened" in result.stdout
