"""What a provisioning host makes of a recipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

from components.archive import File
from components.machine_host.recipe import ASSEMBLE_SCRIPT


def unpacked(text: str, books: Path, into: Path) -> dict[str, File]:
    into.mkdir()
    command = ["dash", str(ASSEMBLE_SCRIPT), "unpack", str(books)]
    done = subprocess.run(command, input=text, cwd=into, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        str(path.relative_to(into)): File(path.read_bytes(), path.stat().st_mode & 0o777)
        for path in into.rglob("*")
        if path.is_file()
    }
