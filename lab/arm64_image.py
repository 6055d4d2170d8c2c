"""The root of the lab's arm64 machines, which stand in for boards: the machine image in arm64.

`python -m lab.arm64_image is-done` (exit status 0 or 1) and `python -m lab.arm64_image install`.
The same packages are unpacked, and nothing of them is run: what their scripts made (users, links,
enabled units, compiled Python) is taken from the machine image, where they ran unemulated.
"""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab import image
from tools import pins

# systemd hands credentials to these by a mount that it can't make while it is emulated.
WITHOUT_CREDENTIALS = (
    "systemd-sysctl",
    "systemd-sysusers",
    "systemd-tmpfiles-setup",
    "systemd-tmpfiles-setup-dev",
)
COMMANDS = ("mmdebstrap", "dpkg-query", "setpriv", "unshare", "apt-get")
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
DATABASE = Path("var/lib/dpkg")
# Where nothing lies but what the kernel or a running system puts there.
PASSING = ("dev", "proc", "run", "sys", "tmp")


def folder() -> Path:
    steps = [inspect.getsource(step) for step in (unpack, take_over, take_attributes, settle)]
    key = pins.digest(image.digest(), repr((WITHOUT_CREDENTIALS, PASSING, steps)))
    return pins.cache() / f"arm64-image-{key}"


def root() -> Path:
    """The image's root folder; whole where it exists."""
    return folder() / "root"


def is_done() -> bool:
    return root().is_dir()


def install() -> None:
    """Build the image unless it is there; LabError has the end of the log."""
    image.require(COMMANDS)
    native = image.install()
    with image.only_builder():
        if not is_done():
            build(native)


def build(native: Path) -> None:
    started = time.monotonic()
    with image.built("arm64-image", folder()) as (building, log):
        target = building / "root"
        unpack(native, target, log)
        take_over(native, target)
        take_attributes(native, target)
        settle(target)
        building.chmod(0o755)
    print(f"arm64 image: done in {time.monotonic() - started:.0f} s", flush=True)


def unpack(native: Path, target: Path, log: Path) -> None:
    """The packages of the machine image, resolved, fetched and unpacked by this machine's apt."""
    query = ["dpkg-query", "--admindir", str(native / DATABASE), "-W", "-f", "${Package},"]
    packages = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    command = ["mmdebstrap", "--mode=root", "--architectures=arm64", "--variant=extract"]
    command += [f"--hook-dir={MERGED_USR}", f"--include={packages.strip(',')}"]
    command += [f"--dpkgopt={line}" for line in image.DPKG_OPTIONS.splitlines()]
    command += [image.SUITE, str(target)]
    command += [f"deb {it.address} {it.codename} {it.component}" for it in image.sources()]
    image.logged(command, log)


def take_over(native: Path, target: Path) -> None:
    """All settings and what no package owns, but for what is of the other processor."""
    foreign = f"{platform.machine()}-linux-gnu"
    owned = owned_paths(native)
    for path in walk(native):
        if path.parts[0] != "etc" and str(path) in owned:
            continue
        if foreign in str(path) or path.name == "ld.so.cache" or path.is_relative_to(DATABASE):
            continue
        place(native / path, target / path)
    take_database(native, target)


def owned_paths(native: Path) -> set[str]:
    """The paths that packages brought, as they are in a root where /bin is in /usr."""
    found = set()
    for listing in (native / DATABASE / "info").glob("*.list"):
        for line in listing.read_text().splitlines():
            path = line.lstrip("/")
            top = path.partition("/")[0]
            found.add(f"usr/{path}" if top and (native / top).is_symlink() else path)
    return found


def walk(native: Path) -> Iterator[Path]:
    """Every path that stays in the root, folders before what is in them."""
    for name, folders, files in os.walk(native):
        inside = Path(name).relative_to(native)
        if not inside.parts:
            folders[:] = [folder for folder in folders if folder not in PASSING]
        yield from (inside / entry for entry in (*folders, *files))


def place(source: Path, target: Path) -> None:
    """Copy a file, link or empty folder to where its folder has been unpacked."""
    if not target.parent.is_dir():
        return
    if source.is_dir() and not source.is_symlink():
        target.mkdir(exist_ok=True)
    elif not target.is_dir() or target.is_symlink():
        target.unlink(missing_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def take_database(native: Path, target: Path) -> None:
    """What dpkg knows of the same packages, under the other processor's name.

    Their versions are those of the machine image: where Debian has renewed one since, not quite.
    """
    image.remove_tree(target / DATABASE)
    shutil.copytree(native / DATABASE, target / DATABASE, symlinks=True)
    for file in (target / DATABASE / "info").glob("*:amd64.*"):
        file.rename(file.with_name(file.name.replace(":amd64.", ":arm64.")))
    for file in (target / DATABASE / "status", *(target / DATABASE / "info").glob("*.list")):
        text = file.read_text().replace("\nArchitecture: amd64\n", "\nArchitecture: arm64\n")
        file.write_text(text.replace("x86_64-linux-gnu", "aarch64-linux-gnu"))


def take_attributes(native: Path, target: Path) -> None:
    """Owners, modes and capabilities, which packages' scripts set."""
    for path in walk(target):
        source, copy = native / path, target / path
        if not os.path.lexists(source):
            continue
        status = source.lstat()
        os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)
        if not source.is_symlink() and not copy.is_symlink():
            copy.chmod(status.st_mode & 0o7777)
            for attribute in os.listxattr(source):
                os.setxattr(copy, attribute, os.getxattr(source, attribute))


def settle(target: Path) -> None:
    image.write(target / "etc/hosts", "127.0.0.1 localhost\n")
    for name in WITHOUT_CREDENTIALS:
        drop_in = target / f"etc/systemd/system/{name}.service.d/emulated.conf"
        image.write(drop_in, "[Service]\nLoadCredential=\n")


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.arm64_image", is_done, install))
