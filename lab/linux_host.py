"""A Linux host on the lab's network: this machine, set apart, with libvirt or without.

sshd and libvirtd as Debian packages them, with mounts and processes of their own, in the network of
the lab's hypervisor and in its control group: they end with the lab.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import pki
from lab.machine import of_lab
from lab.place import Place
from lab.waiting import wait_for

PORT = 2222
START_SECONDS = 30.0
# What it has of its own, each a folder of FOLDER.
_OWN = ("/usr/local/lib",)
_LIBVIRTS_OWN = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
# The lab's control groups are not for libvirt to share out, and AppArmor is not there.
_QEMU = 'cgroup_controllers = []\nsecurity_driver = "none"\nnamespaces = []\n'
_SSHD = """\
Port {port}
ListenAddress {address}
HostKey {folder}/ssh-host
AuthorizedKeysFile {folder}/authorized-keys
PidFile none
UsePAM no
"""
# $1 is FOLDER, the others are what it has of its own.
_START = """\
folder=$1
shift
mount --make-rprivate /
mount -t tmpfs run /run
mkdir -p /run/sshd /run/libvirt
for own in "$@"; do
    mkdir -p "$folder$own"
    mount --bind "$folder$own" "$own"
done
"""
_START_LIBVIRT = """\
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/qemu
# A machine that is one itself may have it and run no guest by it: it is emulated everywhere.
: >"$folder/no-kvm"
[ ! -e /dev/kvm ] || mount --bind "$folder/no-kvm" /dev/kvm
virtlogd --daemon
libvirtd --daemon
"""
_SERVE = 'exec /usr/sbin/sshd -D -e -f "$folder/sshd_config"\n'


@contextlib.contextmanager
def hypervisor(place: Place, folder: Path) -> Iterator[dict[str, Any]]:
    """One whose guests libvirt keeps; its section of `autojoin:provisioning`."""
    shutil.copytree("/etc/libvirt", folder / "etc/libvirt")
    (folder / "etc/libvirt/qemu.conf").write_text(_QEMU)
    with host(place, folder, _START + _START_LIBVIRT, (*_OWN, *_LIBVIRTS_OWN)) as section:
        yield section | {"manager": "libvirt"}


@contextlib.contextmanager
def host(
    place: Place, folder: Path, start: str = _START, own: tuple[str, ...] = _OWN
) -> Iterator[dict[str, Any]]:
    """That host, with what it keeps in `folder`; its section of `autojoin:provisioning`."""
    folder.mkdir(parents=True, exist_ok=True)
    pki.ensure_ssh_key(folder, "host")
    (folder / "authorized-keys").write_text(pki.ssh_public_key(place, "client") + "\n")
    settings = {"folder": folder, "port": PORT, "address": place.hypervisor_address}
    (folder / "sshd_config").write_text(_SSHD.format(**settings))
    inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    script = ["sh", "-euc", start + _SERVE, "sh", str(folder), *own]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*of_lab(place).inside, *inside, *script], stdout=log, stderr=log
        )

    def said() -> str:
        return (folder / "log").read_text(errors="replace")

    try:
        listening = lambda: "Server listening" in said()  # noqa: E731
        wait_for(listening, START_SECONDS, "the host does not start", said, process)
        yield {
            "address": str(place.hypervisor_address),
            "port": PORT,
            "hostKey": (folder / "ssh-host.pub").read_text().strip(),
            "privateKeyFile": ".lab/pki/ssh-client",
            "directory": str(folder / "nodes"),
        }
    finally:
        # unshare waits for its child, whatever it is told; that one goes with it.
        process.kill()
        process.wait()
