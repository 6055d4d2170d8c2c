"""Whatever goes wrong on one node: it ends joined, or `pulumi up` names node, phase and cause.

The faults are made on the machines themselves, each right before the join begins, by a drop-in for
its unit that comes with the worker's own `userData`. The waits of the join are shortened there, not
in the program. All machines of a test come up side by side.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Lab, table

pytestmark = pytest.mark.full

WAIT_SECONDS = 6
MACHINES = "/var/lib/autojoin/machines/dev"
API_DOWN_SECONDS = 10
# Longer than the API server waits for a sign of life before it calls a node Unknown.
REJOIN_SECONDS = 90
DROP_IN = "/etc/systemd/system/autojoin-join.service.d"
# Machines share their host's clock. So the authority is said to be of next year, which to the join
# is the same as a clock that is a year behind.
NEXT_YEAR = int(time.time()) + 366 * 86400


def join_with(script: str = "", **environment: str) -> dict[str, Any]:
    """userData: `script` is run before the join, which gets `environment`."""
    lines = ["[Service]", *(f"Environment={name}={it}" for name, it in environment.items())]
    if script:
        lines.append(f"ExecStartPre=/bin/sh -euc '{script}'")
    write = f'mkdir -p {DROP_IN}; printf "%s\\n" "$@" >{DROP_IN}/fault.conf'
    return {"bootcmd": [["sh", "-euc", write, "sh", *lines]]}


def short(script: str) -> dict[str, Any]:
    return join_with(script, WAIT_SECONDS=str(WAIT_SECONDS))


OTHER_AUTHORITY = (
    "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -days 2"
    " -subj /CN=somebody-else -out /etc/autojoin/ca.pem 2>/dev/null"
)
FULL_DISK = (
    "mkdir -p /var/lib/autojoin; mount -t tmpfs -o size=64k full /var/lib/autojoin;"
    " ! dd if=/dev/zero of=/var/lib/autojoin/fill 2>/dev/null"
)
NAMES = "/etc/autojoin/join.env /etc/kubernetes/kubelet.kubeconfig"
# The API server by a name that nobody can tell the address of.
NO_RESOLVER = (
    f"echo nameserver 127.0.0.254 >/etc/resolv.conf;"
    f' sed -i "s,https://[0-9.]*:6443,https://api.home.example:6443," {NAMES}'
)
# worker -> its fault, and what `pulumi up` has to say of it: phase and cause.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "fault-authority": (
        short(OTHER_AUTHORITY),
        r"phase authority: the join gate at .*curl: \(60\)",
    ),
    "fault-clock": (
        short(f"sed -i s/^NOT_BEFORE=.*/NOT_BEFORE={NEXT_YEAR}/ /etc/autojoin/join.env"),
        r"phase clock: the clock says .*before the authority's certificate.*\(waited 6 s\)",
    ),
    "fault-disk": (short(FULL_DISK), "phase certificate: the disk is full: 0 KiB are free"),
    "fault-kubelet": (short("rm -f /usr/bin/kubelet"), "phase kubelet: there is no /usr/bin/kubel"),
    "fault-resolver": (
        short(NO_RESOLVER),
        r"phase node: curl: \(6\) Could not resolve host: api.h",
    ),
    "fault-route": (
        short("ip route add blackhole HYPERVISOR/32"),
        r"phase node: curl: \(7\) Failed to connect to HYPERVISOR port 6443",
    ),
}
# These end joined: nobody needs a resolver where addresses are addresses.
PATIENT = {
    "patient-api": {},
    "patient-dns": join_with("echo nameserver 127.0.0.254 >/etc/resolv.conf"),
}


@pytest.fixture(scope="module")
def up(lab: Lab) -> Iterator[Lab]:
    """The lab; afterwards it is as it was."""
    lab.make("up")  # other tests of this lab may have ended with it down
    vars(lab).pop("_environment", None)
    before = lab.file.read_text()
    yield lab
    lab.file.write_text(before)
    lab.make("up")


def add(lab: Lab, workers: dict[str, dict[str, Any]], first: int, seconds: int) -> None:
    def change(config: dict[str, Any]) -> None:
        like = config["autojoin:workers"]["worker-1"]
        base = ipaddress.ip_address(like["address"]) + first
        for number, (name, user_data) in enumerate(workers.items()):
            own = {"address": str(base + number), "userData": user_data, "joinTimeout": seconds}
            config["autojoin:workers"][name] = {**like, **own}

    lab.edit(change)


def last_renewals(lab: Lab) -> dict[str, str]:
    """When each node last told the API server that it lives."""
    leases = lab.kubectl("get", "leases", "--namespace=kube-node-lease")["items"]
    return {lease["metadata"]["name"]: lease["spec"]["renewTime"] for lease in leases}


def test_what_keeps_a_node_from_joining_is_named(up: Lab) -> None:
    hypervisor = up.config["autojoin:provisioning"]["hypervisor"]["address"]
    faults = {
        name: [
            [word.replace("HYPERVISOR", hypervisor) for word in command]
            for command in user_data["bootcmd"]
        ]
        for name, (user_data, _) in FAULTS.items()
    }
    before = up.file.read_text()
    add(up, {name: {"bootcmd": commands} for name, commands in faults.items()}, 30, 60)
    try:
        output = up.make("up", expect=1)
    finally:
        up.file.write_text(before)
    for name, (_, told) in FAULTS.items():
        told = told.replace("HYPERVISOR", re.escape(hypervisor))
        found = re.search(rf"{name} did not join: {told}", output)
        assert found, f"{name}, {told}:\n" + "\n".join(
            line for line in output.splitlines() if f"{name}:" in line or f"{name} did" in line
        )


def test_a_machine_whose_join_failed_goes_with_its_worker(up: Lab) -> None:
    assert set(FAULTS) <= set(up.on_hypervisor(f"ls {MACHINES}").split())
    up.make("up")
    assert set(FAULTS).isdisjoint(up.on_hypervisor(f"ls {MACHINES}").split())


def test_an_api_server_that_is_down_and_a_resolver_that_is(up: Lab) -> None:
    add(up, PATIENT, 40, 300)
    unit = "autojoin-machine-dev@patient-api.service"

    def down_for_a_while() -> None:
        up.on_hypervisor(
            f"until systemctl is-active --quiet {unit}; do sleep 0.1; done;"
            f" systemctl stop kube-apiserver; sleep {API_DOWN_SECONDS};"
            " systemctl start kube-apiserver"
        )

    beside = threading.Thread(target=down_for_a_while)
    beside.start()
    started = time.monotonic()
    rows = table(up.make("up"))
    beside.join()
    assert {rows[name]["READY"] for name in PATIENT} == {"True"}
    assert time.monotonic() - started > API_DOWN_SECONDS
    assert float(rows["patient-api"]["SECONDS TO JOIN"]) > API_DOWN_SECONDS / 2
    # The nodes that were there before find the API server again, too.
    back = max(last_renewals(up).values())
    late: list[str] = []
    deadline = time.monotonic() + REJOIN_SECONDS
    while time.monotonic() < deadline:
        nodes = {
            node["metadata"]["name"]: {
                it["type"]: it["status"] for it in node["status"]["conditions"]
            }
            for node in up.kubectl("get", "nodes")["items"]
        }
        late[:] = [
            name
            for name, at in last_renewals(up).items()
            if at <= back or nodes[name]["Ready"] != "True"
        ]
        if not late:
            return
        time.sleep(1)
    raise AssertionError(f"not alive {REJOIN_SECONDS} s after the API server was back: {late}")
