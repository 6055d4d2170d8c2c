"""The CA's host over SSH, for commands that a person runs; its host key is pinned."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from config.models import Host
from lab.errors import LabError

SECONDS = 600


class HostError(LabError):
    """Why a command did not run there, as lines for a person."""


def run(host: Host, private_key: str | None, command: str, stdin: bytes = b"") -> bytes:
    """The standard output of `command`; HostError with what it said where it failed.

    `private_key` is the key to log in with, in the clear; None leaves it to the SSH agent.
    """
    with tempfile.TemporaryDirectory(prefix="autojoin-ssh-") as folder:
        words = ssh_command(host, private_key, Path(folder))
        try:
            answer = subprocess.run(
                [*words, command], input=stdin, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{host.address}: no answer within {SECONDS} s") from None
        except OSError as error:
            raise HostError(
                f"ssh can't be run ({error.strerror}); install openssh-client"
            ) from None
    said = answer.stderr.decode(errors="replace").strip()
    if answer.returncode == 255:
        raise HostError(refusal(host, said))
    if answer.returncode:
        raise HostError(said or f"{host.address}: exit status {answer.returncode}")
    return answer.stdout


def ssh_command(host: Host, private_key: str | None, folder: Path) -> list[str]:
    """ssh's words, up to the command; the keys lie in `folder`."""
    known = folder / "known_hosts"
    name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
    known.write_text(f"{name} {host.host_key}\n")
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlgorithms": host_key_algorithms(host.host_key),
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
    }
    words = ["ssh", "-F", "/dev/null", "-T", "-p", str(host.port), "-l", host.user]
    if private_key is not None:
        key = folder / "key"
        key.touch(0o600)
        key.write_text(private_key.rstrip("\n") + "\n")
        words += ["-i", str(key)]
        options["IdentitiesOnly"] = "yes"
    for option, value in options.items():
        words += ["-o", f"{option}={value}"]
    return [*words, host.address]


def host_key_algorithms(host_key: str) -> str:
    """Only of the pinned key's type, or the server offers another, which then looks wrong."""
    kind = host_key.split()[0]
    return "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind


def refusal(host: Host, said: str) -> str:
    """ssh's own failure in the words of the configuration."""
    key = "autojoin:certificateAuthority.host"
    last = said.splitlines()[-1] if said else "no reason given"
    if "Host key verification failed" in said:
        return (
            f"{key}.hostKey: {host.address} shows another host key; where the host is new: "
            f"{shlex.join(('ssh-keyscan', '-p', str(host.port), host.address))}"
        )
    if "Permission denied" in said:
        return f"{key}: {host.address} refuses the login of {host.user} ({last}); give its key"
    return f"{key}: {host.address} port {host.port} can't be reached ({last})"
