"""deliver.sh for real: files on a provisioning host, and the wait for a node's join."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.archive import File, text
from components.machine_host import delivery
from components.machine_host.recipe import ASSEMBLE_SCRIPT

SHELLS = ["dash", "bash", "busybox"]
CLUSTER = "home"


def sh(command: str, stdin: str = "", shell: str = "dash") -> subprocess.CompletedProcess[str]:
    """Run a remote command as sshd would; `sh` in it is `shell`."""
    folder = Path(os.environ["PYTEST_SHELLS"]) / shell
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], input=stdin, capture_output=True, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shells")
    for name in SHELLS:
        (folder / name).mkdir()
        target = "/usr/bin/busybox" if name == "busybox" else f"/bin/{name}"
        (folder / name / "sh").symlink_to(target)
    os.environ["PYTEST_SHELLS"] = str(folder)


def given(files: dict[str, File], identity: str = "one-g1-0") -> str:
    return delivery.apply_input(delivery.parcel(files, identity))


def applying(node: str, directory: Path, marks: tuple[str, ...] = ()) -> str:
    where = delivery.records(str(directory), CLUSTER)
    return delivery.apply_command(node, str(directory), where, marks)


def removing(node: str, directory: Path, identity: str = "one-g1-0") -> str:
    where = delivery.records(str(directory), CLUSTER)
    return delivery.remove_command(node, str(directory), where, identity)


def install(directory: Path) -> None:
    """What the host's own step brings; see test_provisioning.py."""
    records = directory / ".autojoin" / CLUSTER
    records.mkdir(parents=True, exist_ok=True)
    for script in (delivery.DELIVER_SCRIPT, ASSEMBLE_SCRIPT):
        shutil.copy(script, records / script.stem)
        (records / script.stem).chmod(0o755)


def apply(node: str, directory: Path, files: dict[str, File], shell: str = "dash") -> None:
    install(directory)
    done = sh(applying(node, directory, (f"{node}/a:12",)), given(files), shell)
    assert done.returncode == 0, done.stderr


def visible(directory: Path) -> dict[str, tuple[str, str]]:
    """Content and mode of every file but the records."""
    return {
        str(path.relative_to(directory)): (path.read_text(), f"{path.stat().st_mode & 0o777:04o}")
        for path in directory.rglob("*")
        if path.is_file() and ".autojoin" not in path.parts
    }


@pytest.mark.parametrize("shell", SHELLS)
def test_files_come_change_and_go(tmp_path: Path, shell: str) -> None:
    where = tmp_path / "no des"
    first = {"one/user-data": text("a\n"), "02:aa/boot.ipxe": text("b\n", 0o644)}
    apply("one", where, first, shell)
    apply("two", where, {"two/user-data": text("c\n")}, shell)
    assert visible(where) == {
        "one/user-data": ("a\n", "0600"),
        "02:aa/boot.ipxe": ("b\n", "0644"),
        "two/user-data": ("c\n", "0600"),
    }
    # A web server of another user gets through to what is meant for it, and to no secret.
    assert (where / "02:aa").stat().st_mode & 0o777 == 0o755
    assert (where / ".autojoin").stat().st_mode & 0o777 == 0o700
    apply(
        "one", where, {"one/user-data": text("d\n"), "02:bb/boot.ipxe": text("b\n", 0o644)}, shell
    )
    assert set(visible(where)) == {"one/user-data", "02:bb/boot.ipxe", "two/user-data"}
    assert sh(removing("one", where), shell=shell).returncode == 0
    assert set(visible(where)) == {"two/user-data"}
    assert sh(removing("one", where), shell=shell).returncode == 0
    assert sh(removing("one", tmp_path / "never")).returncode == 0


def test_same_files_are_left_alone(tmp_path: Path) -> None:
    files = {"one/user-data": text("a\n")}
    apply("one", tmp_path / "n", files)
    before = (tmp_path / "n/one").stat().st_ino
    apply("one", tmp_path / "n", files)
    assert (tmp_path / "n/one").stat().st_ino == before


def test_what_is_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    where = tmp_path / "n"
    (where / "one").mkdir(parents=True)
    (where / "one/letter").write_text("mine\n")
    install(where)
    done = sh(applying("one", where), given({"one/user-data": text("a\n")}))
    assert done.returncode == 1
    assert f"{where}/one is there and not of one of cluster home" in done.stderr
    assert visible(where) == {"one/letter": ("mine\n", "0644")}


def test_an_apply_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    """Between the claim and the record: the claim says whose the half-copied folders are."""
    where = tmp_path / "n"
    apply("one", where, {"one/user-data": text("a\n")})
    (where / ".autojoin/home/nodes/.one.claim").write_text("one\n02:bb\n")
    (where / "02:bb").mkdir()
    apply("one", where, {"one/user-data": text("b\n"), "02:bb/boot.ipxe": text("b\n")})
    assert visible(where)["one/user-data"][0] == "b\n"
    assert not (where / ".autojoin/home/nodes/.one.claim").exists()


def test_without_the_hosts_own_step_the_error_names_it(tmp_path: Path) -> None:
    done = sh(applying("one", tmp_path / "n"), given({}))
    assert done.returncode == 1
    assert "deliver is not there: the step of this host, NAME-machines" in done.stderr


def test_a_record_never_points_outside(tmp_path: Path) -> None:
    where = tmp_path / "n"
    (tmp_path / "letter").write_text("mine\n")
    apply("one", where, {"one/user-data": text("a\n")})
    (where / ".autojoin/home/nodes/one.list").write_text("../letter\n..\n\none\n")
    assert sh(removing("one", where)).returncode == 0
    assert (tmp_path / "letter").exists() and where.exists()


def test_what_is_another_identitys_is_not_removed(tmp_path: Path) -> None:
    where = tmp_path / "n"
    apply("one", where, {"one/user-data": text("a\n")})
    done = sh(removing("one", where, "one-g0-9"))
    assert done.returncode == 0
    assert "the files of one are of one-g1-0 here, not of one-g0-9: they stay" in done.stderr
    assert set(visible(where)) == {"one/user-data"}


@pytest.mark.parametrize("name", ["books", "deliver", "assemble", "nodes", "owner", "a.b"])
def test_no_name_of_a_node_is_in_the_way_of_the_hosts_own(tmp_path: Path, name: str) -> None:
    where = tmp_path / "n"
    apply(name, where, {f"{name}/user-data": text("a\n")})
    apply("other", where, {"other/user-data": text("b\n")})
    assert sh(removing(name, where)).returncode == 0
    assert set(visible(where)) == {"other/user-data"}
    apply("third", where, {"third/user-data": text("c\n")})


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_not_kept_goes(tmp_path: Path, shell: str) -> None:
    where = tmp_path / "n"
    for name in ("one", "two", "a.b"):
        apply(name, where, {f"{name}/user-data": text("a\n")}, shell)
    script = f"{delivery.records(str(where), CLUSTER)}/deliver"
    done = sh(f"sh {script} keep {where}", "two\nthree\n", shell)
    assert done.returncode == 0, done.stderr
    assert "the files of one are not of this stack any more: removed" in done.stderr
    assert set(visible(where)) == {"two/user-data"}
    left = {path.name for path in (where / ".autojoin/home/nodes").iterdir()}
    assert left == {"two.list", "two.sum", "two.identity"}
