"""arm64 programs on this machine, and the layer of what is not emulated (tool set `arm64`)."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Network
from pathlib import Path

from lab import arm64_image, emulation, hypervisor
from lab.place import Place, usual

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
