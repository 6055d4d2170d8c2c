"""board.sh for real: images with partitions and FAT, and a controller on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from components.workers.board import BOARD_SCRIPT
from components.workers.turing_cm4 import TuringCm4

MEBI = 2**20
SEED = {
    "user-data": "#cloud-config\n{}\n",
    "meta-data": "instance-id: a\n",
    "network-config": "version: 2\n",
    "vendor-data": "#cloud-config\n{}\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's folder as `make render` writes it, and a curl that speaks plain HTTP."""
    folder = tmp_path / "node"
    folder.mkdir()
    shutil.copy(BOARD_SCRIPT, folder / "board.sh")
    for name, content in SEED.items():
        (folder / name).write_text(content)
    settings(folder)
    return folder


def settings(folder: Path, **changes: str) -> None:
    values = {
        "NODE": "cm4-1",
        "HARDWARE": "turing-cm4",
        "SLOT": "2",
        "BMC": "",
        "BMC_USER": "root",
        "BMC_PUBLIC_KEY": f"sha256//{'A' * 43}=",
        "VOLUME": "system-boot",
        "CMDLINE": " ".join(TuringCm4.command_line),
    } | changes
    (folder / "board.env").write_text("".join(f"{k}='{v}'\n" for k, v in values.items()))


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder.parent}/tools:{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        ["dash", str(folder / "board.sh"), *words],
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def make_image(path: Path, label: str, command_line: str | None) -> Path:
    """A disk image as the vendors': a FAT partition with a label, then another partition."""
    with path.open("wb") as file:
        file.truncate(16 * MEBI)
    table = "label: dos\nstart=2048, size=16384, type=c\nstart=18432, type=83\n"
    tool("sfdisk", "-q", str(path), stdin=table)
    tool("mkfs.fat", "-n", label, "--offset", "2048", str(path), "8192")
    if command_line is not None:
        (path.parent / "cmdline.txt").write_text(command_line)
        tool("mcopy", "-i", f"{path}@@1M", str(path.parent / "cmdline.txt"), "::cmdline.txt")
    return path


def tool(*command: str, stdin: str = "") -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    answer = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def in_image(path: Path, name: str) -> str:
    return tool("mcopy", "-i", f"{path}@@1M", f"::{name}", "-")


def test_seed_and_command_line_in_an_image(folder: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "cm4 image.img", "system-boot", "console=tty1 root=LABEL=x\n")
    for _ in range(2):  # the second time changes nothing
        done = run(folder, "seed", str(image))
        assert done.returncode == 0, done.stderr
        for name, content in SEED.items():
            assert in_image(image, name) == content
        assert in_image(image, "cmdline.txt") == (
            "console=tty1 root=LABEL=x cgroup_enable=memory cgroup_memory=1\n"
        )


def test_seed_in_the_rk1s_partition(folder: Path, tmp_path: Path) -> None:
    settings(folder, VOLUME="CIDATA", CMDLINE="", HARDWARE="turing-rk1")
    image = make_image(tmp_path / "rk1.img", "CIDATA", None)
    assert run(folder, "seed", str(image)).returncode == 0
    assert in_image(image, "user-data") == SEED["user-data"]


def test_an_image_of_something_else_is_named(folder: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "other.img", "EFI", None)
    done = run(folder, "seed", str(image))
    assert done.returncode == 1
    assert "has no partition labelled system-boot (found: EFI ?)" in done.stderr
    assert "there is no /nowhere" in run(folder, "seed", "/nowhere").stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a b\n", "a b cgroup_enable=memory cgroup_memory=1\n"),
        ("a cgroup_memory=1 b", "a cgroup_memory=1 b cgroup_enable=memory\n"),
        ("a\nb\r\n\n", "a b cgroup_enable=memory cgroup_memory=1\n"),
        ("xcgroup_memory=10 y", "xcgroup_memory=10 y cgroup_enable=memory cgroup_memory=1\n"),
    ],
)
def test_the_command_line_stays_one_line(
    folder: Path, tmp_path: Path, before: str, after: str
) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "cmdline.txt").write_text(before)
    for _ in range(2):
        assert run(folder, "seed", str(boot)).returncode == 0
        assert (boot / "cmdline.txt").read_text() == after
    assert (boot / "user-data").read_text() == SEED["user-data"]


class Board(BaseHTTPRequestHandler):
    """A controller: an old Done stands until a transfer begins, then states follow each other."""

    calls: ClassVar[list[str]] = []
    sent: ClassVar[list[bytes]] = []
    states: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if self.headers["Authorization"] != "Basic cm9vdDpwYSJzc1w=":
            return self.answer(401, {})
        if query.get("opt") == "get" and query.get("type") == "flash":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return self.answer(200, json.loads(state))
        self.calls.append(address.query)
        return self.answer(200, {"handle": 77} if query["type"] == "flash" else {"response": []})

    def do_POST(self) -> None:
        self.calls.append(self.path)
        self.sent.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {})

    def answer(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


OLD = '{"Done": [{"secs": 100}, 5]}'


@pytest.fixture
def board(folder: Path) -> Iterator[type[Board]]:
    Board.calls, Board.sent, Board.states = [], [], [OLD]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Board)
    Thread(target=server.serve_forever, daemon=True).start()
    tools = folder.parent / "tools"
    tools.mkdir()
    # The script speaks HTTPS; its TLS is curl's own business.
    (tools / "curl").write_text('#!/bin/bash\nexec /usr/bin/curl "${@/#https:/http:}"\n')
    (tools / "curl").chmod(0o755)
    settings(folder, BMC=f"127.0.0.1:{server.server_port}")
    (folder / "bmc-password").write_text('pa"ss\\\n')
    yield Board
    server.shutdown()
    server.server_close()


def bmc(folder: Path) -> dict[str, str]:
    """The setting of the board's address, as it is."""
    lines = dict(line.split("=", 1) for line in (folder / "board.env").read_text().splitlines())
    return {"BMC": lines["BMC"].strip("'")}


FAST = {"FLASH_PAUSE": "0.01", "POWER_PAUSE": "0", "FLASH_TRIES": "20"}


def test_flash_counts_from_0_and_an_old_done_is_no_success(
    folder: Path, tmp_path: Path, board: type[Board]
) -> None:
    image = tmp_path / 'an "odd" name, really.img'
    image.write_bytes(b"x" * 5000)
    board.states[:] = [OLD, OLD, OLD, '{"Transferring": {"id": 1}}', '{"Done": [{"secs": 7}, 5]}']
    done = run(folder, "flash", str(image), **FAST)
    assert done.returncode == 0, done.stderr
    assert board.calls == [
        "opt=set&type=flash&file=cm4-1.img&length=5000&node=1",
        "/api/bmc/upload/77",
    ]
    assert len(board.sent[0]) > 5000
    assert board.states == ['{"Done": [{"secs": 7}, 5]}']


def test_flash_that_never_begins_is_a_failure(
    folder: Path, tmp_path: Path, board: type[Board]
) -> None:
    (tmp_path / "image").write_bytes(b"x")
    done = run(folder, "flash", str(tmp_path / "image"), **FAST)
    assert done.returncode == 1
    assert "flashing did not end" in done.stderr


def test_flash_error_is_named(folder: Path, board: type[Board]) -> None:
    board.states[:] = [OLD, '{"Error": "no USB device"}']
    done = run(folder, "flash-local", "/mnt/sdcard/cm4.img", **FAST)
    assert done.returncode == 1
    assert "flashing failed" in done.stderr and "no USB device" in done.stderr
    assert board.calls == ["opt=set&type=flash&local&file=/mnt/sdcard/cm4.img&node=1"]


def test_up_flashes_a_seeded_copy_of_the_image(
    folder: Path, tmp_path: Path, board: type[Board]
) -> None:
    image = make_image(tmp_path / "cm4.img", "system-boot", "console=tty1\n")
    plain = image.read_bytes()
    settings(folder, **bmc(folder), IMAGE=str(image), MANAGER="turing-pi")
    assert run(folder, "--may-be-made", **FAST).returncode == 0
    assert board.calls == []
    board.states[:] = [OLD, OLD, '{"Flashing": {"id": 1}}', '{"Done": [{"secs": 7}, 5]}']
    done = run(folder, "--make", **FAST)
    assert done.returncode == 0, done.stderr
    assert board.calls == [
        "opt=set&type=power&node2=0",
        f"opt=set&type=flash&file=cm4-1.img&length={len(plain)}&node=1",
        "/api/bmc/upload/77",
        "opt=set&type=power&node2=1",
    ]
    assert SEED["user-data"].encode() in board.sent[0]
    assert image.read_bytes() == plain
    assert not list(folder.glob("*.img"))
    assert run(folder, "--start", **FAST).returncode == 0
    assert run(folder, "--remove", **FAST).returncode == 0
    assert board.calls[4:] == ["opt=set&type=power&node2=0"]


def test_up_says_what_keeps_it_from_flashing(
    folder: Path, tmp_path: Path, board: type[Board]
) -> None:
    settings(folder, **bmc(folder), IMAGE="/nowhere.img", MANAGER="turing-pi")
    said = run(folder, "--may-be-made", **FAST).stderr
    assert "there is no image /nowhere.img on the provisioning host" in said
    image = make_image(tmp_path / "cm4.img", "system-boot", "console=tty1\n")
    settings(folder, **bmc(folder), IMAGE=str(image), MANAGER="turing-pi")
    (folder / "bmc-password").write_text("wrong\n")
    assert "refused the password of root" in run(folder, "--may-be-made", **FAST).stderr
    assert board.calls == []


def test_power_counts_from_1(folder: Path, board: type[Board]) -> None:
    assert run(folder, "power", "cycle", **FAST).returncode == 0
    assert board.calls == ["opt=set&type=power&node2=0", "opt=set&type=power&node2=1"]
    assert run(folder, "msd", **FAST).returncode == 0
    assert board.calls[-1] == "opt=set&type=node_to_msd&node=1"


def test_a_wrong_password_is_named(folder: Path, board: type[Board]) -> None:
    (folder / "bmc-password").write_text("wrong\n")
    done = run(folder, "power", "on")
    assert done.returncode == 1
    assert "refused the password of root (401)" in done.stderr


def test_an_unpinned_board_is_not_talked_to(folder: Path, board: type[Board]) -> None:
    environment = (folder / "board.env").read_text()
    (folder / "board.env").write_text(environment + "BMC_PUBLIC_KEY=''\n")
    done = run(folder, "power", "on")
    assert done.returncode == 1 and "is not pinned" in done.stderr
    assert run(folder, "power", "on", BMC_UNVERIFIED="yes").returncode == 0
