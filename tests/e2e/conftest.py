"""A lab of the tests' own, made of a copy of this checkout: a person's stays untouched."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
# Named apart, so that what an interrupted run left behind is known for what it is.
COPIES = Path("/var/tmp/autojoin-e2e")
YOUNG_LOOKS = 33


@dataclass
class Lab:
    """A checkout with its lab, worked through the same commands that a person types."""

    checkout: Path
    output: list[str] = field(default_factory=list)
    first_output: str = ""

    def make(self, *words: str, expect: int = 0) -> str:
        """Run `make`; its output, which is also kept for the search for secrets."""
        answer = subprocess.run(
            ["make", *words],
            cwd=self.checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output.append(answer.stdout)
        status = 0 if answer.returncode == 0 else 1
        assert status == expect, f"make {' '.join(words)}: {answer.returncode}\n{answer.stdout}"
        return answer.stdout

    @property
    def environment(self) -> dict[str, str]:
        """What `eval "$(make env)"` gives."""
        if not hasattr(self, "_environment"):
            text = subprocess.run(
                ["make", "--silent", "env"], cwd=self.checkout, capture_output=True, text=True,
                check=True,
            ).stdout  # fmt: skip
            words = [shlex.split(line) for line in text.splitlines()]
            assert all(word[0] == "export" for word in words), text
            pairs = dict(word[1].split("=", 1) for word in words)
            self._environment = {**os.environ, **pairs}
        return self._environment

    def well(self, seconds: float = 120) -> str:
        """What `make status` says once nothing is wrong: a restarted kubelet, and the pods on its
        node, may be said to be unready for a moment after the command that restarted it.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.make("status")
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def run(self, *command: str, expect: int = 0, check: bool = True, stdin: str = "") -> str:
        answer = subprocess.run(
            command, cwd=self.checkout, env=self.environment, input=stdin,
            capture_output=True, text=True,
        )  # fmt: skip
        self.output += [answer.stdout, answer.stderr]
        failed = f"{' '.join(command)}: {answer.returncode}\n{answer.stdout}{answer.stderr}"
        assert not check or answer.returncode == expect, failed
        return answer.stdout

    def kubectl(self, *words: str) -> Any:
        return json.loads(self.run("kubectl", *words, "--output", "json"))

    @property
    def file(self) -> Path:
        return self.checkout / "Pulumi.dev.yaml"

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.file.read_text())["config"])

    def edit(self, change: Any) -> None:
        """Apply `change(config)` to the stack file, as a person with an editor would."""
        data = yaml.safe_load(self.file.read_text())
        change(data["config"])
        self.file.write_text(yaml.safe_dump(data, sort_keys=False))

    def ssh(self, host: dict[str, Any], command: str, stdin: str = "") -> str:
        """Run `command` as root on a host of the config, its key pinned."""
        # Threads ask side by side, and each writes.
        known = self.checkout / f".known_hosts-{threading.get_ident()}"
        known.write_text(f"{host['address']} {(self.checkout / host['hostKey']).read_text()}")
        options = ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}",
                   "-o", "StrictHostKeyChecking=yes", "-i", host["privateKeyFile"]]  # fmt: skip
        return self.run("ssh", *options, f"root@{host['address']}", command, stdin=stdin)

    def on_authority(self, command: str, stdin: str = "") -> str:
        return self.ssh(self.config["autojoin:certificateAuthority"]["host"], command, stdin)

    def certificates(self, node: str) -> list[str]:
        """The state of each of that node's certificates: good or revoked."""
        query = f"select status from certificates where common_name='system:node:{node}'"
        return self.on_authority(f'sqlite3 /var/lib/cfssl/certdb.sqlite "{query}"').split()

    def on_hypervisor(self, command: str) -> str:
        return self.ssh(self.config["autojoin:provisioning"]["hypervisor"], command)

    def in_worker(self, node: str, command: str) -> str:
        leader = f"leader=$(pgrep -P $(pgrep -of '^systemd-nspawn .*--hostname={node} '))"
        return self.on_hypervisor(f"{leader}; nsenter --all --target $leader {command}")

    def preview(self) -> list[dict[str, Any]]:
        """The steps of a preview, those that change nothing left out."""
        text = self.run("pulumi", "preview", "--json", "--non-interactive")
        return [step for step in json.loads(text)["steps"] if step["op"] != "same"]


@dataclass
class CommandLines(threading.Thread):
    """Every command line that was seen on this machine while it ran.

    Processes are looked at 33 times a second while they are young, later on once a second: each
    look at all of them would take a tenth of this machine.
    """

    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()

    def run(self) -> None:
        looks: dict[str, int] = {}
        while not self.ended.wait(0.03):
            there = [it.name for it in Path("/proc").iterdir() if it.name.isdigit()]
            looks = {process: looks.get(process, 0) + 1 for process in there}
            for process, number in looks.items():
                if number > YOUNG_LOOKS and number % YOUNG_LOOKS:
                    continue
                try:
                    words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
                except OSError:
                    continue
                self.seen.add(words.decode(errors="replace"))

    def __hash__(self) -> int:
        return id(self)


def copy_checkout(target: Path) -> None:
    """The files of this checkout that git knows or would take, as they are now.

    The dev stack is that of git, whatever a person made of it here.
    """
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    for name in names.stdout.split("\0"):
        if name and (CHECKOUT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    show = ["git", "show", "HEAD:Pulumi.dev.yaml"]
    with (target / "Pulumi.dev.yaml").open("wb") as file:
        subprocess.run(show, cwd=CHECKOUT, check=True, stdout=file)


@pytest.fixture(scope="session")
def command_lines() -> Iterator[CommandLines]:
    watcher = CommandLines()
    watcher.start()
    yield watcher
    watcher.ended.set()
    watcher.join()


def until(read: Any, seconds: float = 90) -> Any:
    """The first true answer of `read` within `seconds`, or the last one."""
    deadline = time.monotonic() + seconds
    while not (found := read()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@contextmanager
def own_lab(prepare: Callable[[Lab], None] = lambda lab: None) -> Iterator[Lab]:
    """A lab of its own that is up, after `prepare`; nothing is left of it afterwards."""
    checkout = COPIES / f"{os.getpid()}-{time.time_ns()}"
    checkout.mkdir(parents=True)
    copy_checkout(checkout)
    lab = Lab(checkout)
    try:
        lab.make("move-lab")
        prepare(lab)
        lab.first_output = lab.make("up")
        yield lab
    finally:
        subprocess.run(["make", "down"], cwd=checkout, capture_output=True)
        shutil.rmtree(checkout)


@pytest.fixture(scope="session")
def lab(command_lines: CommandLines) -> Iterator[Lab]:
    """A lab that is up. What happens in it goes on from test to test, in the order of the file."""
    with own_lab() as lab:
        yield lab


def table(output: str) -> dict[str, dict[str, str]]:
    """The table of nodes that `make up` ends with: name to column to cell."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("NAME "))
    columns = re.split(r" {2,}", lines[start].strip())
    rows = {}
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        cells = re.split(r" {2,}", line.strip())
        rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return rows
