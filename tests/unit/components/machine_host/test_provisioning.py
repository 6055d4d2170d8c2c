"""A provisioning host gets once what its nodes share; with it the nodes' files are whole again."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.archive import File
from components.load import from_values
from components.machine_host import delivery
from components.machine_host.provisioning import Provisioning
from components.machine_host.recipe import ASSEMBLE_SCRIPT, Book, recipe
from components.workers import nspawn
from components.workers.hardware_types import Hardware, of
from stack.models import Lab
from tests.unit.components.examples import AUTHORITY_PEM
from tests.unit.components.machine_host.recipes import unpacked
from tests.unit.components.workers.test_hardware import KINDS, SECRET, VALUES

MOST_SHARED = 0.3
PLACES = {"machine": "programs/default-cluster", "deliver": "nodes/.autojoin/default-cluster"}
OWNER = "autojoin/home/boot"


def lab_of(directory: Path) -> Lab:
    """Every type of hardware, all fed by one host."""
    values = copy.deepcopy(VALUES)
    values["provisioning"] = {
        "boot": {**VALUES["provisioning"]["boot"], "directory": str(directory)}
    }
    for worker in values["workers"].values():
        worker["provisioner"] = "boot"
    return from_values(values)


def host_of(lab: Lab) -> Provisioning:
    nodes = [of(lab, name) for name in lab.workers]
    return Provisioning(lab.provisioning["boot"], lab.cluster.name, OWNER, nodes)


@pytest.fixture(scope="module", autouse=True)
def no_systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the machines' program does is tested in test_machine_script.py."""
    program = tmp_path_factory.mktemp("programs") / "machine.sh"
    program.write_text("#!/bin/sh\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nspawn.Nspawn, "program_file", program)
        yield


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> tuple[Provisioning, Path]:
    """A host on which everything was installed."""
    folder = tmp_path_factory.mktemp("host")
    found = host_of(lab_of(folder / "nodes"))
    run(found.install_command(), folder, found.install_input(AUTHORITY_PEM))
    return found, folder


def run(command: str, folder: Path, stdin: str = "") -> None:
    """A command of the host, with the machines' programs in `folder`."""
    command = command.replace(delivery.PROGRAMS, str(folder / "programs"))
    done = subprocess.run(["dash", "-c", command], input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", KINDS)
def test_the_host_makes_the_very_files_that_make_render_writes(
    host: tuple[Provisioning, Path], tmp_path: Path, name: str
) -> None:
    provisioning, folder = host
    lab = lab_of(folder / "nodes")
    hardware: Hardware = of(lab, name)
    emission = hardware.emit(SECRET, AUTHORITY_PEM)
    text = hardware.delivery_input(emission, provisioning.book(hardware.kind, AUTHORITY_PEM))
    programs = folder / (PLACES["machine"] if name == "machine" else PLACES["deliver"])
    found = unpacked(text, programs / "books", tmp_path / "work")
    found.pop("sum", None)
    assert found == hardware.parcel(emission)
    # What is shared does not travel with the node.
    assert len(text) < MOST_SHARED * sum(len(file.content) for file in found.values())
    assert len(text) < 9000


def test_the_programs_are_there_and_nothing_else(host: tuple[Provisioning, Path]) -> None:
    provisioning, folder = host
    for name, place in PLACES.items():
        found = sorted(path.name for path in (folder / place).iterdir())
        assert found == sorted(["assemble", "books", "owner", name])
    shared = {
        path.name for place in PLACES.values() for path in (folder / place / "books").iterdir()
    }
    assert shared == {provisioning.book(kind, AUTHORITY_PEM).name for kind in provisioning.kinds}


def test_no_secret_is_shared(host: tuple[Provisioning, Path]) -> None:
    """The host's input is shown in a preview."""
    text = host[0].install_input(AUTHORITY_PEM)
    assert VALUES["boards"]["turing-1"]["password"] not in text
    assert "/usr/local/lib/autojoin/join" in text and "join-key" in text


def test_what_is_one_nodes_own_changes_nothing_of_the_host(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    before = host_of(lab)
    values = copy.deepcopy(lab.model_dump(by_alias=True, exclude_unset=True))
    values["workers"]["rk1"]["labels"] = {"zone": "attic"}
    values["workers"]["machine"]["generation"] = 2
    del values["workers"]["bhyve"]
    after = host_of(from_values(values))
    for kind in after.kinds:
        assert after.book(kind, AUTHORITY_PEM) == before.book(kind, AUTHORITY_PEM)


def test_the_host_is_left_as_it_was(tmp_path: Path) -> None:
    found = host_of(lab_of(tmp_path / "nodes"))
    run(found.install_command(), tmp_path, found.install_input(AUTHORITY_PEM))
    fewer = Provisioning(found.host, found.cluster, OWNER, [])
    run(fewer.install_command(), tmp_path, fewer.install_input(AUTHORITY_PEM))
    assert not list(tmp_path.glob("**/books"))
    run(found.remove_command(), tmp_path)
    assert not (tmp_path / "nodes").exists()
    run(found.remove_command(), tmp_path)


def test_a_host_that_was_renamed_is_left_to_its_new_name(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "nodes")
    before = host_of(lab)
    after = Provisioning(before.host, before.cluster, "autojoin/home/new", before.nodes)
    for each in (before, after):
        run(each.install_command(), tmp_path, each.install_input(AUTHORITY_PEM))
    run(before.remove_command(), tmp_path)
    assert (tmp_path / PLACES["deliver"] / "deliver").exists()
    run(after.remove_command(), tmp_path)
    assert not (tmp_path / "nodes").exists()


def test_two_stacks_on_one_host_leave_each_other_alone(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "nodes")
    one = host_of(lab)
    other = Provisioning(one.host, "second", "autojoin/second/boot", one.nodes)
    for each in (one, other):
        run(each.install_command(), tmp_path, each.install_input(AUTHORITY_PEM))
    run(other.remove_command(), tmp_path)
    for place in PLACES.values():
        assert (tmp_path / place / "assemble").exists()
    # With one name for both clusters, the second is told.
    same = Provisioning(one.host, one.cluster, "autojoin/third/boot", one.nodes)
    command = same.install_command().replace(delivery.PROGRAMS, str(tmp_path / "programs"))
    done = subprocess.run(
        ["dash", "-c", command],
        input=same.install_input(AUTHORITY_PEM),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is of stack autojoin/home, not of autojoin/third" in done.stderr


def test_files_of_nodes_that_are_no_more_go_before_others_come(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "nodes")
    host = host_of(lab)
    run(host.install_command(), tmp_path, host.install_input(AUTHORITY_PEM))
    node = of(lab, "rk1")
    emission = node.emit(SECRET, AUTHORITY_PEM)
    way = node.delivery(emission.identity)
    assert way is not None
    book = host.book(node.kind, AUTHORITY_PEM)
    run(way.create, tmp_path, node.delivery_input(emission, book))
    assert (tmp_path / "nodes/rk1/user-data").exists()
    run(host.install_command(), tmp_path, host.install_input(AUTHORITY_PEM))
    assert (tmp_path / "nodes/rk1/user-data").exists()
    fewer = Provisioning(host.host, host.cluster, OWNER, [of(lab, "cm4")])
    run(fewer.install_command(), tmp_path, fewer.install_input(AUTHORITY_PEM))
    assert not (tmp_path / "nodes/rk1").exists()


CONTENT = st.one_of(
    st.binary(max_size=200),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(
        lambda text: text.encode() + b"\n"
    ),
    st.sampled_from([b"", b"\n", b"a\r\n", b"-n\n\\c %s\n", b"\0" * 5000 + b"x", b"same\n" * 70]),
)


@settings(max_examples=40, deadline=None)
@given(
    contents=st.lists(CONTENT, max_size=4),
    shared=st.lists(st.sampled_from(["same", "-n", "", "a\r", "end", "+x"]), max_size=20),
)
def test_any_bytes_arrive(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], shared: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    book = Book("".join(f"{line}\n" for line in shared))
    (folder / book.name).write_text(book.text, newline="")
    files = {f"a b/{number}": File(content) for number, content in enumerate(contents)}
    files["disc"] = File(b"\1" + b"".join(contents) + b"\0" * 20)
    assert unpacked(recipe(files, book), folder, folder / "work") == files


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    text = recipe({"a": File(b"one\n")}).replace("+one", "+two")
    command = ["dash", str(ASSEMBLE_SCRIPT), "unpack", str(tmp_path)]
    done = subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a did not arrive as it was sent" in done.stderr


def test_marks_name_each_file_and_tell_no_content() -> None:
    lab = lab_of(Path("/nodes"))
    hardware = of(lab, "rk1")
    marks = hardware.marks(hardware.emit(SECRET, AUTHORITY_PEM))
    assert {"rk1/user-data", "rk1/vendor-data"} < {mark.partition(":")[0] for mark in marks}
    other = hardware.marks(hardware.emit(SECRET + "x", AUTHORITY_PEM))
    assert not set(marks) & set(other)
    way = hardware.delivery("rk1-g1-0", marks)
    assert way is not None and delivery.RECORDS in way.create
    assert way.create.count("\n") == len(marks)
