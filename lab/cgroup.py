"""The lab's control group: every process of a lab is in it, so that it can be ended as one.

The processes of a machine whose supervisor was killed are found by it as well.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tools.errors import LabError

END_SECONDS = 15.0


def hierarchy() -> Path:
    """Where this machine mounts its version-2 hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return Path(fields.split()[4])
    raise LabError(
        "no cgroup2 hierarchy is mounted on this machine, and systemd in a container needs one:"
        " mount -t cgroup2 none /sys/fs/cgroup"
    )


def folder(name: str) -> Path:
    return hierarchy() / f"autojoin-{name}"


def hierarchies() -> list[Path]:
    """Every mounted hierarchy, of version 2 and of version 1.

    Where both are there, systemd-nspawn makes folders of the same name in systemd's own of
    version 1, which hold no process and stay when the machine is killed.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    pairs = [line.partition(" - ") for line in lines]
    return [
        Path(fields.split()[4])
        for fields, _, rest in pairs
        if rest.startswith(("cgroup2 ", "cgroup "))
    ]


def names() -> list[str]:
    """The labs that have a group on this machine."""
    found = [path.name for root in hierarchies() for path in root.glob("autojoin-*")]
    return sorted({name.removeprefix("autojoin-") for name in found})


def create(name: str) -> Path:
    """The lab's empty group; its path. Whatever was still in it has ended."""
    remove(name)
    target = folder(name)
    try:
        target.mkdir()
    except OSError as error:
        raise LabError(f"{target} cannot be made ({error.strerror}): the lab needs root") from error
    return target


def processes(name: str) -> list[int]:
    """The numbers of the processes in the group and in the groups below it."""
    found: list[int] = []
    for below, _, _ in os.walk(folder(name)):
        try:
            found += map(int, (Path(below) / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return found


def remove(name: str) -> None:
    """End everything in the group and remove it. LabError where something does not end."""
    end(name, folder(name))
    for root in hierarchies():
        remove_folders(root / f"autojoin-{name}")


def end(name: str, target: Path) -> None:
    if not target.is_dir():
        return
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        (target / "cgroup.kill").write_text("1")
        if not processes(name) and remove_folders(target):
            return
        time.sleep(0.05)
    left = " ".join(map(str, processes(name))) or "none"
    raise LabError(f"{target} does not end within {END_SECONDS:.0f} s (processes left: {left})")


def remove_folders(target: Path) -> bool:
    """Remove the emptied group from the leaves up; False while the kernel still holds one."""
    try:
        for below, _, _ in os.walk(target, topdown=False):
            Path(below).rmdir()
    except OSError:
        return False
    return True
