"""The embedded lab of this checkout: `python -m lab.lab up|down|status [all]`.

`up` may be run at any time: what runs is left alone, what is half there is made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab import authority, cgroup, control_plane, emulation, hypervisor, image
from lab.facts import LabFacts, prepare
from lab.place import (
    STATE_ROOT,
    Place,
    allocate,
    conflict,
    find,
    identifier_of,
    lock,
    others,
    read,
    unrecorded,
)
from tools.errors import LabError

CHECKOUT = Path(__file__).resolve().parent.parent

# --- up -------------------------------------------------------------------------------------


def up(place: Place) -> LabFacts:
    """Make the lab at `place` run; its facts. LabError says what is missing or failed."""
    require_root()
    binaries = hypervisor.find_binaries()
    cgroup.hierarchy()
    report = Progress("lab")
    if not image.is_done():
        report("building the machine image, once for this machine (about a minute)")
        image.install()
    facts = prepare(place)
    with lock(place.root, f".{place.identifier}.lock"):
        bring_up(read(place.state, place.root) or place, binaries, report)
    return facts


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
            f"the lab's subnet {place.network} overlaps {other}, which this machine routes"
            " elsewhere; take that route away, or run `make down` and `make up` for another subnet"
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


# --- status ---------------------------------------------------------------------------------


def status(checkout: Path = CHECKOUT) -> bool:
    """Print what of the lab runs; whether all of it does."""
    place = find(checkout)
    if place is None:
        print("lab: not there; `make up` makes it")
        return False
    machine = hypervisor.answers_ssh(str(place.hypervisor_address))
    rows: tuple[tuple[str, bool, str], ...] = (
        ("hypervisor", place.running() and machine, str(place.hypervisor_address)),
        ("API server", control_plane.ready(place)[0], place.api_server),
        ("CA host", hypervisor.answers_ssh(str(place.authority_address)),
         str(place.authority_address)),
    )  # fmt: skip
    for name, good, address in rows:
        print(f"{name:<12} {'up' if good else 'down':<6} {address}")
    return all(good for _, good, _ in rows)


def stop(*, every: bool) -> None:
    place = find(CHECKOUT)
    if place:
        down(place)
    else:
        print("lab: was not up")
    if every:
        down_all(CHECKOUT)


def main(arguments: list[str]) -> int:
    commands: dict[tuple[str, ...], Callable[[], object]] = {
        ("up",): lambda: up(allocate(CHECKOUT)),
        ("down",): lambda: stop(every=False),
        ("down", "all"): lambda: stop(every=True),
        ("status",): status,
    }
    command = commands.get(tuple(arguments))
    if command is None:
        print("usage: python -m lab.lab up | down [all] | status", file=sys.stderr)
        return 2
    try:
        return 1 if command() is False else 0
    except LabError as error:
        for line in str(error).splitlines():
            print(f"lab: {line}", file=sys.stderr)
        return 1
    except subprocess.SubprocessError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
