"""What runs: asked of hosts over SSH and of the API server by kubectl. Reads only.

What a host is to do goes by standard input.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from components.shell import ssh
from stack.models import Host, Lab

DIAL_SECONDS = 10
ANSWER_SECONDS = 60


class Unreachable(Exception):
    """A host or an API server that does not answer; a line for a person."""


def on_host(host: Host, script: str) -> str:
    """The output of a shell script on a host. Unreachable where it can't be run, or fails."""
    # As a stack file holds it, encrypted, a key is of no use here: the SSH agent is asked.
    if host.private_key and "PRIVATE KEY" not in host.private_key.get_secret_value():
        host = host.model_copy(update={"private_key": None})
    there = f"{host.user}@{host.address}"
    with tempfile.TemporaryDirectory(prefix="autojoin-live-") as folder:
        command = ["ssh", *ssh.options(host, Path(folder)), there, "sh -s"]
        return _answer(command, there, given=script)


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
