"""Plugins that the user puts in place of what would be installed: `make … PLUGINS=folder`.

Looked at before anything else happens, so on the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

NAMES = ("command", "tls", "kubernetes")
VARIABLE = "AUTOJOIN_PLUGINS"  # the Makefile's PLUGINS, absolute
START_SECONDS = 30
_NO_ENGINE = "127.0.0.1:1"  # a plugin dials it only when it has something to say


class UnusablePlugin(Exception):
    """A file that is no resource plugin: which, what was found, what to do."""


def files() -> dict[str, Path]:
    """The plugins that were given, by name; none where none were."""
    folder = os.environ.get(VARIABLE)
    return {name: Path(folder, f"pulumi-resource-{name}") for name in NAMES} if folder else {}


def check() -> None:
    """Start each of them once. UnusablePlugin by the file's name."""
    for file in files().values():
        found = wrong(file)
        if found:
            raise UnusablePlugin(
                f"PLUGINS: {file} {found}; the folder must hold the executables "
                f"{', '.join(f'pulumi-resource-{name}' for name in NAMES)}"
            )


def wrong(file: Path) -> str:
    """What keeps a file from being a plugin, in words; empty where nothing does."""
    if not file.is_file():
        return "is no file" if file.exists() else "does not exist"
    if not os.access(file, os.X_OK):
        return "is not executable"
    try:
        process = subprocess.Popen(
            [file, _NO_ENGINE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return f"can't be run ({error.strerror})"
    end = threading.Timer(START_SECONDS, _kill, [process])
    end.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode(errors="replace").strip()
        return _spoken(line) and f"{_spoken(line)}{_complaint(process)}"
    finally:
        end.cancel()
        _kill(process)
        process.wait()


def _spoken(line: str) -> str:
    """What is wrong with the first line of a plugin, which is the port that it serves on."""
    if not line.isdecimal() or not 0 < int(line) < 65536:
        return f"does not speak Pulumi's plugin protocol: {line[:80]!r} is no port to serve on"
    try:
        socket.create_connection(("127.0.0.1", int(line)), timeout=START_SECONDS).close()
    except OSError as error:
        return f"does not speak Pulumi's plugin protocol: nothing answers on port {line} ({error})"
    return ""


def _complaint(process: subprocess.Popen[bytes]) -> str:
    _kill(process)
    said = process.communicate()[1].decode(errors="replace").strip().splitlines()
    return f" ({said[-1][:200]})" if said else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
