"""A guest that `pulumi up` itself makes, by libvirt on a Linux hypervisor: nobody touches it.

`hardware: bhyve` at a host with `manager: libvirt`. What zadm and vm-bhyve are told is tested with
stand-ins (tests/unit/components/machine_host/test_guests.py).
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import linux_host, machine_image
from lab import place as places
from tests.e2e.conftest import Lab, table
from tests.machines.course import tell

NODE = "guest-1"
HOST = "linux"
# A processor that is emulated, on a machine that does other things besides.
JOIN_SECONDS = 1500

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def linux(lab: Lab) -> Iterator[Path]:
    """The hypervisor's folder. It is in the stack, and one guest at it."""
    place = places.find(lab.checkout)
    assert place
    # Where libvirt's user gets through to the disks.
    folder = place.state / "libvirt"
    with linux_host.hypervisor(place, folder) as host:

        def add(config: dict[str, Any]) -> None:
            config["autojoin:provisioning"][HOST] = host
            workers = config["autojoin:workers"]
            first = ipaddress.ip_address(workers["worker-1"]["address"])
            workers["worker-1"]["provisioner"] = "hypervisor"
            workers[NODE] = {
                "hardware": "bhyve",
                "address": str(first + 20),
                "provisioner": HOST,
                "joinTimeout": JOIN_SECONDS,
                "guest": {
                    "cpus": 2,
                    "memory": "2G",
                    "diskSize": "8G",
                    "image": str(machine_image.disk()),
                },
            }

        lab.edit(add)
        yield folder
        # Before it ends, whatever is left at it goes.
        lab.edit(without)
        lab.make("up")


def without(config: dict[str, Any]) -> None:
    config["autojoin:workers"].pop(NODE, None)
    config["autojoin:provisioning"].pop(HOST, None)


def guests(folder: Path) -> list[str]:
    """The guests whose disks are there."""
    return sorted(path.name for path in (folder / "var/lib/libvirt/images").iterdir())


def domain(folder: Path, *words: str) -> str:
    """What libvirt says on the hypervisor."""
    sshd = subprocess.run(
        ["pgrep", "-f", f"sshd -D -e -f {folder}/sshd_config"], capture_output=True, text=True
    )
    inside = ["nsenter", f"--target={sshd.stdout.split()[-1]}", "--all", "--"]
    command = ["virsh", "--quiet", "--connect", "qemu:///system", *words]
    answer = subprocess.run([*inside, *command], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def up(lab: Lab, what: str) -> dict[str, dict[str, str]]:
    """`make up`, and how long it took; its table of nodes."""
    started = time.monotonic()
    shown = table(lab.make("up"))
    tell(f"libvirt: {what} in {time.monotonic() - started:.0f} s")
    return shown


def machine_of(lab: Lab) -> str:
    """What the Node tells of its machine, which is what the stack says of it."""
    known = json.loads(lab.run("pulumi", "stack", "output", "nodes", "--json"))[NODE]["identity"]
    found = str(lab.kubectl("get", "node", NODE)["spec"]["providerID"])
    assert found == f"autojoin://{lab.config['autojoin:cluster']['name']}/{known}"
    return found


def test_up_makes_a_guest_that_joins(lab: Lab, linux: Path) -> None:
    assert up(lab, "made, started and joined")[NODE]["READY"] == "True"
    assert domain(linux, "domstate", NODE) == "running"
    assert guests(linux) == [f"{NODE}-seed.iso", f"{NODE}.qcow2"]
    machine_of(lab)


def test_the_next_up_changes_nothing(lab: Lab, linux: Path) -> None:
    assert lab.preview() == []


@pytest.mark.full
def test_one_that_is_edited_is_made_anew(lab: Lab, linux: Path) -> None:
    before = machine_of(lab)

    def label(config: dict[str, Any]) -> None:
        config["autojoin:workers"][NODE]["labels"] = {"bgp": "worker", "disk": "fast"}

    lab.edit(label)
    assert "re-provisioned" in lab.run("pulumi", "preview", "--non-interactive")
    assert up(lab, "drained, made anew and joined")[NODE]["READY"] == "True"
    assert machine_of(lab) != before
    assert lab.kubectl("get", "node", NODE)["metadata"]["labels"]["disk"] == "fast"


def test_one_that_is_removed_leaves_nothing(lab: Lab, linux: Path) -> None:
    lab.edit(lambda config: config["autojoin:workers"].pop(NODE))
    assert NODE not in up(lab, "drained and removed")
    assert guests(linux) == []
    assert domain(linux, "list", "--all", "--name") == ""
