"""The lab's one machine image: a Debian root in the cache, read-only for every machine.

`python -m lab.image is-done` (exit status 0 or 1) and `python -m lab.image install`.
It is built beside its place and moved there at the end, so that what has its name is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools import pins
from tools.errors import LabError

SUITE = "bookworm"
FILES = Path(__file__).resolve().parent / "files" / "image"
PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "containerd",
    "curl",
    "dbus",
    "docker-registry",
    "frr",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "netbase",
    "openssh-server",
    "openssl",
    "procps",
    "python3",
    "python3-cryptography",
    "runc",
    "sqlite3",
    "sudo",
    "systemd",
    "systemd-container",
    "systemd-sysv",
    "udev",
)
# What costs a start time and does nothing for a machine of the lab. Without wait-online nothing
# sits out IPv6's duplicate address detection: whoever needs the network tries again anyway.
# Mounts beyond five in a second make systemd hold up every later one, and with it sysinit.target.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty-static.service",
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-networkd-wait-online.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "var-lib-machines.mount",
)
DISABLED = ("containerd.service", "cron.service", "docker-registry.service", "frr.service")
ENABLED = ("systemd-networkd.service",)
DPKG_OPTIONS = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
"""
LOG_LINES = 15
ALONE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)


@dataclass(frozen=True)
class Source:
    """One line of the machine's own apt configuration: where a suite of Debian comes from."""

    address: str
    codename: str
    component: str


def digest() -> str:
    """The image's key: everything that decides what is in it."""
    lists = (SUITE, PACKAGES, MASKED, DISABLED, ENABLED, DPKG_OPTIONS)
    steps = [inspect.getsource(step) for step in (bootstrap, prepare_apt, add_packages, settle)]
    state = hashlib.sha256(repr((lists, steps, os.uname().machine)).encode())
    for path in sorted(FILES.rglob("*")):
        if path.is_file():
            state.update(str(path.relative_to(FILES)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:12]


def folder() -> Path:
    return pins.cache() / f"image-{digest()}"


def root() -> Path:
    """The image's root folder; whole where it exists."""
    return folder() / "root"


def is_done() -> bool:
    return root().is_dir()


def install() -> Path:
    """Build the image unless it is there; its root. LabError has the end of the log."""
    if is_done():
        return root()
    require(("debootstrap", "setpriv", "unshare", "chroot", "apt-get"))
    with only_builder():
        if not is_done():
            build()
    return root()


def require(commands: Sequence[str]) -> None:
    """LabError unless an image can be built here, with `commands`."""
    missing = [name for name in commands if not tool(name)]
    if missing:
        raise LabError(f"{', '.join(missing)} not found on PATH: run `make tools`")
    if os.geteuid() != 0:
        raise LabError("the machine image is built as root: run it with sudo")


def tool(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextmanager
def only_builder() -> Iterator[None]:
    pins.cache().mkdir(parents=True, exist_ok=True)
    with (pins.cache() / ".image.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def built(stem: str, target: Path) -> Iterator[tuple[Path, Path]]:
    """An empty folder to build in, and a log; the folder becomes `target` when it is whole."""
    building = pins.cache() / f".{stem}-building"
    log = pins.cache() / f"{stem}-build.log"
    log.unlink(missing_ok=True)
    remove_tree(building)
    building.mkdir()
    try:
        yield building, log
        building.rename(target)
    except BaseException:
        remove_tree(building)
        raise


def build() -> None:
    started = time.monotonic()
    steps: tuple[tuple[str, Callable[[Path, Path], None]], ...] = (
        ("base system", bootstrap),
        ("packages", add_packages),
        ("settings", settle),
    )
    with built("image", folder()) as (building, log):
        target = building / "root"
        target.mkdir()
        for number, (name, step) in enumerate(steps, 1):
            elapsed = time.monotonic() - started
            print(f"image: [{number}/{len(steps)}] {name} ({elapsed:.0f} s)", flush=True)
            step(target, log)
        building.chmod(0o755)
    print(f"image: done in {time.monotonic() - started:.0f} s", flush=True)


def remove_tree(path: Path) -> None:
    """Remove `path`, but nothing that is mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(path)], check=True)


# --- where Debian comes from ----------------------------------------------------------------


def sources() -> list[Source]:
    """This machine's apt sources of the image's suite, the suite itself first."""
    form = "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"
    listing = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    answer = subprocess.run(listing, capture_output=True, text=True)
    if answer.returncode:
        raise LabError(f"`apt-get indextargets` failed: {answer.stderr.strip()}")
    found = fitting(answer.stdout)
    if not found:
        raise LabError(
            f"this machine's apt has no source of Debian {SUITE} (`apt-get indextargets` lists"
            " none); add one to /etc/apt/sources.list and run `apt-get update`"
        )
    return found


def fitting(listing: str) -> list[Source]:
    """The sources of the suite in `listing`, lines of ORIGIN|URI|CODENAME|COMPONENT.

    Another release of Debian will do where its mirror is: a mirror holds every suite.
    """
    rows = sorted({tuple(line.split("|")) for line in listing.splitlines() if line.count("|") == 3})
    debian = [row for row in rows if row[0] == "Debian" and row[3] == "main"]
    suites = (SUITE, f"{SUITE}-security", f"{SUITE}-updates")
    found = [Source(row[1], row[2], row[3]) for row in debian if row[2] in suites]
    found.sort(key=lambda source: suites.index(source.codename))
    if found and found[0].codename == SUITE:
        return found
    others = [row for row in debian if "-" not in row[2]]
    return [Source(others[0][1], SUITE, "main"), *found] if others else []


def proxy_environment() -> dict[str, str]:
    """apt's proxies as environment variables, which debootstrap and apt in the root both heed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    for scheme in ("http", "https"):
        command = ["apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy"]
        answer = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        value = answer.removeprefix("PROXY=").strip("'")
        if value and value != "DIRECT":
            environment[f"{scheme}_proxy"] = value
    return environment


# --- the steps ------------------------------------------------------------------------------


def logged(command: list[str], log: Path) -> None:
    """Run `command` with mounts and processes of its own, so that none outlives it or us.

    LabError where it fails, with the end of the log.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*ALONE, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=proxy_environment(),
        )
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status:
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        message = [f"building the machine image failed (`{command[0]}` ended with {status}):"]
        raise LabError("\n".join([*message, *lines, f"the whole log: {log}"]))


def in_root(target: Path, script: str, log: Path) -> None:
    """Run `script` by the root's own shell, with proc, sys and dev there."""
    prepare = 'for name in proc sys dev; do mount --rbind "/$name" "$1/$name"; done\n'
    enter = 'exec chroot "$1" /bin/sh -euc "$2"'
    logged(["sh", "-euc", prepare + enter, "sh", str(target), script], log)


def bootstrap(target: Path, log: Path) -> None:
    command = [tool("debootstrap") or "debootstrap", "--variant=minbase"]
    logged([*command, SUITE, str(target), sources()[0].address], log)


def prepare_apt(target: Path) -> None:
    """apt in the root: this machine's sources, no documents, and no service that starts."""
    lines = [f"deb {source.address} {source.codename} {source.component}" for source in sources()]
    write(target / "etc/apt/sources.list", "\n".join(lines) + "\n")
    write(target / "etc/dpkg/dpkg.cfg.d/lab", DPKG_OPTIONS)
    write(target / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        if Path("/", file).exists():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path("/", file), target / file)


def add_packages(target: Path, log: Path) -> None:
    """apt in the root, as debootstrap resolves neither alternatives nor virtual packages."""
    prepare_apt(target)
    apt = "apt-get -q -y -o Acquire::Languages=none -o APT::Sandbox::User=root"
    install = f"{apt} install --no-install-recommends {' '.join(PACKAGES)}"
    in_root(target, f"{apt} update; {apt} dist-upgrade; {install}; apt-get clean", log)


def settle(target: Path, log: Path) -> None:
    """Everything that makes the root start quickly, and every machine its own."""
    shutil.copytree(FILES, target, dirs_exist_ok=True)
    (target / "usr/sbin/policy-rc.d").unlink()
    for key in (target / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for name in MASKED:
        link(target / "etc/systemd/system" / name, "/dev/null")
    script = [f"systemctl disable {name} || true" for name in DISABLED]
    script += [f"systemctl enable {name}" for name in ENABLED]
    script += ["rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log"]
    in_root(target, "\n".join(script), log)
    write(target / "etc/machine-id", "")
    link(target / "var/lib/dbus/machine-id", "/etc/machine-id")
    write(target / "etc/hostname", "localhost\n")
    write(target / "etc/resolv.conf", "")
    # Else systemd finds /usr newer than what was made of it, and makes it again at every start.
    seconds = (target / "usr").stat().st_mtime
    for stamp in ("etc/.updated", "var/.updated"):
        write(target / stamp, "")
        os.utime(target / stamp, (seconds, seconds))


def write(path: Path, content: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)


def link(path: Path, destination: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(destination)


def main(
    arguments: list[str], module: str, is_done: Callable[[], bool], install: Callable[[], object]
) -> int:
    """The command line of a module that keeps an image."""
    if arguments == ["is-done"]:
        return 0 if is_done() else 1
    if arguments == ["install"]:
        try:
            install()
        except LabError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    print(f"usage: python -m {module} is-done|install", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "lab.image", is_done, install))
