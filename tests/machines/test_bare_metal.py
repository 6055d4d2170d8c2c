"""An empty machine that boots over the network, from exactly what its boot server is given.

Its firmware is no iPXE: it gets that by TFTP, from the lines that docs/workers.md has for dnsmasq.
Ubuntu's kernel can't be had here: Debian's lies in its place, and in the installer's a script that
tells what it was started with.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml

from lab import machine_image
from lab.machine import Hardware, Machine, Network
from tests.e2e.conftest import CHECKOUT
from tests.machines.course import Course
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
    there = Network("br0", ("ip", "netns", "exec", name))
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


@contextmanager
def boot_server(network: Network, folder: Path) -> Iterator[None]:
    """Its dnsmasq and its web server, on what is delivered to it."""
    web_root = folder / "http/autojoin"
    hardware, emission = make(NODE)
    for path, file in hardware.delivered_files(emission).items():
        (web_root / path).parent.mkdir(parents=True, exist_ok=True)
        (web_root / path).write_bytes(file.content)
    put_kernel(web_root / RELEASE)
    (folder / "tftp").mkdir()
    (folder / "tftp/ipxe.efi").write_bytes(Path("/usr/lib/ipxe/ipxe.efi").read_bytes())
    (folder / "dnsmasq.conf").write_text(documented(folder))
    dnsmasq = ["dnsmasq", "--keep-in-foreground", f"--conf-file={folder}/dnsmasq.conf", "--port=0"]
    dnsmasq += ["--log-facility=-", f"--dhcp-leasefile={folder}/leases", "--user=root"]
    web = ["python3", "-m", "http.server", "--directory", str(folder / "http"), "80"]
    with (folder / "log").open("wb") as log:
        started = [
            subprocess.Popen([*network.inside, *command], stdout=log, stderr=log)
            for command in (dnsmasq, web)
        ]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
                process.wait()


def has_served(folder: Path, path: str) -> bool:
    """Whether the web server has given that file away."""
    return f'{path} HTTP/1.1" 200' in (folder / "log").read_text()


def put_kernel(target: Path) -> None:
    """Debian's kernel where the installer's is to be put, from the image's boot partition.

    Of what follows an initial RAM disk in one file, each file takes the place of one before.
    """
    target.mkdir()
    boot = f"{machine_image.disk()}@@{machine_image.EFI_START}M"
    for name, there in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")):
        subprocess.run(["mcopy", "-i", boot, f"::{name}", str(target / there)], check=True)
    (target / "init").write_text(INSTALLER)
    (target / "init").chmod(0o755)
    archive = ["cpio", "--create", "--format=newc", "--quiet"]
    made = subprocess.run(archive, input=b"init", cwd=target, capture_output=True, check=True)
    with (target / "initrd").open("ab") as file:
        file.write(made.stdout)


def documented(folder: Path) -> str:
    """dnsmasq's configuration as docs/workers.md has it, with the folders that are here."""
    document = (CHECKOUT / "docs/workers.md").read_text()
    start = document.index("dhcp-range=")
    text = document[start : document.index("```", start)]
    here = {"/srv/tftp": f"{folder}/tftp", WEB_ROOT: f"{folder}/http/autojoin", "metal-1": NODE}
    for value, instead in here.items():
        assert value in text
        text = text.replace(value, instead)
    return text


def command_line(machine: Machine) -> list[str]:
    """What the installer was started with, once it has told; empty before."""
    with contextlib.suppress(FileNotFoundError):
        told = machine.console.read_text(errors="replace").partition("installer: ")[2]
        line, ended, _ = told.partition(" :\n")
        return line.split() if ended else []
    return []


def test_an_empty_machine_starts_the_installer(network: Network, tmp_path: Path) -> None:
    hardware = Hardware(2, "2G", "4G", MAC, disk_device="nvme", empty=True)
    machine = Machine(NODE, tmp_path / "machine", hardware, network)
    course = Course("bare-metal", machine)
    with boot_server(network, tmp_path):
        course.power_on()
        try:
            for step, reached in (
                ("PXE", partial(machine.wrote, "Start PXE over IPv4")),
                ("iPXE", partial(machine.wrote, "iPXE initialising devices")),
                ("its script", partial(has_served, tmp_path, "/boot.ipxe")),
                ("the installer's kernel", partial(has_served, tmp_path, f"{RELEASE}/vmlinuz")),
                ("first boot", partial(command_line, machine)),
            ):
                course.reach(step, reached, STEP_SECONDS)
        finally:
            machine.power_off()
    words = command_line(machine)
    assert {"autoinstall", "ip=dhcp"} <= set(words), words
    (source,) = (word.partition(";s=")[2] for word in words if word.startswith("ds=nocloud;"))
    answers = tmp_path / "http" / source.removeprefix("http://192.168.10.4/") / "user-data"
    assert "autoinstall" in yaml.safe_load(answers.read_text())
