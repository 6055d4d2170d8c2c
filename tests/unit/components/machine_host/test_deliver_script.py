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
MORE = {"gate_url": "https://127.0.0.1:1/", "authority_pem": "PEM\n", "status_token": "ab" * 32}


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


def given(files: dict[str, File]) -> str:
    return delivery.apply_input(delivery.parcel(files, **MORE))


def install(directory: Path) -> None:
    """What the host's own step brings; see test_provisioning.py."""
    records = directory / ".autojoin"
    records.mkdir(parents=True, exist_ok=True)
    for script in (delivery.DELIVER_SCRIPT, ASSEMBLE_SCRIPT):
        shutil.copy(script, records / script.stem)


def apply(node: str, directory: Path, files: dict[str, File], shell: str = "dash") -> None:
    install(directory)
    command = delivery.apply_command(node, str(directory), None, [f"{node}/a:12"])
    done = sh(command, given(files), shell)
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
    assert sh(delivery.remove_command("one", str(where)), shell=shell).returncode == 0
    assert set(visible(where)) == {"two/user-data"}
    assert sh(delivery.remove_command("one", str(where)), shell=shell).returncode == 0
    assert sh(delivery.remove_command("one", str(tmp_path / "never"))).returncode == 0


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
    command = delivery.apply_command("one", str(where), None)
    done = sh(command, given({"one/user-data": text("a\n")}))
    assert done.returncode == 1
    assert f"{where}/one is there and not of one" in done.stderr
    assert visible(where) == {"one/letter": ("mine\n", "0644")}


def test_an_apply_that_was_cut_off_is_repeated(tmp_path: Path) -> None:
    """Between the claim and the record: the claim says whose the half-copied folders are."""
    where = tmp_path / "n"
    apply("one", where, {"one/user-data": text("a\n")})
    (where / ".autojoin/.one.claim").write_text("one\n02:bb\n")
    (where / "02:bb").mkdir()
    apply("one", where, {"one/user-data": text("b\n"), "02:bb/boot.ipxe": text("b\n")})
    assert visible(where)["one/user-data"][0] == "b\n"
    assert not (where / ".autojoin/.one.claim").exists()


def test_without_the_hosts_own_step_the_error_names_it(tmp_path: Path) -> None:
    done = sh(delivery.apply_command("one", str(tmp_path / "n"), None), given({}))
    assert done.returncode == 1
    assert "deliver is not there: the step of this host, NAME-machines" in done.stderr


def test_a_record_never_points_outside(tmp_path: Path) -> None:
    where = tmp_path / "n"
    (tmp_path / "letter").write_text("mine\n")
    apply("one", where, {"one/user-data": text("a\n")})
    (where / ".autojoin/one.list").write_text("../letter\n..\n\none\n")
    assert sh(delivery.remove_command("one", str(where))).returncode == 0
    assert (tmp_path / "letter").exists() and where.exists()


def test_nothing_secret_is_an_argument(tmp_path: Path) -> None:
    command = delivery.apply_command("one", str(tmp_path), 5)
    assert MORE["status_token"] not in command
    subprocess.run(["dash", "-n", "-c", command], check=True)


def fake_gate(folder: Path, answers: list[str]) -> str:
    """A `curl` that gives one answer after another, the last one over and over. PATH's first."""
    tools = folder / "tools"
    tools.mkdir()
    for number, answer in enumerate(answers):
        (tools / f"answer-{number}").write_text(answer)
    (tools / "curl").write_text(
        f"#!/bin/sh\nn=$(cat {tools}/n 2>/dev/null || echo 0)\necho $((n + 1)) >{tools}/n\n"
        f"[ -e {tools}/answer-$n ] || n={len(answers) - 1}\ncat {tools}/answer-$n\n"
    )
    (tools / "curl").chmod(0o755)
    (tools / "sleep").write_text("#!/bin/sh\n")
    return str(tools)


@pytest.mark.parametrize(
    ("answers", "status", "shown"),
    [
        (["1\t1.0\tclock\tdone\t\n", "2\t2.0\tready\tdone\t\n"], 0, '"phases":{"clock":'),
        (["1\t1.0\tclock\tfailed\told\n", "2\t2.0\tready\tdone\t\n"], 0, '"node":"one"'),
        (["", "1\t1.0\tcertificate\tfailed\trefused\n"], 1, "phase certificate: refused"),
        (["1\t1.0\tclock\tdone\t\n", ""], 1, "phase clock: nothing more was heard within 1 s"),
    ],
)
def test_the_wait_ends_ready_or_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str], status: int, shown: str
) -> None:
    monkeypatch.setenv("PATH", f"{fake_gate(tmp_path, answers)}:{os.environ['PATH']}")
    install(tmp_path / "n")
    command = delivery.apply_command("one", str(tmp_path / "n"), 1 if status else 20)
    done = sh(command, given({"one/user-data": text("a\n")}))
    assert done.returncode == status, done.stdout + done.stderr
    assert shown in done.stdout + done.stderr
    if status == 0:
        assert delivery.joined(done.stdout)["readySeconds"] is not None
