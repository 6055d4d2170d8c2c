"""Bare metal from `pulumi up` to a Ready node, and back to a machine that is off.

An empty virtual machine is switched on through its controller, boots over the network, is installed
by Debian's own installer, and joins. Debian's packages come from Debian's mirror by way of this
machine, kubelet from the lab's repository, and nobody touches anything.
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab import debian_installer, linux_host, plain_image
from lab import place as places
from lab.machine import FIXED_ADDRESSES, Hardware, Machine, of_lab
from tests.e2e.conftest import Lab, table
from tests.machines.boot_server import EVERY_NODE, boot_server, times_served
from tests.machines.controllers import controller
from tests.machines.course import Course

NODE, MAC, RELEASE = "metal-1", "a0:36:9f:00:00:42", "debian-13"
HOST, BOARD = "boot", "metal-1-bmc"
# A processor that is emulated, on a machine that does other things besides.
STEP_SECONDS, INSTALL_SECONDS, JOIN_SECONDS = 300, 3000, 1500
GUARD_SECONDS = 60  # from its start to its last word
# Twenty cuts, each between so many seconds after power: up to the disk, once while packages are
# installed, and of the joined one.
CUTS_BEFORE, CUTS_JOINED = [*[(5, 240)] * 15, (300, 900)], [(5, 120)] * 4
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "first"},
    "spec": {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "containers": [
            {"name": "first", "image": "registry.k8s.io/pause:3.10.1"},
        ],
    },
}

pytestmark = pytest.mark.timeout(18000)


@dataclass
class Metal:
    """The machine, where it is in the lab, and what its boot server has been asked."""

    lab: Lab
    machine: Machine
    folder: Path

    def times_fetched(self, path: str) -> int:
        return times_served(self.folder, path)

    @property
    def node(self) -> dict[str, Any]:
        """Its Node; nothing where there is none."""
        text = self.lab.run("kubectl", "get", "node", NODE, "--output", "json", check=False)
        return dict(json.loads(text)) if text else {}

    @property
    def boot(self) -> str:
        return str(self.node["status"]["nodeInfo"]["bootID"])

    def has_joined(self) -> bool:
        """As whom the files say that it is."""
        delivered = json.loads((self.folder / f"http/autojoin/{NODE}/node.json").read_text())
        machine = self.node.get("spec", {}).get("providerID", "")
        return bool(machine.endswith(f"/{delivered['identity']}"))

    def is_ready(self) -> bool:
        conditions = self.node.get("status", {}).get("conditions", [])
        return {"Ready": "True"}.items() <= {it["type"]: it["status"] for it in conditions}.items()

    def await_power(self, up: concurrent.futures.Future[str]) -> None:
        """Until `pulumi up` has switched it on, from the network."""
        while self.machine.process is None and not up.done():
            concurrent.futures.wait([up], timeout=1)
        assert not up.done(), up.result()

    def runs_a_pod(self) -> bool:
        text = self.lab.run("kubectl", "get", "pod", "first", "--output", "json")
        return bool(json.loads(text)["status"]["phase"] == "Running")


@pytest.fixture(scope="module")
def metal(lab: Lab) -> Iterator[Metal]:
    """It is in the stack, and off."""
    place = places.find(lab.checkout)
    assert place
    network, folder = of_lab(place), place.state / "metal"
    shutil.rmtree(folder, ignore_errors=True)
    address = str(place.hypervisor_address)
    hardware = Hardware(2, "2G", "8G", MAC, disk_device="nvme", empty=True)
    machine = Machine(NODE, folder / "machine", hardware, network)
    lay_out(folder / "http")
    ranges = {"192.168.10.2": address.rpartition(".")[0] + ".2", "192.168.10.4": address}
    with ExitStack() as stack:
        host = stack.enter_context(linux_host.host(place, folder / "host"))
        board = stack.enter_context(controller("redfish", machine, folder, network, address))
        stack.enter_context(boot_server(network, folder, EVERY_NODE, ranges))
        host |= {"directory": f"{folder}/http/autojoin", "seedUrl": f"http://{address}/autojoin/"}
        password = board.pop("password")
        lab.edit(partial(add, host=host, board=board))
        path = f"autojoin:boards.{BOARD}.password"
        lab.run("pulumi", "config", "set", "--secret", "--path", path, stdin=password)
        yield Metal(lab, machine, folder)
        lab.edit(without)
        lab.make("up")


def lay_out(web_root: Path) -> None:
    """What a person puts there once: the installer, and here kubelet's packages."""
    installer = web_root / "autojoin" / RELEASE
    installer.mkdir(parents=True)
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(debian_installer.folder() / name, installer / name)
    (web_root / "kubernetes").symlink_to(plain_image.packages() / "kubernetes")


def add(config: dict[str, Any], host: dict[str, Any], board: dict[str, Any]) -> None:
    server = host["seedUrl"].removesuffix("/autojoin/")
    config["autojoin:provisioning"][HOST] = host
    config["autojoin:boards"] = {BOARD: board}
    config["autojoin:cluster"]["packages"] = {
        "repository": f"{server}/kubernetes/",
        "key": str(plain_image.packages() / "kubernetes/Release.key"),
    }
    workers = config["autojoin:workers"]
    workers["worker-1"]["provisioner"] = "hypervisor"
    workers[NODE] = {
        "hardware": "bare-metal",
        "address": str(ipaddress.ip_address(workers["worker-1"]["address"]) + 30),
        "mac": MAC,
        "disk": "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_disk",
        "osRelease": RELEASE,
        "provisioner": HOST,
        "bmc": BOARD,
        "userData": {
            "bootcmd": [FIXED_ADDRESSES],
            "apt": {
                "preserve_sources_list": False,
                "primary": [{"arches": ["default"], "uri": f"{server}/debian"}],
                "sources_list": f"deb {server}/debian trixie main\n",
            },
        },
    }


def without(config: dict[str, Any]) -> None:
    config["autojoin:workers"].pop(NODE, None)
    config["autojoin:provisioning"].pop(HOST, None)
    config.pop("autojoin:boards", None)


def test_from_up_to_a_ready_node(metal: Metal) -> None:
    lab, machine = metal.lab, metal.machine
    lab.run("kubectl", "apply", "-f", "-", stdin=json.dumps(POD))
    course = Course("bare-metal of Debian", machine)
    with concurrent.futures.ThreadPoolExecutor() as beside:
        up = beside.submit(lab.make, "up")
        metal.await_power(up)
        course.start()
        for step, path, limit in (
            ("the installer's kernel", f"{RELEASE}/vmlinuz", STEP_SECONDS),
            ("its answers", "/preseed.cfg", STEP_SECONDS),
            ("disk", "/install-guard", INSTALL_SECONDS),
            ("installed", "/user-data", INSTALL_SECONDS),
        ):
            course.reach(step, partial(metal.times_fetched, path), limit)
        course.reach("join", metal.has_joined, JOIN_SECONDS)
        course.reach("Ready", metal.is_ready, JOIN_SECONDS)
        course.reach("first pod", metal.runs_a_pod, JOIN_SECONDS)
        assert table(up.result())[NODE]["READY"] == "True"


def test_the_next_up_changes_nothing(metal: Metal) -> None:
    assert metal.lab.preview() == []


@pytest.mark.full
def test_a_joined_one_that_boots_from_the_network_is_left_as_it_is(metal: Metal) -> None:
    machine, uid = metal.machine, metal.node["metadata"]["uid"]
    guarded = metal.times_fetched("/install-guard")
    machine.power_off()
    machine.from_network = True
    course = Course("bare-metal of Debian", machine)
    course.power_on()
    again = lambda: metal.times_fetched("/install-guard") > guarded  # noqa: E731
    course.reach("disk, joined", again, STEP_SECONDS + INSTALL_SECONDS)
    time.sleep(GUARD_SECONDS)
    machine.power_off()
    boot = metal.boot
    course.power_on()
    course.reach("Ready again", lambda: metal.boot != boot and metal.is_ready(), JOIN_SECONDS)
    assert metal.node["metadata"]["uid"] == uid
    assert metal.times_fetched("/install-guard") == guarded + 1


@pytest.mark.full
def test_twenty_power_cuts_of_its_life(metal: Metal) -> None:
    """It is installed anew, by a raised generation."""
    lab, machine = metal.lab, metal.machine
    lab.edit(
        lambda config: config["autojoin:workers"][NODE].update(generation=2, joinTimeout=14400)
    )
    machine.power_off()
    course = Course("bare-metal of Debian", machine)
    with concurrent.futures.ThreadPoolExecutor() as beside:
        up = beside.submit(lab.make, "up")
        metal.await_power(up)
        course.start()
        for least, most in CUTS_BEFORE:
            cut(course, least, most)
        course.reach("join", metal.has_joined, INSTALL_SECONDS + JOIN_SECONDS)
        course.reach("Ready", metal.is_ready, JOIN_SECONDS)
        assert table(up.result())[NODE]["READY"] == "True"
    uid, guarded = metal.node["metadata"]["uid"], metal.times_fetched("/install-guard")
    course.start()
    for least, most in CUTS_JOINED:
        cut(course, least, most)
    boot = metal.boot
    course.reach("Ready again", lambda: metal.boot != boot and metal.is_ready(), JOIN_SECONDS)
    assert metal.node["metadata"]["uid"] == uid
    assert metal.times_fetched("/install-guard") == guarded


def cut(course: Course, least: float, most: float) -> None:
    """Power is cut at some time between these since it was there, most often early, and is back."""
    after = math.exp(random.uniform(math.log(least), math.log(most)))
    course.reach("cut", lambda: time.monotonic() > course.started + after, most)
    course.machine.power_off()
    course.power_on()


def test_one_that_is_removed_is_switched_off(metal: Metal) -> None:
    # Nobody would start it again: a drain refuses to lose it.
    metal.lab.run("kubectl", "delete", "pod", "first")
    metal.lab.edit(lambda config: config["autojoin:workers"].pop(NODE))
    assert NODE not in table(metal.lab.make("up"))
    assert metal.machine.process is None
    assert not metal.node
