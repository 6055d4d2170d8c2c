"""A worker that is a systemd-nspawn machine on a Linux host: the lab's type.

What is sent to the provisioning host, and the commands there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from components.archive import File as File
from components.archive import text
from components.machine_host import delivery
from components.machine_host.recipe import Book, recipe
from components.workers.hardware import Delivery, Emission, Hardware
from components.workers.seed import Seed
from components.workers.worker import Worker

PROGRAM = f"{delivery.PROGRAMS}/machine"
# A machine shares its host's control groups, swap and memory: the kubelet has nothing to enforce,
# and does not put itself before the host's own services. Where it may not, it would sleep 0.2 s.
KUBELET_OVERRIDES: dict[str, Any] = {
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "oomScoreAdj": 0,
}
MACHINE_SCRIPT = Path(delivery.__file__).parent / "on_host" / "machine.sh"


class Nspawn(Hardware):
    """Started by the graph from its seed alone; `up` follows the join until the node is Ready."""

    name = "nspawn"
    interface = "host0"
    restarts_by_itself = True
    grow_root = False
    one_architecture = False
    program = "machine"
    program_file = MACHINE_SCRIPT
    required = ("image",)
    own = ("image",)
    hints: ClassVar = {"image": "the root folder of its machines on the provisioning host"}
    example: ClassVar = {"image": "/image"}

    def kubelet_overrides(self) -> dict[str, Any]:
        return KUBELET_OVERRIDES

    def delivery(self, marks: Iterable[str] = ()) -> Delivery:
        host = self.site.host
        assert host is not None, "components/checks.py lets no nspawn worker pass without one"
        return Delivery(
            host,
            apply_command(self.node, self.settings.join_timeout, marks),
            remove_command(self.node),
        )

    def parcel(self, emission: Emission) -> dict[str, File]:
        return parcel(
            emission.seed,
            image=self.settings.image or "",
            bridge=self.settings.bridge,
            mac=self.settings.mac,
            gate_url=self.site.gate_url,
            authority_pem=emission.authority_pem,
            status_token=emission.keys.status_token,
        )

    def delivery_input(self, emission: Emission, book: Book | None = None) -> str:
        return recipe(self.parcel(emission), book)

    def joined(self, output: str) -> dict[str, Any]:
        """The summary with which `machine await` ends: seconds to Ready, phase by phase."""
        lines = output.strip().splitlines()
        summary = json.loads(lines[-1]) if lines else {}
        return {"readySeconds": summary.get("readySeconds"), "phases": summary.get("phases")}


class NspawnWorker(Worker):
    """An nspawn machine: the graph starts it, and waits until its node is Ready."""

    token = "autojoin:workers:NspawnWorker"
    hardware = Nspawn


def apply_command(name: str, timeout_seconds: int, marks: Iterable[str] = ()) -> str:
    """Makes machine `name` run from the input, and follows its join for `timeout_seconds`.

    `marks` change nothing. The last line of its output is JSON:
    `{"node", "readySeconds", "phases": {phase: seconds}}`.
    """
    machine = shlex.quote(name)
    apply = delivery.with_marks(f"{PROGRAM} apply {machine}", marks)
    return f"{apply} && {PROGRAM} await {machine} {int(timeout_seconds)}"


def parcel(
    seed: Seed,
    *,
    image: str,
    bridge: str,
    gate_url: str,
    authority_pem: str,
    status_token: str,
    mac: str | None = None,
    files: Mapping[str, File] | None = None,
) -> dict[str, File]:
    """All that a machine is made from. It holds the join key and the status token: a secret.

    `image` is a list of folders, the topmost first, with colons between; `files` are the
    machine's own by absolute path.
    Raises ValueError where a value would break the format.
    """
    members = {f"seed/{file}": text(content) for file, content in seed.files().items()}
    own_mac = f"MAC={_plain(mac)}\n" if mac else ""
    members["machine.env"] = text(f"IMAGE={_plain(image)}\nBRIDGE={_plain(bridge)}\n{own_mac}")
    members["await.env"] = text(f"GATE_URL={_plain(gate_url.rstrip('/'))}\n")
    members["ca.pem"] = text(authority_pem)
    members["status-token"] = text(status_token + "\n")
    for path, file in (files or {}).items():
        members[f"files/{_inside(path)}"] = file
    return members


def remove_command(name: str) -> str:
    """Stops machine `name` and deletes all that belongs to it. Repeating it does nothing."""
    return f"{PROGRAM} remove {shlex.quote(name)}"


def _plain(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError(f"{value!r} is empty or holds control characters; it stands for one line")
    return value


def _inside(path: str) -> str:
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file {path!r} of a machine must be an absolute path without . and ..")
    return "/".join(parts)
