"""A virtual machine beside the lab's containers: QEMU, with firmware, disk and network card.

On the lab's bridge it is in the lab's control group too, so it ends with the lab. Its processor is
emulated (TCG): /dev/kvm is not to be had on every machine that has a lab. Where nothing of it is
left but its folder, it is off, and its disk stays what it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import cgroup, machine_image
from lab.facts import BRIDGE
from lab.place import Place
from lab.waiting import wait_for
from tools.errors import LabError

FIRMWARE = Path("/usr/share/OVMF")
SOCKET_SECONDS = 10.0
CLONE_NEWNET = 0x40000000  # linux/sched.h
LINES = 20
# QEMU 7.2 translates a program anew for each address that it is at: with addresses chosen at
# random that is for each start of it, which makes a start three times slower.
FIXED_ADDRESSES = "echo 0 >/proc/sys/kernel/randomize_va_space"


@dataclass(frozen=True)
class Disc:
    """A file that the machine can read, as a device of bhyve's: `ahci-cd` or `virtio-blk`."""

    path: Path
    device: str


@dataclass(frozen=True)
class Hardware:
    """What a machine is made of."""

    cpus: int
    memory: str
    disk_size: str
    mac: str
    discs: tuple[Disc, ...] = ()
    disk_device: str = "virtio-blk-pci"
    # Its disk is blank at first, and its firmware goes on to the network.
    empty: bool = False


@dataclass(frozen=True)
class Network:
    """A bridge, its network namespace, and what a command begins with to run there."""

    bridge: str
    namespace: Path
    inside: tuple[str, ...]

    def enter(self) -> None:
        """Let this thread, and no other, make its sockets there."""
        library = ctypes.CDLL(None, use_errno=True)
        with self.namespace.open() as file:
            if library.setns(file.fileno(), CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.namespace))


@dataclass
class Machine:
    """The machine of that name in `folder`, which is its own."""

    name: str
    folder: Path
    hardware: Hardware
    network: Network
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    # Whether its firmware tries the network before the disk, at its next start alone.
    from_network: bool = field(default=False, init=False)

    def power_on(self) -> None:
        """Start it: the first time from a copy of the image, or with a blank disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        disk = self.folder / "disk.img"
        if not disk.exists():
            make_disk(disk, self.hardware)
            shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", self.folder / "variables.fd")
        command = [*self.network.inside, "setpriv", "--pdeathsig", "KILL", *self.command()]
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self.answers, SOCKET_SECONDS, "QEMU does not start", self.failure)
        if self.from_network:
            # The firmware is told of the order at a reset, so of this one at the next.
            words = {"path": "/machine/peripheral/disk", "property": "bootindex", "value": 0}
            self.control_by("qom-set", words)
            self.from_network = False
        plug_in(self.network, self.interface)

    @property
    def interface(self) -> str:
        """Its card's other end, which is on the bridge."""
        return f"tap{self.hardware.mac.replace(':', '')[-8:]}"

    def command(self) -> list[str]:
        hardware = self.hardware
        network = f"tap,id=net,ifname={self.interface},script=no,downscript=no"
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
        # With a thread for each processor one has been seen to stay for good in kernel code that
        # another had just patched (hash_conntrack_raw).
        words += ["-machine", "q35", "-accel", "tcg,thread=single"]
        # All that can be emulated, but for five-level page tables and guests of its own.
        words += ["-cpu", "max,la57=off,svm=off"]
        words += ["-smp", str(hardware.cpus), "-m", hardware.memory]
        words += ["-chardev", f"file,id=console,path={self.console},append=on"]
        words += ["-serial", "chardev:console"]
        words += ["-qmp", f"unix:{self.control},server=on,wait=off"]
        firmware = "if=pflash,format=raw"
        words += ["-drive", f"{firmware},readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"]
        words += ["-drive", f"{firmware},file={self.folder}/variables.fd"]
        # What the machine has written is in this machine's memory, whatever becomes of QEMU.
        disk = f"id=drive,if=none,format=raw,discard=unmap,cache=unsafe,file={self.folder}/disk.img"
        words += ["-drive", disk]
        # An NVMe disk has to have a serial number.
        first, card = (2, 1) if self.from_network else (1, 2)
        device = f"{hardware.disk_device},id=disk,drive=drive,serial=disk"
        words += ["-device", f"{device},bootindex={first}"]
        devices = {"ahci-cd": "ide-cd", "virtio-blk": "virtio-blk-pci"}
        for number, disc in enumerate(hardware.discs):
            drive = f"id=disc{number},if=none,format=raw,readonly=on,file={disc.path}"
            words += ["-drive", drive]
            words += ["-device", f"{devices[disc.device]},drive=disc{number}"]
        words += ["-netdev", network]
        model = f"virtio-net-pci,netdev=net,mac={hardware.mac},romfile="
        words += ["-device", f"{model},bootindex={card}" if hardware.empty else model]
        words += ["-object", "rng-random,id=random,filename=/dev/urandom"]
        return [*words, "-device", "virtio-rng-pci,rng=random"]

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def control(self) -> Path:
        return self.folder / "qmp"

    def answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise LabError(f"{self.name}: QEMU ended: {self.failure()}")
        with contextlib.suppress(OSError):
            self.control_by("query-status")
            return True
        return False

    def control_by(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Give QEMU a command of its machine protocol."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.control))
            lines = connection.makefile("rw")
            for word, given in (("qmp_capabilities", None), (command, arguments)):
                lines.write(json.dumps({"execute": word, "arguments": given or {}}) + "\n")
                lines.flush()
                answer: dict[str, Any] = {}
                while not answer.keys() & {"return", "error"}:
                    answer = json.loads(lines.readline() or '{"error": "it hung up"}')
                if "error" in answer:
                    raise LabError(f"{self.name}: QEMU's {word}: {answer['error']}")

    def reset(self) -> None:
        """The reset button: nothing of the machine's memory reaches its disk any more."""
        self.control_by("system_reset")

    def power_off(self) -> None:
        """The plug, pulled."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wrote(self, text: str) -> bool:
        """Whether `text` stands on its console, which all its starts have written to."""
        with contextlib.suppress(FileNotFoundError):
            return text.encode() in self.console.read_bytes()
        return False

    def console_end(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-LINES:])
        return "(the machine wrote nothing)"

    def failure(self) -> str:
        return (self.folder / "qemu.log").read_text(errors="replace").strip() or "no word of it"


def make_disk(target: Path, hardware: Hardware) -> None:
    """As large as the machine's shall be: the image's root grows by itself."""
    copying = target.with_suffix(".new")
    copying.unlink(missing_ok=True)
    if not hardware.empty:
        command = ["cp", "--sparse=always", str(machine_image.disk()), str(copying)]
        subprocess.run(command, check=True)
    subprocess.run(["truncate", f"--size={hardware.disk_size}", str(copying)], check=True)
    copying.rename(target)


def of_lab(place: Place) -> Network:
    """The lab's, by commands that end with the lab."""
    group = cgroup.folder(place.identifier) / "machines"
    group.mkdir(exist_ok=True)
    join = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
    namespace = Path(f"/proc/{leader(place)}/ns/net")
    enter = ("nsenter", f"--net={namespace}", "--")
    return Network(BRIDGE, namespace, ("sh", "-euc", join, "sh", str(group), *enter))


def leader(place: Place) -> int:
    """The first process in the lab's hypervisor, by whose eyes its files and its network are."""
    assert place.hypervisor
    number = place.hypervisor.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    if not children:
        raise LabError("the lab's hypervisor does not run: `make up`")
    return int(children[0])


def file_of_hypervisor(place: Place, path: str) -> Path:
    """Where this machine finds a file of the hypervisor's."""
    return Path(f"/proc/{leader(place)}/root/{path.lstrip('/')}")


def plug_in(network: Network, interface: str) -> None:
    bridge = network.bridge
    command = [*network.inside, "ip", "link", "set", interface, "master", bridge, "up"]
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    if answer.returncode:
        raise LabError(f"{interface} can't be put on {bridge}: {answer.stderr.strip()}")


# --- what is emitted, read as the manager of the guest reads it ------------------------------

# What must stand there, as it is what the machine here is like, and what is nothing to it.
ZONE = {
    "acpi": "on",
    "bootrom": "BHYVE",  # UEFI
    "brand": "bhyve",
    "cloud-init": "off",
    "diskif": "virtio",
    "ip-type": "exclusive",
    "netif": "virtio",
    "rng": "on",
    "vnc": "off",
}
ZONE_READ = {"bootdisk", "cdrom", "net", "ram", "vcpus"}
ZONE_ELSE = {"autoboot", "limitpriv", "zonename", "zonepath"}
TEMPLATE = {
    "disk0_dev": "sparse-zvol",
    "disk0_type": "virtio-blk",
    "disk1_dev": "custom",
    "loader": "uefi",
    "network0_type": "virtio-net",
    "virt_random": "yes",
}
TEMPLATE_READ = {"cpu", "disk0_size", "disk1_name", "disk1_type", "memory", "network0_mac"}
TEMPLATE_ELSE = {"disk0_name", "disk1_opts", "network0_switch"}


def of_zone(zone: Mapping[str, Any], path: Callable[[str], Path]) -> Hardware:
    """The machine that zadm makes of its JSON. `path` tells where a file of the hypervisor is."""
    refuse_unknown("zadm.json", zone, ZONE, ZONE_READ | ZONE_ELSE)
    (card,) = zone["net"]
    return Hardware(
        cpus=int(zone["vcpus"]),
        memory=zone["ram"],
        disk_size=zone["bootdisk"]["size"],
        mac=card["mac-addr"],
        discs=tuple(Disc(path(disc), "ahci-cd") for disc in zone["cdrom"]),
    )


def of_template(text: str, path: Callable[[str], Path]) -> Hardware:
    """The machine that vm-bhyve makes of its configuration, which is shell assignments."""
    values = dict(word.split("=", 1) for word in shlex.split(text))
    refuse_unknown("vm-bhyve.conf", values, TEMPLATE, TEMPLATE_READ | TEMPLATE_ELSE)
    return Hardware(
        cpus=int(values["cpu"]),
        memory=values["memory"],
        disk_size=values["disk0_size"],
        mac=values["network0_mac"],
        discs=(Disc(path(values["disk1_name"]), values["disk1_type"]),),
    )


def refuse_unknown(
    name: str, found: Mapping[str, Any], needed: Mapping[str, str], other: Set[str]
) -> None:
    """LabError unless all that `found` says is what the machine here is made by."""
    strange = found.keys() - needed.keys() - other
    strange |= {key for key, value in needed.items() if found.get(key) != value}
    if strange:
        raise LabError(f"{name}: not known here, or another value: {', '.join(sorted(strange))}")
