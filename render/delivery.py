"""Files of a node brought to a provisioning host over SSH, and the wait for its join there."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from render.archive import File, pack, text

DELIVER_SCRIPT = Path(__file__).parent / "files" / "deliver.sh"


def apply_command(node: str, directory: str, await_seconds: int | None) -> str:
    """Puts the files of `apply_input` (standard input) in place in `directory` on the host.

    With `await_seconds` it then follows the node's join until it is Ready, and ends with a line
    of JSON; see `joined`. Needs a POSIX sh, tar, base64 or openssl, and curl for the wait.
    """
    where = shlex.join((node, directory))
    body = (
        "set -eu; umask 077; work=$(mktemp -d); trap 'rm -rf \"$work\"' EXIT; "
        'trap "exit 1" HUP INT TERM; cd "$work"; '
        "if command -v base64 >/dev/null 2>&1; then base64 -d; else openssl base64 -d; fi "
        f'>.tar; umask 022; tar -xpf .tar; rm .tar; sh deliver.sh apply {where} "$work"'
    )
    if await_seconds is not None:
        body += f"; sh deliver.sh await {where} {int(await_seconds)}"
    return f"sh -c {shlex.quote(body)}"


def remove_command(node: str, directory: str) -> str:
    """Removes the node's files; nothing where there are none."""
    script = shlex.quote(f"{directory}/.autojoin/deliver")
    body = f"[ ! -e {script} ] || exec sh {script} remove {shlex.join((node, directory))}"
    return f"sh -c {shlex.quote(body)}"


def apply_input(
    files: Mapping[str, File], *, gate_url: str, authority_pem: str, status_token: str
) -> str:
    """Standard input for `apply_command`: a base64 tar. It holds the join key: a secret.

    The first parts of the paths of `files` are folders of this node alone.
    """
    members = {f"files/{path}": file for path, file in files.items()}
    members["await/gate-url"] = text(gate_url.rstrip("/") + "\n")
    members["await/ca.pem"] = text(authority_pem)
    members["await/status-token"] = text(status_token + "\n")
    digest = hashlib.sha256(pack(members).encode()).hexdigest()
    members["sum"] = text(digest + "\n")
    members["deliver.sh"] = File(DELIVER_SCRIPT.read_bytes(), 0o755)
    return pack(members)


def joined(output: str) -> dict[str, Any]:
    """The summary with which a wait ends: seconds to Ready, phase by phase."""
    lines = output.strip().splitlines()
    summary = json.loads(lines[-1]) if lines else {}
    return {"readySeconds": summary.get("readySeconds"), "phases": summary.get("phases")}
