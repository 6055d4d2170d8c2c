"""arm64 programs on this machine, and the layer of what is not emulated (tool set `arm64`)."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lab import arm64_image, emulation, hypervisor, image
from lab.place import Place, usual

pytestmark = pytest.mark.full

SHOW = """\
handlers=/proc/sys/fs/binfmt_misc
[ -e "$handlers/register" ] || mount -t binfmt_misc binfmt_misc "$handlers"
ls "$handlers"
"""


def handlers() -> set[str]:
    command = [*emulation.ALONE, "sh", "-euc", SHOW]
    return set(subprocess.check_output(command, text=True).split())


def uname(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["chroot", root, "uname", "-m"], capture_output=True, text=True)


def test_arm64_programs_run_and_no_mount_is_left() -> None:
    with emulation.arm64_programs():
        before = handlers()
        assert uname(arm64_image.root()).stdout == "aarch64\n"
        with emulation.arm64_programs():  # a second one needs no handler of its own
            assert handlers() == before
        assert uname(arm64_image.root()).stdout == "aarch64\n"
    assert emulation.HANDLER not in Path("/proc/self/mountinfo").read_text()


def test_programs_of_the_other_image_run_in_an_arm64_root(tmp_path: Path) -> None:
    place = Place(Path("/x"), "0badcafe", usual(IPv4Network("10.70.3.0/24")), tmp_path / "state")
    layers = hypervisor.write_layers(place, hypervisor.find_binaries())
    layer = layers / "worker-arm64"
    for program in ("usr/sbin/runc", "usr/lib/systemd/systemd-networkd"):
        answer = subprocess.run(
            ["chroot", layer, f"/{program}", "--version"], capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stderr
    with (layer / "usr/bin/kubelet").open("rb") as kubelet:
        assert kubelet.read(20)[18:] == b"\xb7\x00"  # EM_AARCH64


def test_what_packages_set_up_in_the_machine_image_is_in_the_arm64_image() -> None:
    native, root = image.root(), arm64_image.root()
    for file in ("etc/passwd", "etc/group", "etc/shadow"):
        assert (root / file).read_text() == (native / file).read_text()
    for program in ("usr/lib/dbus-1.0/dbus-daemon-launch-helper", "usr/bin/ssh-agent"):
        ours, theirs = (root / program).stat(), (native / program).stat()
        assert (ours.st_mode, ours.st_gid) == (theirs.st_mode, theirs.st_gid)


def test_nothing_in_the_arm64_image_is_of_another_processor() -> None:
    found = set()
    for path in arm64_image.walk(arm64_image.root()):
        file = arm64_image.root() / path
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as content:
                start = content.read(20)
            if start.startswith(b"\x7fELF"):
                found.add(start[18:20])
    assert found == {b"\xb7\x00"}  # EM_AARCH64


def test_dpkg_finds_no_fault_in_the_arm64_image() -> None:
    with emulation.arm64_programs():
        command = ["chroot", str(arm64_image.root()), "dpkg", "--audit"]
        answer = subprocess.run(command, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
