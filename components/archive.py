"""Files as one base64 text on a command's standard input.

The same files give the same text, byte for byte: no times, no owners, sorted. So a command runs
again exactly when one of its files changed.
"""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file's bytes and its permission bits."""

    content: bytes
    mode: int = 0o600


def text(content: str, mode: int = 0o600) -> File:
    return File(content.encode(), mode)


def pack(files: Mapping[str, File]) -> str:
    """A base64 tar of `files` (relative path -> file), in lines of 76 characters."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            file = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return base64.encodebytes(buffer.getvalue()).decode()
