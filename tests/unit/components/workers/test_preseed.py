"""Debian's installer is told all that it would ask, and where Debian comes from."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.workers.preseed import preseed
from tests.unit.components.workers.test_hardware import make

MIRROR = [{"arches": ["default"], "uri": "http://192.168.10.4:3142/debian/"}]


def answers(user_data: dict[str, Any]) -> dict[str, str]:
    """The value of each question; what it is asked as is left out."""
    lines = preseed("/dev/sda", "metal-g1-aa", user_data).splitlines()
    words = [line.split(" ", 3) for line in lines]
    assert all(word[0] == "d-i" for word in words)
    return {word[1]: "".join(word[3:]) for word in words}


def test_debian_is_from_its_own_servers_unless_told() -> None:
    found = answers({})
    assert found["mirror/http/hostname"] == "deb.debian.org"
    assert found["mirror/http/directory"] == "/debian"
    assert found["mirror/http/proxy"] == ""
    assert found["apt-setup/security_host"] == "security.debian.org"


def test_it_is_from_where_cloud_init_will_have_it_from() -> None:
    found = answers({"apt": {"primary": MIRROR, "http_proxy": "http://192.168.10.5:3128"}})
    assert found["mirror/http/hostname"] == "192.168.10.4:3142"
    assert found["mirror/http/directory"] == "/debian"
    assert found["mirror/http/proxy"] == "http://192.168.10.5:3128"
    # A mirror alone may have no security updates: the installer would ask what to do then.
    assert found["apt-setup/services-select"] == "updates"
    assert "apt-setup/security_host" not in found
    security = [{"arches": ["default"], "uri": "http://192.168.10.6/debian-security"}]
    found = answers({"apt": {"primary": MIRROR, "security": security}})
    assert found["apt-setup/security_host"] == "192.168.10.6"


def test_a_mirror_by_tls() -> None:
    found = answers({"apt": {"primary": [{"uri": "https://mirror.example.com/debian"}]}})
    assert found["mirror/protocol"] == "https"
    assert found["mirror/https/hostname"] == "mirror.example.com"


@pytest.mark.parametrize("release", ["debian-12", "debian-13"])
def test_debconf_takes_the_answers(release: str, tmp_path: Path) -> None:
    hardware, emission = make("metal", osRelease=release)
    (path,) = (it for it in hardware.delivered_files(emission) if it.endswith("preseed.cfg"))
    file = tmp_path / "preseed.cfg"
    file.write_bytes(hardware.delivered_files(emission)[path].content)
    command = ["debconf-set-selections", "--checkonly", "--verbose", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr.count("warning")) == (0, 0), answer.stderr


@pytest.mark.parametrize(
    ("fetched", "status", "goes_on"), [(0, 0, True), (0, 1, False), (1, 0, False)]
)
def test_the_installer_never_goes_on_to_a_disk_that_is_guarded(
    fetched: int, status: int, goes_on: bool, tmp_path: Path
) -> None:
    """It takes no notice of how a command ends: the node on the disk would have been gone."""
    lines = preseed("/dev/sda", "metal-g1-aa", {}).splitlines()
    (line,) = (it for it in lines if it.startswith("d-i partman/early_command string "))
    command = line.removeprefix("d-i partman/early_command string ")
    command = command.replace("/tmp/install-guard", str(tmp_path / "guard"))
    tools = {
        "fetch-url": f"echo exit {status} >$2; exit {fetched}",
        "modprobe": "exit 0",
        "sleep": f"touch {tmp_path}/stands; exec /bin/sleep 4",
    }
    for name, action in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{action}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["dash", "-c", command], env=environment, timeout=3)
    assert (tmp_path / "stands").exists() != goes_on


def test_the_seed_is_the_nodes_own() -> None:
    """Of Ubuntu it is in the installer's answers."""
    own = make("metal", osRelease="debian-13")[1].seed.user_data
    assert "autoinstall" not in own and "/etc/autojoin/join.env" in own
