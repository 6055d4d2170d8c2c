"""Guests that a provisioning host makes of what is delivered, by deliver.sh and guest.sh for real.

The managers are stood in for by scripts that refuse what the real ones refuse, after their sources:
bin/zadm and lib/Zadm/Zone of omniosorg/zadm, lib/vm-core and vm-info of vm-bhyve; virsh's is of
libvirt 9. tests/machines has libvirt itself.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from components.load import from_values
from components.workers import libvirt
from components.workers.hardware_types import Emission, Hardware, of
from stack.problem import ConfigError
from tests.unit.components.examples import AUTHORITY_PEM
from tests.unit.components.machine_host.test_deliver_script import (
    applying,
    given,
    install,
    removing,
)
from tests.unit.components.workers.test_hardware import SECRET, VALUES

MANAGERS = ["zadm", "vm-bhyve", "libvirt"]
NODE = "bhyve"
DISKS = libvirt.DISKS.encode()
# What each is told to change is a line of $STATE/log. The step number CUT ends as by a power cut:
# before it is done, or with AFTER=1 behind it.
DOING = """\
#!/bin/sh
set -eu
doing() {
    echo "$*" >>"$STATE/log"
    [ -n "${AFTER:-}" ] || cut
}
cut() {
    [ "$(wc -l <"$STATE/log")" != "${CUT:-}" ] || exit 99
}
set_state() {
    [ "$2" != running ] || cp "$NODES/$1/meta-data" "$STATE/$1.seed"
    echo "$2" >"$STATE/$1.state"
}
is() {
    [ "$(cat "$STATE/$1.state" 2>/dev/null)" = "$2" ]
}
there() {
    [ -e "$STATE/$1.state" ]
}
trap '[ $? != 0 ] || [ -z "${AFTER:-}" ] || cut' EXIT
"""
STAND_INS = {
    "zadm": {
        "zoneadm": """\
there "$2"
case $3 in
    list) echo "3:$2:$(cat "$STATE/$2.state"):/zones/$2" ;;
    halt) doing halt; is "$2" running; set_state "$2" installed ;;
esac
""",
        "zadm": """\
for name in "$@"; do :; done
case $1 in
    create) ! there "$name"; doing create; cat >"$STATE/$name.made"; set_state "$name" installed ;;
    start) doing start; is "$name" installed; set_state "$name" running ;;
    delete) doing delete; ! is "$name" running; rm -f "$STATE/$name".* ;;
esac
""",
    },
    "vm-bhyve": {
        "sysrc": """\
echo "$STATE"
""",
        "vm": """\
for name in "$@"; do :; done
conf=$STATE/$name/$name.conf
case $1 in
    info) [ -e "$conf" ]; echo "  state: $(cat "$STATE/$name.state")" ;;
    create) [ ! -e "$conf" ]; doing create; mkdir -p "${conf%/*}"; set_state "$name" stopped
        cp "$STATE/.templates/$3.conf" "$conf" ;;
    start) doing start; is "$name" stopped; set_state "$name" running ;;
    poweroff) doing poweroff; is "$name" running; set_state "$name" stopped ;;
    destroy) doing destroy; is "$name" stopped; rm -rf "${conf%/*}" "$STATE/$name".* ;;
esac
""",
    },
    "libvirt": {
        "qemu-img": """\
for file in "$@"; do :; done
case $1 in
    convert) doing convert; echo disk >"$file" ;;
    resize) doing resize; [ -e "$3" ] ;;
esac
""",
        "virsh": """\
shift 3
case $1 in
    list) for file in "$STATE"/*.state; do [ ! -e "$file" ] || basename "$file" .state; done ;;
    domstate) cat "$STATE/$2.state" ;;
    define) doing define; cat >"$STATE/new"; name=$(sed -n 's|.*<name>\\(.*\\)</name>|\\1|p' "$STATE/new")
        mv "$STATE/new" "$STATE/$name.made"; set_state "$name" 'shut off' ;;
    autostart) doing autostart; there "$2" ;;
    start) doing start; is "$2" 'shut off'; set_state "$2" running ;;
    destroy) doing destroy; is "$2" running; set_state "$2" 'shut off' ;;
    undefine) doing undefine; [ "$2" = --nvram ]; is "$3" 'shut off'; rm -f "$STATE/$3".* ;;
esac
""",  # noqa: E501
    },
}
OFF = {"zadm": "installed", "vm-bhyve": "stopped", "libvirt": "shut off"}


def values(manager: str, generation: int = 1, **guest: Any) -> dict[str, Any]:
    found = copy.deepcopy(VALUES)
    worker = found["workers"][NODE]
    found["provisioning"][worker["provisioner"]]["manager"] = manager
    worker["guest"] |= {"image": "/images/debian.qcow2", **guest}
    worker["generation"] = generation
    return found


@dataclass
class Host:
    """A hypervisor with a manager's stand-ins in `folder`."""

    folder: Path
    manager: str

    def __post_init__(self) -> None:
        tools = self.folder / "tools"
        for folder in (tools, self.state / ".templates", self.nodes):
            folder.mkdir(parents=True)
        for name, text in STAND_INS[self.manager].items():
            (tools / name).write_text(f"{DOING}{text}")
            (tools / name).chmod(0o755)
        install(self.nodes)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def nodes(self) -> Path:
        return self.folder / "nodes"

    def node(self, generation: int = 1) -> tuple[Hardware, Emission]:
        node = of(from_values(values(self.manager, generation)), NODE)
        assert node.site.host is not None
        return node, node.emit(SECRET, AUTHORITY_PEM)

    def run(self, command: str, stdin: str = "", **environment: str) -> tuple[int, str]:
        path = f"{self.folder / 'tools'}:/usr/bin:/bin"
        answer = subprocess.run(
            ["dash", "-c", command], input=stdin, capture_output=True, text=True,
            env={**os.environ, "PATH": path, "STATE": str(self.state),
                 "NODES": str(self.nodes), **environment},
        )  # fmt: skip
        return answer.returncode, answer.stderr

    def apply(self, generation: int = 1, **environment: str) -> tuple[int, str]:
        node, emission = self.node(generation)
        files = {
            path: replace(file, content=file.content.replace(DISKS, str(self.state).encode()))
            for path, file in node.delivered_files(emission).items()
        }
        stdin = given(files, emission.identity)
        return self.run(applying(NODE, self.nodes), stdin, **environment)

    def remove(self, generation: int = 1) -> tuple[int, str]:
        return self.run(removing(NODE, self.nodes, self.node(generation)[1].identity))

    def is_running(self, generation: int) -> bool:
        """Whether the guest runs, with the seed of that generation."""
        state = self.state / f"{NODE}.state"
        if not state.exists() or state.read_text() != "running\n":
            return False
        return self.node(generation)[1].identity in (self.state / f"{NODE}.seed").read_text()

    def log(self) -> list[str]:
        file = self.state / "log"
        return file.read_text().splitlines() if file.exists() else []

    def left(self) -> list[str]:
        """All that there is of the node, on the host and in the manager's keeping."""
        found = [*self.nodes.rglob("*"), *self.state.rglob("*")]
        return [path.name for path in found if path.name.startswith(NODE)]


@pytest.fixture(params=MANAGERS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)


def test_it_is_made_once_and_again_with_another_identity(host: Host) -> None:
    assert host.apply() == (0, "")
    assert host.is_running(1)
    done = host.log()
    assert host.apply() == (0, "")
    assert host.log() == done
    assert host.apply(2) == (0, "")
    assert host.is_running(2)
    assert host.remove(1)[0] == 0
    assert host.is_running(2), "a removal is of one identity"
    assert host.remove(2) == (0, "")
    assert host.left() == []


def test_one_that_was_switched_off_is_started(host: Host) -> None:
    assert host.apply() == (0, "")
    (host.state / f"{NODE}.state").write_text(f"{OFF[host.manager]}\n")
    assert host.apply() == (0, "")
    assert host.is_running(1)
    assert host.log().count("start") == 2


@pytest.mark.parametrize("after", ["", "1"])
def test_a_power_cut_at_any_step_ends_in_one_whole_guest(host: Host, after: str) -> None:
    assert host.apply() == (0, "")
    making = len(host.log())
    assert host.apply(2) == (0, "")
    replacing = len(host.log()) - making
    assert host.remove(2) == (0, "")
    for generation, steps in ((1, making), (2, replacing)):
        for step in range(1, steps + 1):
            if generation == 2:
                assert host.apply(1) == (0, "")
            (host.state / "log").unlink()
            assert host.apply(generation, CUT=str(step), AFTER=after)[0] != 0, step
            assert host.apply(generation) == (0, ""), step
            assert host.is_running(generation), step
            assert host.remove(generation) == (0, ""), step
            assert host.left() == [], step


def test_another_ones_guest_of_that_name_is_left_alone(host: Host) -> None:
    assert host.apply() == (0, "")
    shutil.rmtree(host.nodes)
    install(host.nodes)
    done = host.log()
    status, said = host.apply()
    assert status == 1
    assert said == (
        f"guest.sh: a guest {NODE} is on this host already, and autojoin did not make it; remove"
        " it, or give the node another name, then run this again\n"
    )
    assert host.remove()[0] == 0
    assert host.log() == done
    assert host.is_running(1)


def test_another_ones_disk_is_left_alone(tmp_path: Path) -> None:
    """The first refusal had claimed it, and the next `up` removed it."""
    host = Host(tmp_path, "libvirt")
    disk = host.state / f"{NODE}.qcow2"
    disk.write_text("somebody else's")
    for _ in range(2):
        status, said = host.apply()
        assert status == 1
        assert said == f"guest.sh: {disk} is there already; move it away, then run this again\n"
    assert host.remove()[0] == 0
    assert disk.read_text() == "somebody else's"


def test_one_that_is_gone_is_told(host: Host) -> None:
    assert host.apply() == (0, "")
    (host.state / f"{NODE}.state").unlink()
    if host.manager == "vm-bhyve":
        (host.state / NODE / f"{NODE}.conf").unlink()
    status, said = host.apply()
    assert status == 1
    assert said == (
        f"guest.sh: the guest {NODE} is gone from this host; raise the generation of the node, so"
        " that a new one may join\n"
    )


def test_a_host_without_the_manager_says_so(host: Host) -> None:
    bare = host.folder / "bare"
    bare.mkdir()
    for file in Path("/usr/bin").iterdir():
        if file.name not in ("virsh", "qemu-img"):
            (bare / file.name).symlink_to(file)
    status, said = host.apply(PATH=str(bare))
    assert status == 1
    tool = {"zadm": "zadm", "vm-bhyve": "vm", "libvirt": "virsh"}[host.manager]
    assert said == (
        f"guest.sh: {tool} is not on this machine, and its manager is to be {host.manager}\n"
    )


def test_one_of_a_node_that_the_stack_lost_goes(host: Host) -> None:
    assert host.apply() == (0, "")
    keep = host.nodes / ".autojoin/home/deliver"
    status, said = host.run(f"sh {keep} keep {host.nodes}")
    assert status == 0
    assert said == f"the files of {NODE} are not of this stack any more: removed\n"
    assert host.left() == []


def test_what_a_manager_needs_is_asked_for() -> None:
    def said(manager: str, **guest: Any) -> str:
        with pytest.raises(ConfigError) as error:
            from_values(values(manager, **guest))
        return str(error.value)

    for manager in MANAGERS:
        assert "bhyve.guest.image: is required" in said(manager, image=None)
    assert "bhyve.guest.link: is required" in said("zadm", link=None)
    assert "bhyve.guest.link: is required" in said("zadm", link="auto")
    from_values(values("vm-bhyve", link=None))


def test_whatever_reaches_a_guest_makes_it_another_one() -> None:
    def identity(found: dict[str, Any]) -> str:
        return of(from_values(found), NODE).named(SECRET).identity

    known = identity(values("zadm"))
    assert identity(values("zadm")) == known
    others = [values("vm-bhyve"), values("zadm", memory="9G"), values("zadm", image="uuid")]
    label = values("zadm")
    label["workers"][NODE]["labels"] = {"a": "b"}
    assert len({known, *map(identity, [*others, label])}) == 5


def test_the_graph_waits_for_it_as_it_starts_it() -> None:
    assert of(from_values(values("zadm")), NODE).awaited
    assert not of(from_values(VALUES), NODE).awaited
