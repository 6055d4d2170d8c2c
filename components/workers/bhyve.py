"""A worker that is a bhyve guest: a zone of OmniOS, or a virtual machine of vm-bhyve on FreeBSD."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from components.archive import File, text
from components.workers.hardware import Emission, Hardware
from components.workers.worker import Worker

NO_DIRECTORY = "SEED_DIRECTORY"


class Bhyve(Hardware):
    """The seed is attached as a disc. Neither zadm nor vm-bhyve is started by the graph."""

    name = "bhyve"
    starts_from_disc = True
    own = ("guest",)

    @property
    def mac(self) -> str:
        """Configured, or one of its own: bhyve's range of the locally administered ones."""
        digest = hashlib.sha256(f"{self.site.cluster.name} {self.node}".encode()).hexdigest()
        return self.settings.mac or f"02:08:20:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"

    @property
    def seed_image(self) -> str:
        """The seed's path on the hypervisor; a placeholder where no provisioning host is known."""
        directory = self.directory
        return f"{directory}/{self.node}/seed.iso" if directory else f"{NO_DIRECTORY}/seed.iso"

    def own_files(self, emission: Emission) -> dict[str, File]:
        return {
            "zadm.json": text(json.dumps(self.zone(), indent=2) + "\n", 0o644),
            "vm-bhyve.conf": text(self.template(), 0o644),
        }

    def zone(self) -> dict[str, Any]:
        """The zone, for `zadm create -b bhyve NODE < zadm.json`.

        zadm's schema has strings throughout, also for numbers and switches.
        """
        guest = self.settings.guest
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
            "net": [
                {
                    "physical": f"{self.node.replace('-', '_')[:13]}{'_' * self.ends_in_digit}0",
                    "global-nic": guest.link,
                    "mac-addr": self.mac,
                }
            ],
            "ram": guest.memory,
            "rng": "on",
            "vcpus": str(guest.cpus),
            "vnc": "off",
        }

    @property
    def ends_in_digit(self) -> bool:
        """A VNIC's name ends in its number, which must not run into the node's own."""
        return self.node[:13][-1].isdigit()

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
            "disk1_type": "ahci-cd",
            "disk1_name": self.seed_image,
            "disk1_dev": "custom",
            "virt_random": "yes",
        }
        return "".join(f'{key}="{value}"\n' for key, value in values.items())


class BhyveWorker(Worker):
    """A bhyve guest: its files are delivered; a person makes it from them."""

    token = "autojoin:workers:BhyveWorker"
    hardware = Bhyve
