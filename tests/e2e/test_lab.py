"""A lab of its own, beside the checkout's: started, cut off, started again, removed.

Needs root and the installed tools (`make tools`); it fails, not skips, where it can't start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroup, control_plane, hypervisor, lab, pki, place
from lab.place import Place
from lab.remote import remote
from tests.e2e.conftest import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The lab of a checkout that is only a folder; gone at the end, whatever happened."""
    where = allocate(tmp_path_factory.mktemp("checkout"))
    try:
        lab.up(where)
        yield where
    finally:
        lab.remove(where)


def allocate(checkout: Path) -> Place:
    return place.allocate(checkout, place.usual(place.free_network(checkout)))


def now(where: Place) -> Place:
    """The place as it is recorded now."""
    found = place.read(where.state, where.root)
    assert found
    return found


def kubectl(where: Place, *arguments: str) -> str:
    command = ["kubectl", "--kubeconfig", str(where.state / "kubeconfig"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kill_everything(where: Place) -> None:
    for pid in cgroup.processes(where.identifier):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_dead(where: Place) -> None:
    assert until(lambda: not cgroup.processes(where.identifier), 10)


def test_a_second_up_leaves_it_alone(running: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = now(running).hypervisor
    started = time.monotonic()
    lab.up(running)
    assert time.monotonic() - started < 3
    assert now(running).hypervisor == before
    assert "is up" in capsys.readouterr().out


def test_the_ca_host_is_as_a_person_has_it(running: Place) -> None:
    script = (
        "stat -c '%a %U' /etc/kubernetes-ca/ca-key.pem; command -v cfssl; command -v sqlite3;"
        "python3 -c 'import cryptography'; cloud-init status --wait; systemctl --failed --quiet"
    )
    address = str(running.authority_address)
    answer = remote(
        running, script, host=address, key="authority-host", what="looking"
    ).splitlines()
    assert answer[0] == "600 root"
    assert not any("cfssl" in line for line in answer)
    assert answer[-1].strip() == "status: done"


def test_nothing_failed_in_the_hypervisor(running: Place) -> None:
    assert remote(running, "systemctl --failed --no-legend --plain", what="looking") == ""


def test_nobody_without_a_certificate_reaches_the_api(running: Place) -> None:
    command = ["curl", "--silent", "--insecure", "--output", "/dev/null", "--write-out",
               "%{http_code}", f"{running.api_server}/api"]  # fmt: skip
    assert subprocess.run(command, capture_output=True, text=True).stdout == "401"


def test_aggregated_apis_are_told_whom_the_api_server_speaks_for(running: Place) -> None:
    place = ("configmap", "extension-apiserver-authentication", "--namespace=kube-system")
    told = json.loads(kubectl(running, "get", *place, "--output", "json"))["data"]
    assert json.loads(told["requestheader-allowed-names"]) == ["front-proxy-client"]
    assert told["requestheader-client-ca-file"] == (pki.folder(running) / "ca.pem").read_text()


def test_service_accounts_come_from_the_controller_manager(running: Place) -> None:
    words = ("get", "serviceaccounts", "--output", "name")
    assert until(lambda: "default" in kubectl(running, *words), 20)


def test_what_stopped_inside_is_started_again(running: Place) -> None:
    before = now(running).hypervisor
    remote(running, "systemctl stop etcd kube-apiserver autojoin-machine@ca", what="stopping")
    lab.up(running)
    assert now(running).hypervisor == before
    assert control_plane.ready(running)[0]
    assert hypervisor.answers_ssh(str(running.authority_address))


@pytest.mark.parametrize("only_supervisor", [False, True])
def test_a_power_cut_loses_nothing(running: Place, only_supervisor: bool) -> None:
    name = f"before-cut-{only_supervisor}".lower()
    kubectl(running, "create", "configmap", name)
    marker = f"touch /root/{name}; sync"
    address = str(running.authority_address)
    remote(running, marker, host=address, key="authority-host", what="marking the CA host")
    if only_supervisor:
        process = now(running).hypervisor
        assert process
        os.kill(process.pid, signal.SIGKILL)
    else:
        kill_everything(running)
        wait_until_dead(running)
    lab.up(running)
    assert name in kubectl(running, "get", "configmaps", "--output", "name")
    look = f"ls /root/{name}"
    remote(running, look, host=address, key="authority-host", what="finding the mark")


def test_another_checkouts_living_lab_is_left_alone(running: Place) -> None:
    before = now(running).hypervisor
    lab.remove_if_dead(running, lab.Progress("test"))
    assert now(running).hypervisor == before
    assert now(running).running()


def test_down_leaves_nothing(running: Place) -> None:
    processes = cgroup.processes(running.identifier)
    assert processes
    started = time.monotonic()
    lab.down(now(running))
    assert time.monotonic() - started < 20
    assert not running.state.exists()
    assert not cgroup.folder(running.identifier).exists()
    assert not Path("/sys/class/net", running.interface).exists()
    assert running.identifier not in Path("/proc/self/mountinfo").read_text()
    assert all(place.start_time(pid) is None for pid in processes)


def test_what_a_dead_checkout_left_is_removed(tmp_path: Path) -> None:
    gone = allocate(tmp_path / "gone")  # there is no such folder
    try:
        lab.up(gone)
        lab.remove_if_dead(gone, lab.Progress("test"))
    except BaseException:
        lab.remove(gone)
        raise
    assert not gone.state.exists()
    assert not cgroup.folder(gone.identifier).exists()
