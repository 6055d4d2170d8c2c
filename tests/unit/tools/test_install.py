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
from tools.lanes import SetupError
from tools.pins import CHECKOUT, GO_FILES, GO_TOOLS, Edit, Layout, Patch

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
    with pytest.raises(SetupError), tools.temporary_beside(target) as folder:
        (folder / "tool").touch()
        raise SetupError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_tool_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "tool-123" / "tool"
    with tools.temporary_beside(target) as folder:
        (folder / "tool").write_text("whole")
        tools.replace_folder(folder, target.parent)
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["tool-123"]


def test_a_link_to_a_tool_of_another_version_is_one_to_be_made(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    step = tools.links_step(layout, [ETCD])
    layout.binaries.mkdir(parents=True)
    program(layout.binaries, ETCD.command, "of another version")
    assert not step.done()
    layout.tool(ETCD).parent.mkdir()
    program(layout.tool(ETCD).parent, ETCD.name, "of this one")
    assert not step.done()
    step.run(tmp_path / "log")
    assert step.done()


def test_every_missing_prerequisite_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(tools, "NEEDED_DISK_GIB", 10**9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines = tools.missing_prerequisites(tools.steps(Layout(), "all"), "all")
    starts = ["Linux is needed", "root is needed", "apt-get is needed", "Go ≥ 1.26."]
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, lines
    assert "GiB of free disk are needed" in lines[-1]
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("go1.26.6", True),
        ("go1.26.10", True),
        ("go1.27rc1", True),
        ("go1.27", True),
        ("go1.26.5", False),
        ("go1.26rc3", False),
        ("go1.9.7", False),
        ("", False),
    ],
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
    listing = ["git", "ls-files", "tools/go", "requirements*"]
    names = subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    files = names.stdout.split()
    assert len(files) > 10
    for name in files:
        found = re.findall(r"\bhttps?://\S+", (CHECKOUT / name).read_text())
        assert found == [], name


PATCH = Patch(
    "example.org/module",
    (Edit("a.go", "\tremoved"), Edit("a.go", "\told(", "\tnew("), Edit("b.go", "removed")),
    (("a.json", "a-embed.json"),),
)


def source(folder: Path, a: str) -> None:
    (folder / "a.go").write_text(a)
    (folder / "b.go").write_text("removed\nkept\n")
    (folder / "a.json").write_text("{}")


def test_a_patch_changes_its_lines_and_no_other(tmp_path: Path) -> None:
    source(tmp_path, "\told(x)\n\tis\tremoved\n\tremoved\n\told(\n")
    tools.apply_patch(PATCH, tmp_path)
    assert (tmp_path / "a.go").read_text() == "\told(x)\n\tis\tremoved\n\tnew(\n"
    assert (tmp_path / "b.go").read_text() == "kept\n"
    assert (tmp_path / "a-embed.json").read_text() == "{}"


@pytest.mark.parametrize(("text", "times"), [("", 0), ("\tremoved\n\tremoved\n", 2)])
def test_a_patch_refuses_a_source_that_it_was_not_made_for(
    text: str, times: int, tmp_path: Path
) -> None:
    source(tmp_path, f"{text}\told(\n")
    with pytest.raises(SetupError, match=rf"a\.go holds {times} times: removed"):
        tools.apply_patch(PATCH, tmp_path)


def requirements(module: str) -> dict[str, str]:
    text = (pins.MODULES / module / "go.mod").read_text()
    return dict(re.findall(r"^\t(\S+) (v\S+)", text, re.MULTILINE))


def test_what_two_modules_compile_has_one_version() -> None:
    shared = requirements("shared")
    apart = {
        "pulumi-language-python": {"github.com/pulumi/pulumi/sdk/v3"},
        "cfssl": {"github.com/dustin/go-humanize"},
    }
    assert {tool.module for tool in GO_TOOLS} == {"shared", *apart}
    for module, different in apart.items():
        both = {name: version for name, version in requirements(module).items() if name in shared}
        assert len(both) > 10
        assert {name for name, version in both.items() if shared[name] != version} == different
