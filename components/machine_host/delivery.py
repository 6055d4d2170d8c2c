"""Files of a node brought to a provisioning host over SSH, and the wait for its join there."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.archive import File, pack, text
from components.machine_host.recipe import Book, recipe

# Of the host's folder of nodes' files: what is no node's.
RECORDS = ".autojoin"
# Where the programs are that keep machines.
PROGRAMS = "/usr/local/lib/autojoin"
DELIVER_SCRIPT = Path(__file__).parent / "on_host" / "deliver.sh"


def apply_command(
    node: str, directory: str, await_seconds: int | None, marks: Iterable[str] = ()
) -> str:
    """Puts the files of `apply_input` (standard input) in place in `directory` on the host.

    With `await_seconds` it then follows the node's join until it is Ready, and ends with a line
    of JSON; see `joined`. Needs what provisioning.py installs there. `marks` change nothing.
    """
    script = shlex.quote(_script(directory))
    where = shlex.join((node, directory))
    body = (
        f"set -eu; [ -e {script} ] || {{ echo {shlex.quote(_script(directory))} is not there: the "
        "step of this host, NAME-machines, brings it >&2; exit 1; }; "
        f'sh {script} apply {where} "$@"'
    )
    if await_seconds is not None:
        body += f"; sh {script} await {where} {int(await_seconds)}"
    return with_marks(f"sh -c {shlex.quote(body)} deliver", marks)


def with_marks(command: str, marks: Iterable[str]) -> str:
    """A command with further words, each on a line of its own, as a diff shows them best."""
    return " \\\n  ".join([command, *map(shlex.quote, marks)])


def remove_command(node: str, directory: str) -> str:
    """Removes the node's files; nothing where there are none."""
    script = shlex.quote(_script(directory))
    body = f"[ ! -e {script} ] || exec sh {script} remove {shlex.join((node, directory))}"
    return f"sh -c {shlex.quote(body)}"


def _script(directory: str) -> str:
    return f"{directory}/{RECORDS}/deliver"


def parcel(
    files: Mapping[str, File], *, gate_url: str, authority_pem: str, status_token: str
) -> dict[str, File]:
    """All that goes to the host for one node. It holds the join key: a secret.

    The first parts of the paths of `files` are folders of this node alone.
    """
    members = {f"files/{path}": file for path, file in files.items()}
    members["await/gate-url"] = text(gate_url.rstrip("/") + "\n")
    members["await/ca.pem"] = text(authority_pem)
    members["await/status-token"] = text(status_token + "\n")
    return members


def apply_input(parcel: Mapping[str, File], book: Book | None = None) -> str:
    """Standard input for `apply_command`. It holds the join key: a secret.

    `book` is what provisioning.py puts on the host for all nodes of the kind.
    """
    digest = hashlib.sha256(pack(parcel).encode()).hexdigest()
    return recipe({**parcel, "sum": text(digest + "\n")}, book)


def joined(output: str) -> dict[str, Any]:
    """The summary with which a wait ends: seconds to Ready, phase by phase."""
    lines = output.strip().splitlines()
    summary = json.loads(lines[-1]) if lines else {}
    return {"readySeconds": summary.get("readySeconds"), "phases": summary.get("phases")}
