"""The installer: what it takes from PATH, what it leaves when interrupted, what it asks for."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install as tools
from tools import pins
from tools.pins import CHECKOUT, GO_FILES, GO_TOOLS, Layout

ETCD = next(tool for tool in GO_TOOLS if tool.name == "etcd")


def program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "taken"),
    [
        ("etcd Version: 3.6.4", True),
        ("etcd Version: 3.6.41", False),
        ("etcd Version: 3.6.3", False),
        ("", False),
    ],
)
def test_a_tool_on_path_is_taken_in_its_very_version(
    says: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path, "etcd", says)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tools.fitting_on_path(ETCD) == (str(path) if taken else None)


def test_a_tool_of_the_cache_is_not_taken_as_the_machines_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "autojoin").mkdir()
    program(tmp_path / "autojoin", "etcd", "etcd Version: 3.6.4")
    monkeypatch.setenv("PATH", f"{tmp_path / 'autojoin'}:/usr/bin:/bin")
    assert tools.fitting_on_path(ETCD) is None


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "tool-123" / "tool"
    with pytest.raises(tools.SetupError), tools.temporary_beside(target) as folder:
        (folder / "tool").touch()
        raise tools.SetupError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_tool_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "tool-123" / "tool"
    with tools.temporary_beside(target) as folder:
        (folder / "tool").write_text("whole")
        tools.replace_folder(folder, target.parent)
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["tool-123"]


def test_every_missing_prerequisite_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(tools, "NEEDED_DISK_GIB", 10**9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines = tools.missing_prerequisites(tools.steps(Layout(), "all"), "all")
    starts = ["Linux is needed", "root is needed", "apt-get is needed", "Go ≥ 1.26 is needed"]
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, lines
    assert "GiB of free disk are needed" in lines[-1]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("version", "fits"),
    [("go1.26.0", True), ("go1.27rc1", True), ("go1.25.9", False), ("", False)],
)
def test_go_must_be_new_enough(
    version: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "go", version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (tools.missing_go() == []) is fits


def test_a_changed_pin_changes_one_folder_and_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Layout()
    kept = {tool.name: before.tool(tool) for tool in (*GO_TOOLS, *GO_FILES)}
    home = before.home
    changed = tuple(
        dataclasses.replace(tool, linker_flags="-X a=b") if tool.name == "etcd" else tool
        for tool in GO_TOOLS
    )
    monkeypatch.setattr(pins, "GO_TOOLS", changed)
    after = Layout()
    assert after.home != home
    moved = [tool.name for tool in changed if after.tool(tool) != kept[tool.name]]
    assert moved == ["etcd"]


def test_no_pinned_file_holds_a_download_address() -> None:
    listing = ["git", "ls-files", "tools/go", "requirements.txt", "requirements.in"]
    names = subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    files = names.stdout.split()
    assert len(files) > 10
    for name in files:
        found = re.findall(r"\bhttps?://\S+", (CHECKOUT / name).read_text())
        assert found == [], name


def test_failed_command_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(tools.SetupError, match=r"ended with 3:\nwhat went wrong"):
        tools.logged(["sh", "-c", "echo what went wrong; exit 3"], tmp_path / "log")
