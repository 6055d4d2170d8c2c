"""The lab's control group: whatever runs in it ends with it."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import pytest

from lab import cgroup


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    cgroup.remove(name)


def sleeper(name: str, below: str = "") -> subprocess.Popen[bytes]:
    """A process in the group that heeds no request to end."""
    folder = cgroup.folder(name) / below
    folder.mkdir(exist_ok=True)
    script = f"trap '' TERM INT HUP; echo $$ >{folder}/cgroup.procs; echo; sleep 60 & wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_everything_in_the_group_ends(name: str) -> None:
    cgroup.create(name)
    assert name in cgroup.names()
    top, below = sleeper(name), sleeper(name, "below")
    assert {top.pid, below.pid} <= set(cgroup.processes(name))
    cgroup.remove(name)
    assert top.wait(5) == -9
    assert below.wait(5) == -9
    assert not cgroup.folder(name).exists()


def test_a_new_group_is_empty(name: str) -> None:
    cgroup.create(name)
    old = sleeper(name)
    folder = cgroup.create(name)
    assert folder.is_dir()
    assert old.wait(5) == -9
    assert cgroup.processes(name) == []


def test_removing_what_is_not_there_is_fine(name: str) -> None:
    cgroup.remove(name)
    assert not cgroup.folder(name).exists()
