"""What is sent to a host of nspawn machines."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from components.workers import nspawn
from components.workers.seed import Seed

SEED = Seed("#cloud-config\n{}\n", "instance-id: a\n", "version: 2\n", "#cloud-config\n{}\n")
FIXED: dict[str, Any] = {
    "image": "/layers/worker:/image",
    "bridge": "br0",
    "gate_url": "https://10.0.0.3:8443/",
    "authority_pem": "PEM\n",
    "status_token": "ab" * 32,
}


def test_a_parcel_holds_the_machine() -> None:
    files = {"/etc/motd": nspawn.File(b"hello\n", 0o644)}
    found = nspawn.parcel(SEED, files=files, identity="a-g1-0", **FIXED)
    assert {path: (file.mode, file.content.decode()) for path, file in found.items()} == {
        "gate.env": (0o600, "GATE_URL=https://10.0.0.3:8443\n"),
        "ca.pem": (0o600, "PEM\n"),
        "identity": (0o600, "a-g1-0\n"),
        "files/etc/motd": (0o644, "hello\n"),
        "machine.env": (0o600, "IMAGE=/layers/worker:/image\nBRIDGE=br0\n"),
        "seed/meta-data": (0o600, "instance-id: a\n"),
        "seed/network-config": (0o600, "version: 2\n"),
        "seed/user-data": (0o600, "#cloud-config\n{}\n"),
        "seed/vendor-data": (0o600, "#cloud-config\n{}\n"),
        "status-token": (0o600, "ab" * 32 + "\n"),
    }


@pytest.mark.parametrize("path", ["etc/motd", "/etc/../../x", "/", "/a//b"])
def test_files_stay_inside_the_machine(path: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        nspawn.parcel(SEED, files={path: nspawn.File(b"")}, **FIXED)


def test_values_of_more_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="control characters"):
        nspawn.parcel(SEED, **(FIXED | {"bridge": "br0\nIMAGE=/"}))


def test_commands_are_shell_and_hold_no_secret() -> None:
    program = "/usr/local/lib/autojoin/clusters/home/machine"
    commands = [
        nspawn.apply_command(program, "worker-1", ["a b:12"]),
        nspawn.apply_command(program, "worker-1"),
        nspawn.remove_command(program, "worker-1", "worker-1-g1-0"),
    ]
    for command in commands:
        subprocess.run(["dash", "-n", "-c", command], check=True)
    assert commands[1] == f"{program} apply worker-1"
    assert f"exec {program} remove worker-1 worker-1-g1-0; fi" in commands[2]
