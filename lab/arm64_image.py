"""The root of the lab's arm64 machines, which stand in for boards: Debian again, run by qemu.

`python -m lab.arm64_image is-done` (exit status 0 or 1) and `python -m lab.arm64_image install`.
Container runtime and CNI plugins are not in it: emulated they fail, so the machines run those of
the other image (lab/hypervisor.py).
"""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path

from lab import emulation, image
from tools import pins

PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "kmod",
    "netbase",
    "openssh-server",
    "openssl",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
)
# systemd hands credentials to these by a mount that it can't make while it is emulated.
WITHOUT_CREDENTIALS = (
    "systemd-sysctl",
    "systemd-sysusers",
    "systemd-tmpfiles-setup",
    "systemd-tmpfiles-setup-dev",
)
COMMANDS = ("mmdebstrap", "setpriv", "unshare", "chroot", "apt-get")


def folder() -> Path:
    steps = [inspect.getsource(step) for step in (bootstrap, settle)]
    key = pins.digest(image.digest(), repr((PACKAGES, WITHOUT_CREDENTIALS, steps)))
    return pins.cache() / f"arm64-image-{key}"


def root() -> Path:
    """The image's root folder; whole where it exists."""
    return folder() / "root"


def is_done() -> bool:
    return root().is_dir()


def install() -> None:
    """Build the image unless it is there; LabError has the end of the log."""
    image.require(COMMANDS)
    with image.only_builder():
        if not is_done():
            build()


def build() -> None:
    building = pins.cache() / ".arm64-image-building"
    log = pins.cache() / "arm64-image-build.log"
    log.unlink(missing_ok=True)
    image.remove_tree(building)
    building.mkdir()
    started = time.monotonic()
    try:
        with emulation.arm64_programs():
            bootstrap(building / "root", log)
            settle(building / "root", log)
        building.chmod(0o755)
        building.rename(folder())
    except BaseException:
        image.remove_tree(building)
        raise
    print(f"arm64 image: done in {time.monotonic() - started:.0f} s", flush=True)


def bootstrap(target: Path, log: Path) -> None:
    """Resolved, downloaded and unpacked by this machine's own apt; only scripts are emulated."""
    command = ["mmdebstrap", "--mode=root", "--architectures=arm64", "--variant=minbase"]
    command += [f"--dpkgopt={line}" for line in image.DPKG_OPTIONS.splitlines()]
    command += [f"--include={','.join(PACKAGES)}", image.SUITE, str(target)]
    command += [f"deb {it.address} {it.codename} {it.component}" for it in image.sources()]
    image.logged(command, log)


def settle(target: Path, log: Path) -> None:
    image.write(target / "usr/sbin/policy-rc.d", "")
    image.settle(target, log)
    image.write(target / "etc/hosts", "127.0.0.1 localhost\n")
    for name in WITHOUT_CREDENTIALS:
        drop_in = target / f"etc/systemd/system/{name}.service.d/emulated.conf"
        image.write(drop_in, "[Service]\nLoadCredential=\n")


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.arm64_image", is_done, install))
