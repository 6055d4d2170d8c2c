"""An empty machine that boots over the network, from exactly what its boot server is given.

Its firmware is no iPXE: it gets that by TFTP, from the lines that docs/workers.md has for dnsmasq.
Ubuntu's kernel can't be had here: Debian's lies in its place, and in the installer's a script that
tells what it was started with.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from lab import machine_image
from lab.machine import Hardware, Machine, Network
from tests.machines.boot_server import EVERY_NODE, ONE_NODE, boot_server, times_served
from tests.machines.controllers import PROTOCOLS, controller
from tests.machines.course import Course
from tests.unit.components.machine_host.test_power_script import Controller, Host
from tests.unit.components.workers.test_hardware import make

# As in tests/golden/hardware.yaml.
NODE, MAC, RELEASE = "metal", "a0:36:9f:00:00:41", "ubuntu-24.04"
BOOT_SERVER, WEB_ROOT = "192.168.10.4/24", "/srv/http/autojoin"
STEP_SECONDS = 120
# In place of the installer: the kernel's command line, of which it takes its disc and its answers.
INSTALLER = """\
#!/bin/sh
mkdir -p /dev /proc
mount -t devtmpfs dev /dev
mount -t proc proc /proc
echo "installer: $(cat /proc/cmdline) :" >/dev/ttyS0
sleep 1000
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """A link with the boot server on it, in a network namespace of its own."""
    name = f"aj-boot-{os.getpid()}"
    there = Network("br0", Path("/run/netns") / name, ("ip", "netns", "exec", name))
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "add", "br0", "type", "bridge"),
            ("address", "add", BOOT_SERVER, "dev", "br0"),
            ("link", "set", "br0", "up"),
        ):
            subprocess.run([*there.inside, "ip", *words], check=True)
        yield there
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def deliver(folder: Path) -> None:
    """The node's files laid into the web root."""
    hardware, emission = make(NODE)
    for path, file in hardware.delivered_files(emission).items():
        target = folder / "http/autojoin" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)


def put_kernel(target: Path) -> None:
    """Debian's kernel where the installer's is to be put, from the image's boot partition.

    Of what follows an initial RAM disk in one file, each file takes the place of one before; what
    is compressed may begin anywhere, other things by fours.
    """
    target.mkdir(parents=True)
    boot = f"{machine_image.disk()}@@{machine_image.EFI_START}M"
    for name, there in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")):
        subprocess.run(["mcopy", "-i", boot, f"::{name}", str(target / there)], check=True)
    (target / "init").write_text(INSTALLER)
    (target / "init").chmod(0o755)
    archive = ["cpio", "--create", "--format=newc", "--quiet"]
    made = subprocess.run(archive, input=b"init", cwd=target, capture_output=True, check=True)
    with (target / "initrd").open("ab") as file:
        file.write(gzip.compress(made.stdout))


def command_line(machine: Machine) -> list[str]:
    """What the installer was started with, once it has told; empty before."""
    with contextlib.suppress(FileNotFoundError):
        told = machine.console.read_text(errors="replace").partition("installer: ")[2]
        line, ended, _ = told.partition(" :\n")
        return line.split() if ended else []
    return []


def empty_machine(network: Network, folder: Path) -> Machine:
    hardware = Hardware(2, "2G", "4G", MAC, disk_device="nvme", empty=True)
    return Machine(NODE, folder / "machine", hardware, network)


def reaches_the_installer(course: Course, folder: Path) -> None:
    machine = course.machine
    for step, reached in (
        ("PXE", partial(machine.wrote, "Start PXE over IPv4")),
        ("iPXE", partial(machine.wrote, "iPXE initialising devices")),
        ("its script", partial(times_served, folder, "/boot.ipxe")),
        ("the installer's kernel", partial(times_served, folder, f"{RELEASE}/vmlinuz")),
        ("first boot", partial(command_line, machine)),
    ):
        course.reach(step, reached, STEP_SECONDS)
    words = command_line(machine)
    assert {"autoinstall", "ip=dhcp"} <= set(words), words
    (source,) = (word.partition(";s=")[2] for word in words if word.startswith("ds=nocloud;"))
    answers = folder / "http" / source.removeprefix("http://192.168.10.4/") / "user-data"
    assert "autoinstall" in yaml.safe_load(answers.read_text())


def test_an_empty_machine_starts_the_installer(network: Network, tmp_path: Path) -> None:
    course = Course("bare-metal", empty_machine(network, tmp_path))
    deliver(tmp_path)
    put_kernel(tmp_path / "http/autojoin" / RELEASE)
    here = {WEB_ROOT: f"{tmp_path}/http/autojoin", "metal-1": NODE}
    with boot_server(network, tmp_path, ONE_NODE, here):
        course.power_on()
        try:
            reaches_the_installer(course, tmp_path)
        finally:
            course.machine.power_off()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_up_runs_has_it_installed_and_switched_off(
    network: Network, tmp_path: Path, protocol: str
) -> None:
    """Nobody touches it: the delivery to the boot server switches it on, the removal off."""
    machine = empty_machine(network, tmp_path)
    course = Course(f"bare-metal by {protocol}", machine)
    put_kernel(tmp_path / "http/autojoin" / RELEASE)
    with (
        controller(protocol, machine, tmp_path) as entry,
        boot_server(network, tmp_path, EVERY_NODE, {}),
    ):
        host = Host(tmp_path / "http/autojoin", Controller(entry, (), tmp_path))
        course.start()
        assert host.apply() == (0, "")
        reaches_the_installer(course, tmp_path)
        assert not machine.from_network, "once"
        assert host.remove() == (0, "")
        assert machine.process is None
