"""A worker that is a systemd-nspawn machine on a Linux host: the lab's type.

What is sent to the provisioning host, and the commands there.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from components.archive import File as File
from components.archive import text
from components.certificate_authority.authority_host import installed_command
from components.machine_host import delivery
from components.machine_host.recipe import Book, recipe
from components.workers.hardware import Delivery, Emission, Hardware
from components.workers.seed import Node, Seed
from components.workers.worker import Worker
from stack import models
from stack.models import ProvisioningHost

# A machine shares its host's control groups, swap and memory: the kubelet has nothing to enforce,
# and does not put itself before the host's own services. Where it may not, it would sleep 0.2 s.
# It shares the disk too, of which a part of the whole tells nothing: a host at 85 % is no reason to
# evict every pod, nor to remove their images.
KUBELET_OVERRIDES: dict[str, Any] = {
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "oomScoreAdj": 0,
    "evictionHard": {
        "memory.available": "100Mi",
        "nodefs.available": "1Gi",
        "imagefs.available": "1Gi",
    },
    "imageGCHighThresholdPercent": 100,
}
MACHINE_SCRIPT = Path(delivery.__file__).parent / "on_host" / "machine.sh"


class Nspawn(Hardware):
    """Started by the graph from its seed alone."""

    name = "nspawn"
    interface = "host0"
    grow_root = False
    one_architecture = False
    program = "machine"
    program_file = MACHINE_SCRIPT
    required = ("image",)
    own = ("image",)
    hints: ClassVar = {"image": "the root folder of its machines on the provisioning host"}
    example: ClassVar = {"image": "/image"}

    @classmethod
    def is_started(cls, settings: models.Worker | None, host: ProvisioningHost | None) -> bool:
        return True

    def kubelet_overrides(self, node: Node) -> dict[str, Any]:
        return KUBELET_OVERRIDES

    def delivery(self, identity: str, marks: Iterable[str] = ()) -> Delivery:
        host = self.site.host
        assert host is not None, "workers/checks.py lets no nspawn worker pass without one"
        program = f"{delivery.programs(self.site.cluster.name)}/machine"
        return Delivery(
            host,
            apply_command(program, self.node, marks),
            remove_command(program, self.node, identity),
        )

    def place(self) -> list[str]:
        host = self.site.host
        return [self.name, self.site.cluster.name, host.host_key if host else ""]

    def machine_id(self, identity: str) -> str:
        # What machine.sh starts it with (`complete`); an image with one of its own shows that.
        return hashlib.sha256(f"{identity}\n".encode()).hexdigest()[:32]

    def reaches_machine(self) -> list[Any]:
        return [self.settings.image, self.settings.bridge, self.settings.mac]

    def parcel(self, emission: Emission) -> dict[str, File]:
        return parcel(
            emission.seed,
            image=self.settings.image or "",
            bridge=self.settings.bridge,
            mac=self.settings.mac,
            gate_url=self.site.gate_url,
            authority_pem=emission.authority_pem,
            status_token=emission.keys.status_token,
            identity=emission.identity,
        )

    def delivery_input(self, emission: Emission, book: Book | None = None) -> str:
        return recipe(self.parcel(emission), book)


class NspawnWorker(Worker):
    """An nspawn machine: the graph starts it, and waits until its node is Ready."""

    token = "autojoin:workers:NspawnWorker"
    hardware = Nspawn


def apply_command(program: str, name: str, marks: Iterable[str] = ()) -> str:
    """Makes machine `name` run from the input; `marks` change nothing."""
    return delivery.with_marks(shlex.join((program, "apply", name)), marks)


def parcel(
    seed: Seed,
    *,
    image: str,
    bridge: str,
    gate_url: str,
    authority_pem: str,
    status_token: str,
    mac: str | None = None,
    identity: str = "",
    files: Mapping[str, File] | None = None,
) -> dict[str, File]:
    """All that a machine is made from. It holds the join key and the status token: a secret.

    Another `identity` is another machine; without one, any other content is. `image` is a list of
    folders, the topmost first, with colons between; `files` are the
    machine's own by absolute path.
    Raises ValueError where a value would break the format.
    """
    members = {f"seed/{file}": text(content) for file, content in seed.files().items()}
    own_mac = f"MAC={_plain(mac)}\n" if mac else ""
    members["machine.env"] = text(f"IMAGE={_plain(image)}\nBRIDGE={_plain(bridge)}\n{own_mac}")
    if identity:
        members["identity"] = text(f"{_plain(identity)}\n")
    members["gate.env"] = text(f"GATE_URL={_plain(gate_url.rstrip('/'))}\n")
    members["ca.pem"] = text(authority_pem)
    members["status-token"] = text(status_token + "\n")
    for path, file in (files or {}).items():
        members[f"files/{_inside(path)}"] = file
    return members


def remove_command(program: str, name: str, identity: str) -> str:
    """Stops machine `name` and deletes all that belongs to it, if it has that identity."""
    return installed_command(program, "remove", name, identity)


def _plain(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError(f"{value!r} is empty or holds control characters; it stands for one line")
    return value


def _inside(path: str) -> str:
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file {path!r} of a machine must be an absolute path without . and ..")
    return "/".join(parts)
