"""Names, subnets and records of labs, two checkouts at once included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import place
from lab.place import Place, Process, usual
from tools.errors import LabError

CHECKOUT = Path(__file__).resolve().parents[3]
LAB_NETWORKS = IPv4Network("10.64.0.0/10")
HERE = usual(IPv4Network("10.64.0.0/24"))


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_every_identifier_points_into_the_labs_range(number: int) -> None:
    network = place.choose(f"{number:08x}", [])
    assert network.prefixlen == 24
    assert network.subnet_of(LAB_NETWORKS)


def test_a_taken_subnet_is_passed_over() -> None:
    first = place.choose("00000000", [])
    assert str(first) == "10.64.0.0/24"
    assert str(place.choose("00000000", [first])) == "10.64.1.0/24"
    wide = IPv4Network("10.64.0.0/16")
    assert str(place.choose("00000000", [wide])) == "10.65.0.0/24"


def test_the_last_subnet_is_followed_by_the_first() -> None:
    last = f"{place.SUBNETS - 1:08x}"
    assert str(place.choose(last, [IPv4Network("10.127.255.0/24")])) == "10.64.0.0/24"


def test_no_free_subnet_is_an_error() -> None:
    with pytest.raises(LabError, match="make down ALL=1"):
        place.choose("00000000", [LAB_NETWORKS])


def test_names_fit_an_interface(tmp_path: Path) -> None:
    found = place.allocate(tmp_path / "checkout", HERE, tmp_path / "state")
    assert found.machine == f"aj-{found.identifier}"
    assert len(found.interface) <= 15
    assert str(found.hypervisor_address).endswith(".2")
    assert found.api_server == f"https://{found.hypervisor_address}:6443"


def test_a_place_is_kept_once_made(tmp_path: Path) -> None:
    root = tmp_path / "state"
    first = place.allocate(tmp_path / "checkout", HERE, root)
    assert place.allocate(tmp_path / "checkout", HERE, root) == first
    assert place.find(tmp_path / "checkout", root) == first
    assert (first.state.stat().st_mode & 0o777) == 0o700


def test_a_link_to_a_checkout_is_that_checkout(tmp_path: Path) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "link").symlink_to("checkout")
    assert place.identifier_of(tmp_path / "link") == place.identifier_of(tmp_path / "checkout")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkout": "/x"}', '{"subnet": 7}'])
def test_an_unreadable_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.json").write_text(text)
    assert place.read(tmp_path, tmp_path.parent) is None


def test_a_process_is_recorded_and_found_again(tmp_path: Path) -> None:
    lab = place.allocate(tmp_path / "checkout", HERE, tmp_path / "state")
    assert not lab.running()
    started = place.start_time(os.getpid())
    assert started is not None
    running = place.with_process(lab, Process(os.getpid(), started), "abc")
    assert running.running()
    assert place.find(tmp_path / "checkout", tmp_path / "state") == running
    assert json.loads((lab.state / "lab.json").read_text())["fingerprint"] == "abc"


def test_a_reused_process_number_is_not_the_lab() -> None:
    started = place.start_time(os.getpid())
    assert started is not None
    assert not Process(os.getpid(), started + 1).alive()


def test_an_ended_process_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    started = place.start_time(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, but not reaped: a zombie
    assert place.start_time(child.pid) is None
    child.wait()
    assert started is None or not Process(child.pid, started).alive()


def test_others_are_every_lab_but_ones_own(tmp_path: Path) -> None:
    root = tmp_path / "state"
    one = place.allocate(tmp_path / "one", HERE, root)
    two = place.allocate(tmp_path / "two", HERE, root)
    assert place.others(one.identifier, root) == [two]
    assert place.others("", tmp_path / "none") == []


def in_own_network(script: str, code: str) -> str:
    """Run Python `code` after shell `script` in a network namespace that ends with it."""
    command = ["unshare", "--net", "sh", "-euc", f'{script}\nexec "$@"', "sh", sys.executable]
    answer = subprocess.run(
        [*command, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=30
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_a_route_of_the_machine_is_seen() -> None:
    script = "ip link set lo up; ip address add 10.99.7.1/24 dev lo"
    code = (
        "from pathlib import Path; from ipaddress import IPv4Network; from lab import place\n"
        "lab = place.Place(Path('/x'), 'abcdef01', place.usual(IPv4Network('10.99.7.0/24')))\n"
        "print(place.conflict(lab))"
    )
    assert in_own_network(script, code).endswith("on interface lo")


def test_an_empty_network_has_no_conflict() -> None:
    code = (
        "from pathlib import Path; from ipaddress import IPv4Network; from lab import place\n"
        "lab = place.Place(Path('/x'), 'abcdef01', place.usual(IPv4Network('10.99.7.0/24')))\n"
        "print(place.conflict(lab))"
    )
    assert in_own_network("ip link set lo up", code) == "None"


def test_a_free_network_is_none_of_the_machines_routes_and_no_other_labs(tmp_path: Path) -> None:
    checkout, root = tmp_path / "checkout", tmp_path / "state"
    first = place.free_network(checkout, root)
    place.allocate(tmp_path / "other", usual(first), root)
    second = place.free_network(checkout, root)
    script = f"ip link set lo up; ip address add {second[1]}/24 dev lo"
    code = (
        "from pathlib import Path; from lab import place\n"
        f"print(place.free_network(Path({str(checkout)!r}), Path({str(root)!r})))"
    )
    third = in_own_network(script, code)
    assert len({str(first), str(second), third}) == 3


def test_a_lab_that_was_made_with_other_addresses_is_told(tmp_path: Path) -> None:
    root = tmp_path / "state"
    place.allocate(tmp_path / "checkout", HERE, root)
    with pytest.raises(LabError, match=r"/24.* says .*10\.64\.1\.0/24.*`make down` first"):
        place.allocate(tmp_path / "checkout", usual(IPv4Network("10.64.1.0/24")), root)


def test_a_record_of_before_addresses_could_be_chosen_is_read(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text('{"checkout": "/x", "subnet": "10.64.0.0/24"}')
    found = place.read(tmp_path, tmp_path.parent)
    assert found and found.addresses == HERE


def test_a_lab_is_described_by_what_its_record_says(tmp_path: Path) -> None:
    lab = Place(tmp_path, "0badcafe", usual(IPv4Network("10.70.3.0/24")), tmp_path / "state")
    place.write(lab)
    assert place.read(lab.state, lab.root) == lab


def test_what_has_no_record_is_found(tmp_path: Path) -> None:
    root = tmp_path / "state"
    lab = place.allocate(tmp_path / "checkout", HERE, root)
    (root / "0badcafe").mkdir()
    (root / "not-a-lab").mkdir()
    assert [item.identifier for item in place.unrecorded(root)] == ["0badcafe"]
    assert lab.state.is_dir()


def test_a_lock_that_was_removed_is_taken_anew(tmp_path: Path) -> None:
    """The second waits for the first, which removes the lock's file; a third must wait for it."""
    program = (
        "import sys, time; from pathlib import Path; from lab import place\n"
        "root = Path(sys.argv[1])\n"
        "with place.lock(root, 'one'):\n"
        "    assert not (root / 'busy').exists()\n"
        "    (root / 'busy').touch()\n"
        "    time.sleep(0.1)\n"
        "    (root / 'busy').unlink()\n"
        "    (root / 'one').unlink()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=CHECKOUT) for _ in range(5)]
    assert [process.wait(30) for process in running] == [0] * 5
