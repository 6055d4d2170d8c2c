"""A bhyve guest with a kernel of its own: off at first, and nothing but its disc is given to it.

It is made of what `guest.sh` gives zadm, and later vm-bhyve. QEMU takes bhyve's place: UEFI, disk
and card of virtio, the disc on AHCI or of virtio too.
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import place as places
from lab.machine import Hardware, Machine, file_of_hypervisor, of_lab, of_template, of_zone
from lab.place import Place
from tests.e2e.conftest import Lab, table, until
from tests.machines.course import Course, tell
from tools.pins import CILIUM_VERSION

NODE = "bhyve-1"
NODES = "/var/lib/autojoin/nodes"
GUEST = {"cpus": 2, "memory": "2G", "diskSize": "8G"}
# The managers of guests: what guest.sh gives them is printed.
ZADM = f"""\
folder=$(mktemp -d)
printf '#!/bin/sh\\n[ "$1" != create ] || cat >"$0.json"\\n' >"$folder/zadm"
chmod +x "$folder/zadm"
PATH=$folder:$PATH sh {NODES}/{NODE}/guest.sh debian-12-generic-amd64.raw link0
cat "$folder/zadm.json"
rm -r "$folder"
"""
VM_BHYVE = f"""\
folder=$(mktemp -d)
mkdir "$folder/.templates"
printf '#!/bin/sh\necho %s\n' "$folder" >"$folder/sysrc"
printf '#!/bin/sh\n' >"$folder/vm"
chmod +x "$folder/sysrc" "$folder/vm"
PATH=$folder:$PATH sh {NODES}/{NODE}/guest.sh debian-12-generic-amd64.raw
cat "$folder/.templates/{NODE}.conf"
rm -r "$folder"
"""
MEMORY_LIMIT = "48Mi"
# On the node's own network and of an image that is there: what it shows is the limit.
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "eater"},
    "spec": {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "hostNetwork": True,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "eater",
                "image": f"quay.io/cilium/cilium:v{CILIUM_VERSION}",
                "command": ["tail", "/dev/zero"],
                "resources": {"limits": {"memory": MEMORY_LIMIT}},
            }
        ],
    },
}
# A processor that is emulated, on a machine that does other things besides.
DELIVERY_SECONDS = 300
BOOT_SECONDS = 180
JOIN_SECONDS = 1500
# The agent compiles its datapath before it takes its taint away.
POD_SECONDS = 1500

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's SSH key."""
    file = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


@pytest.fixture(scope="module")
def course(lab: Lab, key: Path) -> Iterator[Course]:
    """The guest, which has joined by itself while `pulumi up` waited for it."""
    public = key.with_suffix(".pub").read_text().strip()

    def add(config: dict[str, Any]) -> None:
        first = ipaddress.ip_address(config["autojoin:workers"]["worker-1"]["address"])
        config["autojoin:workers"][NODE] = {
            "hardware": "bhyve",
            "address": str(first + 20),
            "awaitJoin": True,
            "joinTimeout": JOIN_SECONDS,
            "guest": GUEST,
            "userData": {"ssh_authorized_keys": [public]},
        }

    lab.edit(add)
    lab.run("kubectl", "apply", "-f", "-", stdin=json.dumps(POD))
    try:
        with on_its_way(lab, by_zadm) as course:
            course.reach("first boot", lambda: course.machine.wrote("Cloud-init v."), BOOT_SECONDS)
            course.reach("join", lambda: conditions(lab), JOIN_SECONDS)
            course.reach("Ready", lambda: is_ready(lab), JOIN_SECONDS)
            course.reach("first pod", lambda: "startedAt" in str(state_of_pod(lab)), POD_SECONDS)
        yield course
        course.machine.power_off()
    finally:
        # The lab's other machines come after it.
        lab.edit(lambda config: config["autojoin:workers"].pop(NODE))


@contextmanager
def on_its_way(
    lab: Lab, hardware: Callable[[Lab, Place], Hardware], before: str = ""
) -> Iterator[Course]:
    """The guest of another identity than `before`, made and powered on while `make up` waits for
    its join; afterwards it is Ready."""
    place = places.find(lab.checkout)
    assert place
    folder = place.state / "virtual" / NODE
    shutil.rmtree(folder, ignore_errors=True)
    with concurrent.futures.ThreadPoolExecutor() as beside:
        up = beside.submit(lab.make, "up")
        until(lambda: up.done() or identity(lab) not in ("", before), DELIVERY_SECONDS)
        if up.done():
            up.result()
        assert identity(lab) not in ("", before)
        course = Course("bhyve", Machine(NODE, folder, hardware(lab, place), of_lab(place)))
        course.power_on()
        yield course
        assert table(up.result())[NODE]["READY"] == "True"


def identity(lab: Lab) -> str:
    """That of the files that are delivered whole; empty where there are none."""
    look = f"ls {NODES}/.autojoin/*/nodes/{NODE}.list >&2 && cat {NODES}/{NODE}/node.json || true"
    found = lab.on_hypervisor(look)
    return str(json.loads(found)["identity"]) if found else ""


def by_zadm(lab: Lab, place: Place) -> Hardware:
    zone = json.loads(lab.on_hypervisor(ZADM))
    return of_zone(zone, lambda path: file_of_hypervisor(place, path))


def by_vm_bhyve(lab: Lab, place: Place) -> Hardware:
    template = lab.on_hypervisor(VM_BHYVE)
    return of_template(template, lambda path: file_of_hypervisor(place, path))


def conditions(lab: Lab) -> dict[str, str]:
    """The conditions of its Node; none where there is no Node."""
    text = lab.run("kubectl", "get", "node", NODE, "--output", "json", check=False)
    found = json.loads(text)["status"]["conditions"] if text else []
    return {each["type"]: each["status"] for each in found}


def is_ready(lab: Lab) -> bool:
    return conditions(lab).get("Ready") == "True"


def state_of_pod(lab: Lab) -> dict[str, Any]:
    containers = lab.kubectl("get", "pod", "eater")["status"].get("containerStatuses", [])
    return dict(containers[0]["state"]) if containers else {}


def login(lab: Lab, key: Path, command: str, *, check: bool = True) -> str:
    """What `command` prints on the guest, to who has the configured key."""
    address = lab.config["autojoin:workers"][NODE]["address"]
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    words = [word for option in options for word in ("-o", option)]
    here = ["ssh", "-F", "/dev/null", "-i", str(key), *words, f"root@{address}", command]
    return lab.run(*here, check=check).strip()


def test_a_guest_joins_from_its_disc_alone(course: Course) -> None:
    assert list(course.seconds) == ["first boot", "join", "Ready", "first pod"]


def test_a_memory_limit_is_enforced(lab: Lab, course: Course) -> None:
    course.reach("memory limit", lambda: "terminated" in state_of_pod(lab), POD_SECONDS)
    assert state_of_pod(lab)["terminated"]["reason"] == "OOMKilled"


def test_the_configured_key_lets_in(lab: Lab, key: Path, course: Course) -> None:
    course.reach("login", lambda: login(lab, key, "hostname", check=False) == NODE, BOOT_SECONDS)


def test_its_boot_is_whole(lab: Lab, key: Path, course: Course) -> None:
    """Nothing has failed on it, and its root has grown to the disk that it was given."""
    done = lambda: "status: done" in login(lab, key, "cloud-init status --long", check=False)  # noqa: E731
    course.reach("cloud-init's end", done, JOIN_SECONDS)
    assert login(lab, key, "systemctl --failed --no-legend") == ""
    size = int(login(lab, key, "findmnt --noheadings --bytes --output SIZE /"))
    assert size > 7 * 2**30


def test_a_reset_at_any_time(lab: Lab, key: Path, course: Course) -> None:
    """A joined one comes back as the node that it was."""
    pair = "openssl x509 -noout -serial -in /var/lib/kubelet/pki/kubelet-client-current.pem"
    serial, boot = login(lab, key, pair), boot_of(lab)
    course.machine.reset()
    course.reach("reset", lambda: is_ready(lab) and boot_of(lab) != boot, JOIN_SECONDS)
    assert login(lab, key, pair) == serial


@pytest.mark.full
def test_a_reset_during_the_join(lab: Lab, course: Course) -> None:
    """A new one, whose first start ends at some point, joins all the same."""
    before = identity(lab)
    course.machine.power_off()

    def raise_generation(config: dict[str, Any]) -> None:
        config["autojoin:workers"][NODE]["generation"] = 2

    lab.edit(raise_generation)
    with on_its_way(lab, by_vm_bhyve, before) as again:
        course.machine = again.machine
        after = random.uniform(0, course.seconds["Ready"])
        tell(f"bhyve: reset {after:.1f} s after power")
        again.reach("its time", lambda: time.monotonic() > again.started + after, JOIN_SECONDS)
        again.machine.reset()


def boot_of(lab: Lab) -> str:
    return str(lab.kubectl("get", "node", NODE)["status"]["nodeInfo"]["bootID"])
