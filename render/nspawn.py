"""Machines of systemd-nspawn on a provisioning host: what is sent there, and the commands."""

from __future__ import annotations

import base64
import io
import shlex
import tarfile
from dataclasses import dataclass
from pathlib import Path

from render.seed import Seed

PROGRAM = "/usr/local/lib/autojoin/machine"
MACHINE_SCRIPT = Path(__file__).parent / "files" / "machine.sh"
LINE = 76


@dataclass(frozen=True)
class File:
    """A file of the machine, put there before its first boot."""

    content: str | bytes
    mode: int = 0o644


def install_command() -> str:
    """Puts the machine script (standard input) in place whole, and lets it write its unit."""
    directory = shlex.quote(str(Path(PROGRAM).parent))
    new = shlex.quote(PROGRAM + ".new")
    program = shlex.quote(PROGRAM)
    return (
        f"set -eu; mkdir -p {directory}; cat >{new}; chmod 0755 {new}; "
        f"mv -f {new} {program}; {program} install"
    )


def install_input() -> str:
    """The machine script."""
    return MACHINE_SCRIPT.read_text()


def apply_command(name: str, timeout_seconds: int) -> str:
    """Makes machine `name` run from the input, and follows its join for `timeout_seconds`.

    The last line of its output is JSON: `{"node", "readySeconds", "phases": {phase: seconds}}`.
    """
    machine = shlex.quote(name)
    return f"{PROGRAM} apply {machine} && {PROGRAM} await {machine} {int(timeout_seconds)}"


def apply_input(
    name: str,
    seed: Seed,
    *,
    image: str,
    bridge: str,
    gate_url: str,
    authority_pem: str,
    status_token: str,
    files: dict[str, File] | None = None,
) -> str:
    """The machine as base64 of a tar. It holds the join key and the status token: a secret.

    `image` is a list of folders, the topmost first, with colons between; `files` are the
    machine's own by absolute path.
    """
    members: dict[str, File] = {
        f"seed/{path}": File(text, 0o600) for path, text in seed.files().items()
    }
    members["machine.env"] = File(f"IMAGE={_plain(image)}\nBRIDGE={_plain(bridge)}\n", 0o600)
    members["await.env"] = File(f"GATE_URL={_plain(gate_url.rstrip('/'))}\n", 0o600)
    members["ca.pem"] = File(authority_pem, 0o600)
    members["status-token"] = File(status_token + "\n", 0o600)
    for path, file in (files or {}).items():
        members[f"files/{_inside(path)}"] = file
    return _encoded(members)


def remove_command(name: str) -> str:
    """Stops machine `name` and deletes all that belongs to it. Repeating it does nothing."""
    return f"{PROGRAM} remove {shlex.quote(name)}"


def _plain(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError(f"{value!r} is empty or holds control characters; it stands for one line")
    return value


def _inside(path: str) -> str:
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"file {path!r} of a machine must be an absolute path without . and ..")
    return "/".join(parts)


def _encoded(members: dict[str, File]) -> str:
    """A tar with nothing in it that differs between two renderings, in base64 of short lines."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for directory in sorted(_directories(members)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path in sorted(members):
            content = members[path].content
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), members[path].mode
            archive.addfile(entry, io.BytesIO(data))
    text = base64.b64encode(buffer.getvalue()).decode()
    return "".join(text[start : start + LINE] + "\n" for start in range(0, len(text), LINE))


def _directories(members: dict[str, File]) -> set[str]:
    return {str(parent) for path in members for parent in Path(path).parents} - {"."}
