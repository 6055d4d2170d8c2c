"""The CA's host over SSH, for commands that a person runs; its host key is pinned."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from pydantic import SecretStr

from components.shell import ssh
from stack.models import Host
from tools.errors import LabError

SECONDS = 600


class HostError(LabError):
    """Why a command did not run there, as lines for a person."""


def run(host: Host, private_key: str | None, command: str, stdin: bytes = b"") -> bytes:
    """The standard output of `command`; HostError with what it said where it failed.

    `private_key` is the key to log in with, in the clear; None leaves it to the SSH agent.
    """
    with tempfile.TemporaryDirectory(prefix="autojoin-ssh-") as folder:
        given = SecretStr(private_key) if private_key is not None else None
        there = host.model_copy(update={"private_key": given, "private_key_file": None})
        words = ["ssh", *ssh.options(there, Path(folder)), f"{host.user}@{host.address}", command]
        try:
            answer = subprocess.run(words, input=stdin, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise HostError(f"{host.address}: no answer within {SECONDS} s") from None
        except OSError as error:
            raise HostError(
                f"ssh can't be run ({error.strerror}); install openssh-client"
            ) from None
    said = answer.stderr.decode(errors="replace").strip()
    if answer.returncode == 255:
        raise HostError(ssh.refusal(host, said))
    if answer.returncode:
        raise HostError(said or f"{host.address}: exit status {answer.returncode}")
    return answer.stdout
