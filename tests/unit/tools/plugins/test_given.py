"""PLUGINS=folder: what is in it is used, and what is unusable is named before anything starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.pins import CHECKOUT
from tools.plugins import given, package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plugin of each name."""
    package.build(tmp_path, sys.executable)
    shutil.copy(tmp_path / "pulumi-resource-tls", tmp_path / "pulumi-resource-kubernetes")
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `make test PLUGINS=folder` says first; there is nowhere to put what it would install."""
    cache = folder / "cache"
    own = {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin"}
    own.pop(given.VARIABLE, None)
    command = ["make", *words, f"PLUGINS={folder}", f"PYTHON={sys.executable}"]
    answer = subprocess.run(command, cwd=CHECKOUT, env=own, capture_output=True, text=True)
    assert not cache.exists(), "something was begun"
    return answer


def script(text: str) -> bytes:
    return f"#!/bin/sh\n{text}\n".encode()


@pytest.mark.parametrize(
    ("name", "content", "mode", "reason"),
    [
        ("tls", None, 0, "does not exist"),
        ("command", b"", 0o644, "is not executable"),
        ("kubernetes", b"no program", 0o755, "can't be run (Exec format error)"),
        ("tls", script("echo hello"), 0o755, "plugin protocol: 'hello' is no port to serve on"),
        ("tls", script("echo no luck >&2; exit 1"), 0o755, "'' is no port to serve on (no luck)"),
        ("command", script("echo 1"), 0o755, "nothing answers on port 1"),
    ],
)
@pytest.mark.parametrize("goal", ["up", "test"])
def test_an_unusable_file_fails_by_its_name(
    folder: Path, goal: str, name: str, content: bytes | None, mode: int, reason: str
) -> None:
    file = folder / f"pulumi-resource-{name}"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    answer = make(folder, goal)
    assert answer.returncode != 0
    assert f"PLUGINS: {file} " in answer.stderr
    assert reason in answer.stderr
    assert "Traceback" not in answer.stderr


def test_usable_ones_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given.files() == {} or given.VARIABLE in os.environ
    monkeypatch.setenv(given.VARIABLE, str(folder))
    given.check()
    assert set(given.files().values()) == {
        folder / f"pulumi-resource-{name}" for name in given.NAMES
    }
