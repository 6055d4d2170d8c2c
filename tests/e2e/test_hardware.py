"""Every type of hardware in one lab: stand-ins that are started from exactly what was delivered.

Eight machines with the three of the dev stack. What only real hardware does is skipped by name.
"""

from __future__ import annotations

import ipaddress
import json
import random
import threading
import time
from typing import Any

import pytest

from tests.e2e.conftest import Lab, table

pytestmark = pytest.mark.full

# The stand-ins are containers of Debian: no control groups of their own, no resolver of Ubuntu's.
CONTAINER = {
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "cgroupDriver": "cgroupfs",
    "resolvConf": "/etc/resolv.conf",
}
WORKERS: dict[str, dict[str, Any]] = {
    "bhyve-1": {"hardware": "bhyve"},
    "bhyve-2": {"hardware": "bhyve", "mac": "02:08:20:00:00:22", "nodeKey": "rsa-2048"},
    "rk1-1": {"hardware": "turing-rk1", "bmc": "turing-1", "slot": 1},
    "cm4-1": {"hardware": "turing-cm4", "bmc": "turing-1", "slot": 2},
    "metal-1": {"hardware": "bare-metal", "mac": "a0:36:9f:00:00:41", "disk": "/dev/nvme0n1"},
}
MACHINES = "/var/lib/autojoin/machines"
CUTS = 20
GATE_DOWN_SECONDS = 60


@pytest.fixture(scope="module")
def mixed(lab: Lab) -> Any:
    """The lab with all five types; the text of `make up`. Afterwards it is as it was."""
    lab.make("up")  # other tests of this lab may have ended with it down
    vars(lab).pop("_environment", None)
    before = lab.file.read_text()

    def add(config: dict[str, Any]) -> None:
        first = ipaddress.ip_address(config["autojoin:workers"]["worker-1"]["address"])
        for number, (name, worker) in enumerate(WORKERS.items()):
            common = {"imageKind": "template", "awaitJoin": True, "kubelet": CONTAINER}
            address = str(first + 20 + number)
            config["autojoin:workers"][name] = {"address": address, **common, **worker}

    lab.edit(add)
    yield lab.make("up")
    lab.file.write_text(before)
    lab.make("up")
    # The rack takes the machines down one after the other, once their files are gone.
    deadline = time.monotonic() + 60
    while left := set(lab.on_hypervisor(f"ls {MACHINES}").split()) & set(WORKERS):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_all_five_types_join_in_one_up(lab: Lab, mixed: str) -> None:
    rows = table(mixed)
    assert len(rows) == 8
    assert {row["HARDWARE"] for row in rows.values()} == {
        *("nspawn", "bhyve", "turing-rk1", "turing-cm4", "bare-metal"),
    }
    assert {row["READY"] for row in rows.values()} == {"True"}
    outputs = json.loads(lab.run("pulumi", "stack", "output", "nodes", "--json"))
    for name in WORKERS:
        assert outputs[name]["joined"]["readySeconds"] >= 0
        assert "certificate" in outputs[name]["joined"]["phases"]


def test_the_boards_are_arm64(lab: Lab, mixed: str) -> None:
    for name in ("rk1-1", "cm4-1"):
        facts = lab.kubectl("get", "node", name)
        assert facts["status"]["nodeInfo"]["architecture"] == "arm64"
        assert facts["metadata"]["labels"]["kubernetes.io/arch"] == "arm64"
        skipped = lab.on_hypervisor(f"cat /var/lib/autojoin/rack/{name}.skipped")
        assert "run as amd64" not in skipped


def test_what_hardware_alone_does_is_skipped_by_name(lab: Lab, mixed: str) -> None:
    skipped = {
        name: lab.on_hypervisor(f"cat /var/lib/autojoin/rack/{name}.skipped").splitlines()
        for name in WORKERS
    }
    assert "board.sh flash" in skipped["rk1-1"] and "board.sh flash" in skipped["cm4-1"]
    assert "iPXE and DHCP" in skipped["metal-1"]
    # What is not skipped: the board's own script put the seed and the kernel's words in place.
    line = lab.on_hypervisor("cat /var/lib/autojoin/rack/cm4-1.boot/cmdline.txt").strip()
    assert line.endswith("cgroup_enable=memory cgroup_memory=1") and "\n" not in line


def test_the_installed_machine_got_the_nested_user_data(lab: Lab, mixed: str) -> None:
    root = f"{MACHINES}/metal-1/disk/root"
    seed = lab.on_hypervisor(f"cat {root}/var/lib/cloud/seed/nocloud/user-data")
    assert "autoinstall" not in seed and "/etc/autojoin/join.env" in seed
    kept = lab.on_hypervisor(f"cat {root}/var/lib/autojoin/identity").strip()
    assert kept.startswith("metal-1-g1-")


def test_an_rsa_key_by_choice(lab: Lab, mixed: str) -> None:
    pki = f"{MACHINES}/bhyve-2/disk/root/var/lib/kubelet/pki"
    shown = lab.on_hypervisor(f"openssl x509 -noout -text -in {pki}/kubelet.crt")
    assert "Public-Key: (2048 bit)" in shown


def raise_generations(lab: Lab, names: list[str]) -> None:
    def change(config: dict[str, Any]) -> None:
        for name in names:
            worker = config["autojoin:workers"][name]
            worker["generation"] = worker.get("generation", 1) + 1

    lab.edit(change)


def up_meanwhile(lab: Lab, action: Any) -> str:
    """`make up` while `action` goes on beside it; its output."""
    beside = threading.Thread(target=action)
    beside.start()
    try:
        return lab.make("up")
    finally:
        beside.join()


def test_power_cuts_at_random_points_end_joined(lab: Lab, mixed: str) -> None:
    raise_generations(lab, list(WORKERS))
    chance = random.Random(7)

    def cut_again_and_again() -> None:
        time.sleep(4)
        for _ in range(CUTS):
            unit = f"autojoin-machine@{chance.choice(list(WORKERS))}.service"
            kill = f"systemctl kill --kill-whom=all --signal=KILL {unit}"
            lab.on_hypervisor(f"{kill}; systemctl stop {unit}; systemctl start {unit}; true")
            time.sleep(chance.uniform(0, 1))

    rows = table(up_meanwhile(lab, cut_again_and_again))
    assert {rows[name]["READY"] for name in WORKERS} == {"True"}


def test_a_gate_that_is_down_for_a_minute(lab: Lab, mixed: str) -> None:
    raise_generations(lab, ["bhyve-1"])
    lab.on_authority("systemctl stop join-gate")

    def start_later() -> None:
        time.sleep(GATE_DOWN_SECONDS)
        lab.on_authority("systemctl start join-gate")

    assert table(up_meanwhile(lab, start_later))["bhyve-1"]["READY"] == "True"
