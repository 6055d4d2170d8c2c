"""A worker on bare metal: its system's installer comes over the network and needs no person."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from components.archive import File, text
from components.machine_host import delivery
from components.workers import cloud_init, preseed
from components.workers.hardware import Emission, Hardware, assignments
from components.workers.seed import Cluster, Node
from components.workers.worker import Worker
from stack import models
from stack.models import ProvisioningHost

POWER_SCRIPT = Path(delivery.__file__).parent / "on_host" / "power.sh"
GUARD_SCRIPT = Path(__file__).parent / "on_node" / "install-guard.sh"
# Where iPXE was booted from; its own setting, filled in by the machine.
BOOT_SERVER = "http://${next-server}/autojoin/"


class BareMetal(Hardware):
    """Of Ubuntu the seed is the installer's: an autoinstall document, and in it the node's own
    user-data. Of Debian it is the node's, which the installer lays into the new system.

    The web root has a folder for the machine, `<mac>/`: the iPXE script, and the seed under the
    node's identity, so that no cache between answers with that of an earlier generation.
    """

    name = "bare-metal"
    plain = True
    grow_root = False  # the installer has filled the disk
    one_architecture = False
    required = ("mac", "disk")
    own = ("disk", "bmc")
    example: ClassVar = {"disk": "/dev/disk", "mac": "02:00:00:00:00:01"}
    protocols = ("redfish", "ipmi", "wake-on-lan")
    follows_seed = False
    usual_join = 3600

    @classmethod
    def is_started(cls, settings: models.Worker | None, host: ProvisioningHost | None) -> bool:
        return bool(settings and settings.bmc and host)

    @property
    def seed_url(self) -> str:
        """Where the web root is served; ends in a slash."""
        host = self.site.host
        return (host.seed_url if host else None) or BOOT_SERVER

    def own_files(self, emission: Emission) -> dict[str, File]:
        return {
            "dnsmasq.conf": text(self.dnsmasq(), 0o644),
            **self.power_files(emission),
            **{f"http/{path}": file for path, file in self.web_files(emission).items()},
        }

    def delivered_files(self, emission: Emission) -> dict[str, File]:
        """The web root's files; what is of no use there is in the node's folder beside them."""
        return {
            **self.web_files(emission),
            f"{self.node}/dnsmasq.conf": text(self.dnsmasq(), 0o644),
            f"{self.node}/node.json": text(self.description(emission), 0o644),
            **{f"{self.node}/{name}": file for name, file in self.power_files(emission).items()},
        }

    def power_files(self, emission: Emission) -> dict[str, File]:
        """What has its controller boot it from the network; nothing where it has none."""
        board = self.site.board
        if not board:
            return {}
        values = {
            "NODE": self.node,
            "MAC": self.mac or "",
            "MANAGER": board.protocol,
            "BMC": board.address,
            "BMC_PORT": str(board.port or ""),
            "BMC_USER": board.user,
            "BMC_PUBLIC_KEY": board.public_key or "",
            "SYSTEM": board.system or "",
        }
        return {
            "power.sh": File(POWER_SCRIPT.read_bytes(), 0o755),
            "power.env": text(assignments(values), 0o644),
            **self.bmc_password(emission),
        }

    def web_files(self, emission: Emission) -> dict[str, File]:
        """What the web server serves: readable for it, and the join key with it; see docs/trust."""
        folder = f"{self.mac}/{emission.identity}"
        seed = {
            f"{folder}/{name}": text(content, 0o644)
            for name, content in emission.seed.files().items()
        }
        script = text(self.boot_script(f"{self.seed_url}{folder}/"), 0o644)
        installers = {
            f"{folder}/{name}": text(content, 0o644)
            for name, content in self.installers_files(emission.identity).items()
        }
        return {f"{self.mac}/boot.ipxe": script, **seed, **installers}

    @property
    def is_debian(self) -> bool:
        return self.settings.os_release.startswith("debian-")

    @property
    def variant(self) -> dict[str, str]:
        return {"osRelease": "debian-13"} if self.is_debian else {}

    def installers_files(self, identity: str) -> dict[str, str]:
        """What the installer fetches beside the seed."""
        if not self.is_debian:
            return {}
        answers = preseed.preseed(self.settings.disk or "", identity, self.settings.user_data)
        return {
            "preseed.cfg": answers,
            "install-guard": GUARD_SCRIPT.read_text(),
            "install-finish": preseed.FINISH_SCRIPT.read_text(),
        }

    def user_data(
        self, cluster: Cluster, node: Node, authority_pem: str, join_key: str
    ) -> dict[str, Any]:
        """The node's own; of Ubuntu in the installer's answers, by its autoinstall schema."""
        own = super().user_data(cluster, node, authority_pem, join_key)
        if self.is_debian:
            return own
        guard = ["sh", "-c", GUARD_SCRIPT.read_text(), "install-guard"]
        disk = self.settings.disk or ""
        answers = {
            "version": 1,
            "early-commands": [[*guard, disk, node.identity]],
            "locale": "C.UTF-8",
            "keyboard": {"layout": "us"},
            "refresh-installer": {"update": False},
            "network": cloud_init.network(cluster, node),
            # No swap, which a kubelet refuses; and the disk before the network, as grub-install has
            # it: by default the installer puts first what it was itself booted from.
            "storage": {
                "layout": {"name": "direct", "match": {"path": disk}},
                "swap": {"size": 0},
                "grub": {"reorder_uefi": False},
            },
            "ssh": {"install-server": True, "allow-pw": False},
            "updates": "security",
            "shutdown": "reboot",
            "user-data": own,
        }
        return {"autoinstall": answers}

    def boot_script(self, seed: str) -> str:
        """iPXE's script. The installer lies beside the seeds in the web root."""
        system = f"{self.seed_url}{self.settings.os_release}"
        if self.is_debian:
            words = preseed.boot_words(
                self.node, self.mac or "", seed, self.site.cluster.dns_servers
            )
        else:
            disc = f"{system}/live-server-{self.settings.architecture or self.architecture}.iso"
            # No shell reads this line, so the `;` that NoCloud wants needs no quotes.
            words = (
                f"ip=dhcp url={disc} autoinstall ds=nocloud;s={seed} cloud-config-url=/dev/null ---"
            )
        return (
            f"#!ipxe\n# {self.node}\nkernel {system}/vmlinuz initrd=initrd {words}\n"
            f"initrd {system}/initrd\nboot\n"
        )

    def dnsmasq(self) -> str:
        """dnsmasq's part: the machine's address by its MAC, and iPXE's way to its script."""
        # dnsmasq takes IPv6 addresses in brackets.
        addresses = ",".join(f"[{it}]" if ":" in it else it for it in self.settings.addresses)
        tag = f"set:{self.node}"
        script = f"{self.seed_url}{self.mac}/boot.ipxe"
        return (
            f"# {self.node}: include this from dnsmasq.conf (conf-file=), beside a dhcp-range\n"
            "# and what gives machines iPXE whose firmware is none: see docs/workers.md\n"
            f"dhcp-host={self.mac},{tag},{addresses},{self.node}\n"
            "dhcp-userclass=set:ipxe,iPXE\n"
            f"dhcp-boot=tag:{self.node},tag:ipxe,{script}\n"
        )


class BareMetalWorker(Worker):
    """A worker on bare metal: its web root is filled; its controller lets it boot from there, or,
    where none is named, a person."""

    token = "autojoin:workers:BareMetalWorker"
    hardware = BareMetal
