"""What runs: asked of hosts over SSH and of the API server by kubectl. Reads only.

The one place of the commands that reaches a host. Host keys are pinned as in components/remote.py;
what a host is to do goes by standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from config.models import Host, Lab

DIAL_SECONDS = 10
ANSWER_SECONDS = 60


class Unreachable(Exception):
    """A host or an API server that does not answer; a line for a person."""


def on_host(host: Host, script: str) -> str:
    """The output of a shell script on a host. Unreachable where it can't be run, or fails."""
    with tempfile.TemporaryDirectory(prefix="autojoin-live-") as folder:
        known = Path(folder) / "known_hosts"
        port = "" if host.port == 22 else f":{host.port}"
        name = f"[{host.address}]{port}" if port else host.address
        known.write_text(f"{name} {host.host_key}\n")
        return _answer(
            ["ssh", *_options(host, Path(folder), known), host.address, "sh -s"],
            f"{host.user}@{host.address}",
            given=script,
        )


def _options(host: Host, folder: Path, known: Path) -> list[str]:
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": str(DIAL_SECONDS),
        "LogLevel": "ERROR",
    }
    words = ["-F", "/dev/null", "-p", str(host.port), "-l", host.user]
    for key, value in settings.items():
        words += ["-o", f"{key}={value}"]
    identity = _identity(host, folder)
    return [*words, "-o", "IdentitiesOnly=yes", "-i", str(identity)] if identity else words


def _identity(host: Host, folder: Path) -> Path | None:
    """The file of the key to log in with; None leaves it to the SSH agent."""
    if host.private_key_file:
        return Path(host.private_key_file).expanduser()
    # As a stack file holds it, encrypted, a key is of no use here.
    key = host.private_key.get_secret_value() if host.private_key else ""
    if "PRIVATE KEY" not in key:
        return None
    path = folder / "key"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.rstrip("\n") + "\n")
    return path


def kubectl(lab: Lab, *words: str) -> dict[str, Any]:
    """The JSON that `kubectl get …` answers. Unreachable where it fails."""
    path = str(Path(lab.cluster.kubeconfig).expanduser())
    limits = [f"--kubeconfig={path}", f"--request-timeout={DIAL_SECONDS}s"]
    answer = _answer(
        ["kubectl", *limits, "get", *words, "--output=json", "--ignore-not-found"],
        lab.cluster.api_server,
    )
    return dict(json.loads(answer)) if answer.strip() else {}


def _answer(command: list[str], what: str, given: str = "") -> str:
    try:
        answer = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except OSError as error:
        raise Unreachable(f"{what}: {command[0]} can't be run ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{what}: no answer within {ANSWER_SECONDS} s") from None
    if answer.returncode:
        said = " ".join(answer.stderr.split()) or f"exit status {answer.returncode}"
        raise Unreachable(f"{what}: {said[-300:]}")
    return answer.stdout
