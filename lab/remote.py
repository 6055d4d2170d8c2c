"""Commands on the lab's machines over SSH, host keys pinned."""

from __future__ import annotations

import subprocess
import tempfile

from lab import pki
from lab.place import Place
from tools.errors import LabError

LINES = 10


def remote(
    place: Place,
    command: str,
    *,
    what: str,
    stdin: str = "",
    host: str = "",
    key: str = "hypervisor-host",
    seconds: float = 120,
) -> str:
    """Run `command` as root on the hypervisor (or `host`, whose host key is `key`); its stdout.

    LabError says that `what` failed, with the end of the command's stderr.
    """
    address = host or str(place.hypervisor_address)
    with tempfile.NamedTemporaryFile("w", prefix="autojoin-known-hosts-") as known_hosts:
        known_hosts.write(f"{address} {pki.ssh_public_key(place, key)}\n")
        known_hosts.flush()
        try:
            answer = subprocess.run(
                [*ssh(place, known_hosts.name), f"root@{address}", command],
                input=stdin, capture_output=True, text=True, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{what} did not end within {seconds:.0f} s (at {address})") from error
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()[-LINES:] or [f"status {answer.returncode}"]
        raise LabError("\n".join([f"{what} failed (at {address}):", *lines]))
    return answer.stdout


def ssh(place: Place, known_hosts: str) -> list[str]:
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "ConnectTimeout=10",
        "LogLevel=ERROR",
    )
    command = ["ssh", "-F", "none", "-i", str(pki.ssh_private_key_path(place))]
    for option in options:
        command += ["-o", option]
    return command
