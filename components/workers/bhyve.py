"""A worker that is a bhyve guest: a zone of OmniOS, or a virtual machine of vm-bhyve on FreeBSD.

Or, on Linux, one of QEMU that libvirt keeps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from components.archive import File, text
from components.machine_host import delivery
from components.workers import libvirt
from components.workers.hardware import Emission, Hardware, assignments
from components.workers.worker import Worker
from stack import models
from stack.models import ProvisioningHost
from stack.problem import Problem

GUEST_SCRIPT = Path(delivery.__file__).parent / "on_host" / "guest.sh"
NO_DIRECTORY = "SEED_DIRECTORY"
# dladm(8): letters, digits and _, a letter first, a number last.
MOST_LINK_CHARACTERS = 31


class Bhyve(Hardware):
    """The seed is attached as a disc. Where its host has a `manager`, the graph makes the guest by
    that; elsewhere a person does, by guest.sh.
    """

    name = "bhyve"
    starts_from_disc = True
    # zones(7)
    reserved_names: ClassVar = {"global": "OmniOS calls its own zone so"}
    own = ("guest",)

    @classmethod
    def is_started(cls, settings: models.Worker | None, host: ProvisioningHost | None) -> bool:
        return host is not None and host.manager is not None

    @classmethod
    def problems(
        cls, key: str, settings: models.Worker, host: ProvisioningHost | None
    ) -> Iterator[Problem]:
        if host is None or host.manager is None:
            return
        wrong = f"is required, as `pulumi up` makes the guest by {host.manager}"
        if not settings.guest.image:
            hint = "it becomes the guest's disk; without a manager guest.sh asks for it"
            yield Problem(f"{key}.guest.image", wrong, hint=hint)
        if host.manager == "zadm" and settings.guest.link in (None, "auto"):
            hint = "name the link that the VNIC is made over (dladm show-link)"
            yield Problem(f"{key}.guest.link", wrong, settings.guest.link or "", hint)

    @property
    def manager(self) -> str | None:
        """What the graph makes the guest by; None where a person does."""
        return self.site.host.manager if self.site.host else None

    def reaches_machine(self) -> list[Any]:
        guest = self.settings.guest.model_dump()
        return [self.manager, guest, self.settings.bridge, self.mac]

    @property
    def mac(self) -> str:
        """Configured, or one of its own: bhyve's range of the locally administered ones."""
        digest = hashlib.sha256(f"{self.site.cluster.name} {self.node}".encode()).hexdigest()
        return self.settings.mac or f"02:08:20:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"

    @property
    def seed_image(self) -> str:
        """The seed's path on the hypervisor; a placeholder where no provisioning host is known."""
        directory = self.directory
        return f"{directory or NO_DIRECTORY}/{self.node}/seed.iso"

    def own_files(self, emission: Emission) -> dict[str, File]:
        files = {
            "guest.env": text(self.environment(), 0o644),
            "guest.sh": File(GUEST_SCRIPT.read_bytes(), 0o755),
            "zadm.json": text(json.dumps(self.zone(), indent=2) + "\n", 0o644),
            "vm-bhyve.conf": text(self.template(), 0o644),
        }
        if self.manager == "libvirt":
            guest = self.settings.guest
            made_of = (guest.cpus, guest.memory, self.settings.bridge, self.mac)
            files["libvirt.xml"] = text(libvirt.domain(self.node, *made_of), 0o644)
        return files

    def zone(self) -> dict[str, Any]:
        """The zone, as guest.sh gives it to zadm; without a link that is one to be asked for.

        zadm's schema has strings throughout, also for numbers and switches. Its `auto` for a link
        wants `allowed-address`, whose guard drops what pods send.
        """
        guest = self.settings.guest
        over = {"global-nic": self.link} if self.link else {}
        root = f"{guest.dataset}/{self.node}"
        return {
            "zonename": self.node,
            "zonepath": f"/{root}",
            "brand": "bhyve",
            "autoboot": "true",
            "ip-type": "exclusive",
            "limitpriv": "default",
            "acpi": "on",
            "bootrom": "BHYVE",
            "bootdisk": {"path": f"{root}/root", "size": guest.disk_size, "sparse": "true"},
            # A disc brings the network-config too; the attribute is for user-data alone.
            "cdrom": [self.seed_image],
            "cloud-init": "off",
            "diskif": "virtio",
            "netif": "virtio",
            "net": [{"physical": vnic(self.node), **over, "mac-addr": self.mac}],
            "ram": guest.memory,
            "rng": "on",
            "vcpus": str(guest.cpus),
            "vnc": "off",
        }

    @property
    def link(self) -> str:
        """The link that its VNIC is made over; empty where it is to be asked for."""
        link = self.settings.guest.link
        return link if link and link != "auto" else ""

    def environment(self) -> str:
        """guest.env: shell assignments."""
        guest = self.settings.guest
        values = {"NODE": self.node, "IMAGE": guest.image or "", "LINK": self.link}
        if self.manager:
            values |= {"MANAGER": self.manager, "DISK_SIZE": guest.disk_size}
        return assignments(values)

    def template(self) -> str:
        """vm-bhyve's configuration of the machine: shell assignments, of values without quotes."""
        guest = self.settings.guest
        values = {
            "loader": "uefi",
            "cpu": str(guest.cpus),
            "memory": guest.memory,
            "network0_type": "virtio-net",
            "network0_switch": guest.switch,
            "network0_mac": self.mac,
            "disk0_type": "virtio-blk",
            "disk0_name": "disk0",
            "disk0_dev": "sparse-zvol",
            "disk0_size": guest.disk_size,
            # As the root is: a guest that finds that one finds its seed, and in time. Debian's
            # `genericcloud` has no driver for ahci-cd, others load theirs late.
            "disk1_type": "virtio-blk",
            "disk1_name": self.seed_image,
            "disk1_dev": "custom",
            "disk1_opts": "ro",
            "virt_random": "yes",
        }
        return "".join(f'{key}="{value}"\n' for key, value in values.items())


def vnic(node: str) -> str:
    """The name of a node's VNIC: its own as far as that may be one, and no other node's."""
    number = "_0" if node[-1].isdigit() else "0"
    name = node.replace("-", "_") + number
    if name[0].isalpha() and len(name) <= MOST_LINK_CHARACTERS:
        return name
    digest = hashlib.sha256(node.encode()).hexdigest()[:10]
    return f"n_{node.replace('-', '_')[:16]}_{digest}_0"


class BhyveWorker(Worker):
    """A bhyve guest: its files are delivered; its host's manager or a person makes it from them."""

    token = "autojoin:workers:BhyveWorker"
    hardware = Bhyve
