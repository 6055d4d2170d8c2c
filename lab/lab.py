"""The embedded lab: up and down.

`up` may be run at any time: what runs is left alone, what is half there is made anew.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from lab import authority, cgroup, control_plane, emulation, hypervisor, image
from lab.facts import prepare
from lab.place import (
    STATE_ROOT,
    Place,
    conflict,
    identifier_of,
    lock,
    others,
    read,
    unrecorded,
)
from tools.errors import LabError

# --- up -------------------------------------------------------------------------------------


def up(place: Place) -> None:
    """Make the lab at `place` run. LabError says what is missing or failed."""
    require_root()
    binaries = hypervisor.find_binaries()
    cgroup.hierarchy()
    report = Progress("lab")
    if not image.is_done():
        report("building the machine image, once for this machine (about a minute)")
        image.install()
    prepare(place)
    with lock(place.root, f".{place.identifier}.lock"):
        bring_up(read(place.state, place.root) or place, binaries, report)


def bring_up(place: Place, binaries: hypervisor.Binaries, report: Progress) -> None:
    current = place.running() and place.fingerprint == hypervisor.fingerprint(place, binaries)
    if current and healthy(place):
        report(f"is up ({place.network})")
        return
    if current and hypervisor.answers_ssh(str(place.hypervisor_address)):
        report("is up in part; starting the rest")
        control_plane.start(place)
    else:
        if place.running():
            report("does not answer" if current else "was started from other tools or files")
        # Two labs with one network that start at once would each find it free.
        with lock(place.root, ".start.lock"):
            refuse_conflict(place)
            report(f"starting the hypervisor ({place.network})")
            place = hypervisor.start(place, binaries)
    report("starting the CA host")
    authority.start(place)
    control_plane.await_ready(place)
    report(f"API server ready at {place.api_server}")
    authority.await_ready(place)
    report(f"CA host ready at {place.authority_address}")


def healthy(place: Place) -> bool:
    """Whether everything that `up` promises answers."""
    return (
        hypervisor.answers_ssh(str(place.hypervisor_address))
        and hypervisor.answers_ssh(str(place.authority_address))
        and control_plane.ready(place)[0]
    )


def refuse_conflict(place: Place) -> None:
    other = conflict(place)
    if other:
        raise LabError(
            f"the lab's network {place.network} (Pulumi.dev.yaml) overlaps {other}:"
            " `make move-lab` moves this checkout's lab to a free network"
        )


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root (it starts machines): run it with sudo")


class Progress:
    """Lines with the seconds since the beginning."""

    def __init__(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{self.name}: {text} ({time.monotonic() - self.started:.1f} s)", flush=True)


# --- down -----------------------------------------------------------------------------------


def down(place: Place) -> None:
    """Stop the lab at `place` and remove all its state; nothing is left of it."""
    require_root()
    report = Progress("lab")
    remove(place)
    tidy(place.root)
    report("is gone")


def down_all(checkout: Path, root: Path = STATE_ROOT) -> None:
    """Remove the labs that no checkout holds any more, or that do not run; `checkout`'s is kept."""
    require_root()
    report = Progress("lab")
    for other in others(identifier_of(checkout), root):
        remove_if_dead(other, report)
    for lost in unrecorded(root):
        if lost.identifier != identifier_of(checkout):
            remove(lost)
            report(f"{lost.identifier} left behind without a record is removed")
    tidy(root)


def remove(place: Place) -> None:
    """End everything of a lab and delete its state."""
    with lock(place.root, f".{place.identifier}.lock"):
        remove_locked(place)


def remove_locked(place: Place) -> None:
    hypervisor.clean(read(place.state, place.root) or place)
    hypervisor.remove_tree(place.state)
    (place.root / f".{place.identifier}.lock").unlink(missing_ok=True)


def remove_if_dead(place: Place, report: Progress) -> None:
    """Remove a lab whose checkout is gone or whose hypervisor died; another is named and stays."""
    with lock(place.root, f".{place.identifier}.lock"):
        place = read(place.state, place.root) or place  # it may have come up in the meantime
        if place.checkout.is_dir() and place.hypervisor is None:
            report(f"of {place.checkout} is off and stays; remove it there")
        elif place.checkout.is_dir() and place.running():
            report(f"of {place.checkout} is alive and stays; stop it there")
        else:
            cause = "died" if place.checkout.is_dir() else "is a checkout no more"
            remove_locked(place)
            report(f"left behind by {place.checkout} ({cause}) is removed")


def tidy(root: Path = STATE_ROOT) -> None:
    """Remove the common folder where no lab is left in it."""
    if root.is_dir() and not any(entry.is_dir() for entry in root.iterdir()):
        shutil.rmtree(root, ignore_errors=True)
        emulation.forget()
