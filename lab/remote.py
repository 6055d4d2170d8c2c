"""Commands on the lab's machines over SSH, host keys pinned."""

from __future__ import annotations

from components.shell import ssh
from lab import pki
from lab.place import Place
from stack.models import Host
from tools.errors import LabError


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
    there = Host(
        address=host or str(place.hypervisor_address),
        host_key=pki.ssh_public_key(place, key),
        private_key_file=str(pki.ssh_private_key_path(place)),
    )
    try:
        return ssh.run(there, command, stdin=stdin.encode(), seconds=seconds).decode()
    except ssh.SshError as error:
        raise LabError(f"{what} failed: {error}") from None
