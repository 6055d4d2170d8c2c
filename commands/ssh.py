"""One command on one of the stack's hosts over SSH, its host key pinned."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from config.models import Host

_DIAL_SECONDS = 10
_SECONDS = 60


class SshError(Exception):
    """Why there is no answer, as a line for a person."""


def run(host: Host, command: str) -> str:
    """What `command` prints on `host`; SshError where it can't be had."""
    with tempfile.TemporaryDirectory(prefix="autojoin-ssh-") as folder:
        words = ["ssh", *options(host, Path(folder)), f"{host.user}@{host.address}", command]
        try:
            answer = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
            )
        except FileNotFoundError:
            raise SshError("ssh is not on PATH; install an OpenSSH client") from None
        except subprocess.TimeoutExpired:
            raise SshError(f"{host.address}: no answer within {_SECONDS} s") from None
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"]
        raise SshError(f"{host.address}: {lines[-1]}")
    return answer.stdout


def options(host: Host, folder: Path) -> list[str]:
    """ssh's options; the pinned key, and a private key out of the configuration, go to `folder`."""
    known = folder / "known_hosts"
    name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
    known.write_text(f"{name} {host.host_key}\n")
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": str(_DIAL_SECONDS),
        "HostKeyAlgorithms": host_key_algorithms(host.host_key),
        "LogLevel": "ERROR",
        "Port": str(host.port),
    }
    words = ["-F", "none"]
    for key, value in settings.items():
        words += ["-o", f"{key}={value}"]
    if host.private_key:
        file = folder / "key"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(host.private_key.get_secret_value().strip() + "\n")
        words += ["-o", "IdentitiesOnly=yes", "-i", str(file)]
    elif host.private_key_file:
        path = Path(host.private_key_file).expanduser()
        words += ["-o", "IdentitiesOnly=yes", "-i", str(path)]
    return words


def host_key_algorithms(host_key: str) -> str:
    """Only of the pinned key's type, or the server offers another, which then looks wrong."""
    kind = host_key.split()[0]
    return "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
