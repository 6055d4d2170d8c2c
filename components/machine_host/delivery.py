"""Files of a node brought to a provisioning host over SSH."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from components.archive import File, pack, text
from components.certificate_authority.authority_host import installed_command
from components.machine_host.recipe import Book, recipe

# Of the host's folder of nodes' files: what is no node's, a folder for each cluster.
RECORDS = ".autojoin"
# Where the programs are that keep machines, a folder for each cluster.
PROGRAMS = "/usr/local/lib/autojoin/clusters"
DELIVER_SCRIPT = Path(__file__).parent / "on_host" / "deliver.sh"


def records(directory: str, cluster: str) -> str:
    """The folder of a cluster's records and programs in the folder of nodes' files."""
    return f"{directory}/{RECORDS}/{cluster}"


def programs(cluster: str) -> str:
    """The folder of the programs that keep a cluster's machines."""
    return f"{PROGRAMS}/{cluster}"


def apply_command(node: str, directory: str, where: str, marks: Iterable[str] = ()) -> str:
    """Puts the files of `apply_input` (standard input) in place in `directory` on the host.

    Needs what provisioning.py installs in `where`. `marks` change nothing.
    """
    script = f"{where}/deliver"
    body = (
        f"set -eu; [ -e {shlex.quote(script)} ] || {{ echo {shlex.quote(script)} is not there: "
        "the step of this host, NAME-machines, brings it >&2; exit 1; }; "
        f'exec sh {shlex.join((script, "apply", node, directory))} "$@"'
    )
    return with_marks(f"sh -c {shlex.quote(body)} deliver", marks)


def with_marks(command: str, marks: Iterable[str]) -> str:
    """A command with further words, each on a line of its own, as a diff shows them best."""
    return " \\\n  ".join([command, *map(shlex.quote, marks)])


def remove_command(node: str, directory: str, where: str, identity: str) -> str:
    """Removes the node's files, if they are of that identity; nothing where there are none."""
    return installed_command(f"{where}/deliver", "remove", node, directory, identity)


def parcel(files: Mapping[str, File], identity: str) -> dict[str, File]:
    """All that goes to the host for one node. It holds the join key: a secret.

    The first parts of the paths of `files` are folders of this node alone.
    """
    members = {f"files/{path}": file for path, file in files.items()}
    members["identity"] = text(f"{identity}\n")
    return members


def apply_input(parcel: Mapping[str, File], book: Book | None = None) -> str:
    """Standard input for `apply_command`. It holds the join key: a secret.

    `book` is what provisioning.py puts on the host for all nodes of the kind.
    """
    digest = hashlib.sha256(pack(parcel).encode()).hexdigest()
    return recipe({**parcel, "sum": text(digest + "\n")}, book)
