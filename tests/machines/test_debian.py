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
from contextlib import ExitStack, contextmanager
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

NODE, OTHER = "metal-1", "metal-2"
# A machine's card, its address after worker-1's, and how it is switched on.
MADE = {NODE: ("a0:36:9f:00:00:42", 30, "redfish"), OTHER: ("a0:36:9f:00:00:43", 31, "ipmi")}
RELEASE, HOST = "debian-13", "boot"
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

    @property
    def name(self) -> str:
        return self.machine.name

    def times_fetched(self, path: str) -> int:
        return times_served(self.folder, path)

    @property
    def times_guarded(self) -> int:
        return self.times_fetched(f"/{self.name}-g[^/]*/install-guard")

    @property
    def node(self) -> dict[str, Any]:
        """Its Node; nothing where there is none."""
        text = self.lab.run("kubectl", "get", "node", self.name, "--output", "json", check=False)
        return dict(json.loads(text)) if text else {}

    @property
    def boot(self) -> str:
        return str(self.node["status"]["nodeInfo"]["bootID"])

    def has_joined(self) -> bool:
        """As whom the files say that it is."""
        delivered = json.loads((self.folder / f"http/autojoin/{self.name}/node.json").read_text())
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

    def comes_up(self, course: Course, limit: float) -> None:
        course.reach("join", self.has_joined, limit)
        course.reach("Ready", self.is_ready, JOIN_SECONDS)

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
    lay_out(folder / "http")
    ranges = {"192.168.10.2": address.rpartition(".")[0] + ".2", "192.168.10.4": address}
    with ExitStack() as stack:
        host = stack.enter_context(linux_host.host(place, folder / "host"))
        stack.enter_context(boot_server(network, folder, EVERY_NODE, ranges))
        host |= {"directory": f"{folder}/http/autojoin", "seedUrl": f"http://{address}/autojoin/"}
        lab.edit(partial(add_host, host=host))
        yield stack.enter_context(switched_by_its_controller(lab, NODE, folder))
        lab.edit(without)
        lab.make("up")


@contextmanager
def switched_by_its_controller(lab: Lab, name: str, folder: Path) -> Iterator[Metal]:
    """A machine that is in the stack, and off."""
    mac, number, protocol = MADE[name]
    place = places.find(lab.checkout)
    assert place
    network, address = of_lab(place), str(place.hypervisor_address)
    # One processor: an emulated one that waits for another costs as much as one that works.
    hardware = Hardware(1, "2G", "8G", mac, disk_device="nvme", empty=True)
    machine = Machine(name, folder / name, hardware, network)
    with controller(protocol, machine, folder, network, address) as board:
        password = board.pop("password")
        lab.edit(partial(add, name=name, mac=mac, number=number, board=board))
        path = f"autojoin:boards.{name}-bmc.password"
        lab.run("pulumi", "config", "set", "--secret", "--path", path, stdin=password)
        yield Metal(lab, machine, folder)


def lay_out(web_root: Path) -> None:
    """What a person puts there once: the installer, and here kubelet's packages."""
    installer = web_root / "autojoin" / RELEASE
    installer.mkdir(parents=True)
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(debian_installer.folder() / name, installer / name)
    (web_root / "kubernetes").symlink_to(plain_image.packages() / "kubernetes")


def add_host(config: dict[str, Any], host: dict[str, Any]) -> None:
    config["autojoin:provisioning"][HOST] = host
    config["autojoin:cluster"]["packages"] = {
        "repository": host["seedUrl"].replace("/autojoin/", "/kubernetes/"),
        "key": str(plain_image.packages() / "kubernetes/Release.key"),
    }
    config["autojoin:workers"]["worker-1"]["provisioner"] = "hypervisor"


def add(config: dict[str, Any], name: str, mac: str, number: int, board: dict[str, Any]) -> None:
    mirror = config["autojoin:provisioning"][HOST]["seedUrl"].replace("/autojoin/", "/debian")
    config.setdefault("autojoin:boards", {})[f"{name}-bmc"] = board
    workers = config["autojoin:workers"]
    workers[name] = {
        "hardware": "bare-metal",
        "address": str(ipaddress.ip_address(workers["worker-1"]["address"]) + number),
        "mac": mac,
        "disk": "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_disk",
        "osRelease": RELEASE,
        "provisioner": HOST,
        "bmc": f"{name}-bmc",
        "userData": {
            "bootcmd": [FIXED_ADDRESSES],
            "apt": {
                "preserve_sources_list": False,
                "primary": [{"arches": ["default"], "uri": mirror}],
                "sources_list": f"deb {mirror} trixie main\n",
            },
        },
    }


def without(config: dict[str, Any]) -> None:
    for name in MADE:
        config["autojoin:workers"].pop(name, None)
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
        metal.comes_up(course, JOIN_SECONDS)
        course.reach("first pod", metal.runs_a_pod, JOIN_SECONDS)
        assert table(up.result())[NODE]["READY"] == "True"


def test_the_next_up_changes_nothing(metal: Metal) -> None:
    assert metal.lab.preview() == []


@pytest.mark.full
def test_a_joined_one_that_boots_from_the_network_is_left_as_it_is(metal: Metal) -> None:
    machine, uid = metal.machine, metal.node["metadata"]["uid"]
    guarded = metal.times_guarded
    machine.power_off()
    machine.from_network = True
    course = Course("bare-metal of Debian", machine)
    course.power_on()
    again = lambda: metal.times_guarded > guarded  # noqa: E731
    course.reach("disk, joined", again, STEP_SECONDS + INSTALL_SECONDS)
    time.sleep(GUARD_SECONDS)
    machine.power_off()
    boot = metal.boot
    course.power_on()
    course.reach("Ready again", lambda: metal.boot != boot and metal.is_ready(), JOIN_SECONDS)
    assert metal.node["metadata"]["uid"] == uid
    assert metal.times_guarded == guarded + 1


@pytest.mark.full
def test_twenty_power_cuts_of_its_life_and_another_beside_it(metal: Metal) -> None:
    """It is installed anew, by a raised generation; the other, which is new, at the same time."""
    lab = metal.lab
    metal.machine.power_off()
    course = Course("bare-metal of Debian", metal.machine)
    with switched_by_its_controller(lab, OTHER, metal.folder) as other:
        lab.edit(wait_long)
        with concurrent.futures.ThreadPoolExecutor() as beside:
            up = beside.submit(lab.make, "up")
            metal.await_power(up)
            course.start()
            second = Course("another of Debian", other.machine)
            second.start()
            undisturbed = beside.submit(other.comes_up, second, INSTALL_SECONDS + JOIN_SECONDS)
            for least, most in CUTS_BEFORE:
                cut(course, least, most)
            metal.comes_up(course, INSTALL_SECONDS + JOIN_SECONDS)
            undisturbed.result()
            ready = table(up.result())
            assert [ready[name]["READY"] for name in MADE] == ["True", "True"]
        is_removed(other)
    joined = metal.node["metadata"]["uid"], metal.times_guarded
    course.start()
    for least, most in CUTS_JOINED:
        cut(course, least, most)
    boot = metal.boot
    course.reach("Ready again", lambda: metal.boot != boot and metal.is_ready(), JOIN_SECONDS)
    assert (metal.node["metadata"]["uid"], metal.times_guarded) == joined


def wait_long(config: dict[str, Any]) -> None:
    """For both, of which one is to be installed anew."""
    config["autojoin:workers"][NODE]["generation"] = 2
    for name in MADE:
        config["autojoin:workers"][name]["joinTimeout"] = 14400


def cut(course: Course, least: float, most: float) -> None:
    """Power is cut at some time between these since it was there, most often early, and is back."""
    after = math.exp(random.uniform(math.log(least), math.log(most)))
    course.reach("cut", lambda: time.monotonic() > course.started + after, most)
    course.machine.power_off()
    course.power_on()


def test_one_that_is_removed_is_switched_off(metal: Metal) -> None:
    # Nobody would start it again: a drain refuses to lose it.
    metal.lab.run("kubectl", "delete", "pod", "first")
    is_removed(metal)


def is_removed(metal: Metal) -> None:
    """From the stack; its certificates are revoked, and it is off."""
    metal.lab.edit(lambda config: config["autojoin:workers"].pop(metal.name))
    assert metal.name not in table(metal.lab.make("up"))
    assert metal.machine.process is None
    assert not metal.node
    assert set(metal.lab.certificates(metal.name)) == {"revoked"}
