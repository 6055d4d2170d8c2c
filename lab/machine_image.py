"""The disk that the lab's virtual machines start from: a Debian with a kernel and firmware to boot.

`python -m lab.machine_image is-done` (exit status 0 or 1), `python -m lab.machine_image install`.
It is what a person makes of Debian's `generic` cloud image as a template: its packages as Debian
sets them up, container runtime and kubelet in it, nothing of the lab's. Its kernel is that image's
too: the one of `genericcloud` has no driver for the disc that bhyve shows a guest.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import time
from pathlib import Path

from lab import image, registry
from tools import pins
from tools.pins import GO_TOOLS, Layout

COMMANDS = ("mkfs.ext4", "mkfs.fat", "mcopy", "sfdisk", "tar")
PACKAGES = (
    *("ca-certificates", "cloud-guest-utils", "cloud-init", "containerd", "curl", "dbus"),
    *("e2fsprogs", "fdisk", "initramfs-tools", "iproute2", "iptables", "kmod"),
    *("linux-image-amd64", "netbase", "netplan.io", "openssh-server", "openssl", "procps"),
    *("systemd-boot-efi", "systemd-resolved", "systemd-sysv", "udev", "zstd"),
)
# Both keepers of control groups must be the same one, and mirrors are looked up where seeds put
# them: as install-packages.sh sets containerd up on a plain image.
TEMPLATE = """\
apt-get -q update
apt-get -q -y install --no-install-recommends {packages}
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/*.log /etc/ssh/ssh_host_*
file=/etc/containerd/config.toml
containerd config default | sed \\
    -e 's/SystemdCgroup = false/SystemdCgroup = true/' \\
    -e 's#config_path = ""#config_path = "/etc/containerd/certs.d"#' \\
    -e 's#^\\( *sandbox_image =\\) .*#\\1 "registry.k8s.io/pause:3.10.1"#' >"$file"
systemctl enable systemd-networkd systemd-resolved containerd ssh
"""
# The root is last, so that it can grow, as in Debian's images.
MEBIBYTE = 1 << 20
EFI_START, ROOT_START, END = 1, 129, 2561
PARTITIONS = f"""\
label: gpt
start={EFI_START}MiB, size={ROOT_START - EFI_START}MiB, type=uefi
start={ROOT_START}MiB, size={END - ROOT_START - 1}MiB, type=linux
"""
# `norandmaps` is lab.machine.FIXED_ADDRESSES.
LOADER = {
    "loader/loader.conf": "timeout 0\n",
    "loader/entries/debian.conf": (
        "title Debian\nlinux /vmlinuz\ninitrd /initrd.img\n"
        "options root=LABEL=root rw console=ttyS0 norandmaps\n"
    ),
}


def kubelet() -> Path:
    return Layout().tool(next(tool for tool in GO_TOOLS if tool.name == "kubelet"))


def folder() -> Path:
    steps = [inspect.getsource(step) for step in (fill_root, settle, write_disk)]
    lists = repr((PACKAGES, TEMPLATE, PARTITIONS, LOADER))
    key = pins.digest(registry.base_archive().name, lists, str(kubelet()), *steps)
    return pins.cache() / f"machine-image-{key}"


def disk() -> Path:
    """The disk, raw and sparse; whole where it exists."""
    return folder() / "disk.img"


def is_done() -> bool:
    return disk().exists()


def install() -> None:
    """Build the disk unless it is there; LabError has the end of the log."""
    image.require(COMMANDS)
    with image.only_builder():
        if is_done():
            return
        started = time.monotonic()
        with image.built("machine-image", folder()) as (building, log):
            target = building / "root"
            target.mkdir()
            fill_root(target, log)
            settle(target)
            write_disk(building, log)
            image.remove_tree(target)
        print(f"machine image: done in {time.monotonic() - started:.0f} s", flush=True)


def fill_root(target: Path, log: Path) -> None:
    registry.unpack_base(target, log)
    image.in_root(target, TEMPLATE.format(packages=" ".join(PACKAGES)), log)
    shutil.copyfile(kubelet(), target / "usr/bin/kubelet")
    (target / "usr/bin/kubelet").chmod(0o755)


def settle(target: Path) -> None:
    """Every machine its own, as cloud images are."""
    (target / "usr/sbin/policy-rc.d").unlink()
    (target / "etc/dpkg/dpkg.cfg.d/lab").unlink()
    image.write(target / "etc/machine-id", "")
    image.link(target / "var/lib/dbus/machine-id", "/etc/machine-id")
    image.link(target / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    image.write(target / "etc/hostname", "localhost\n")
    image.write(target / "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    image.write(target / "etc/fstab", "LABEL=root / ext4 defaults,errors=remount-ro 0 1\n")


def write_disk(building: Path, log: Path) -> None:
    """disk.img of the folder `root`: a partition that the firmware boots from, and the root."""
    target, root = building / "disk.img", building / "root"
    with target.open("wb") as file:
        os.truncate(file.fileno(), END * MEBIBYTE)
    table = ["sh", "-euc", 'printf %s "$1" | sfdisk "$2"', "sh", PARTITIONS, str(target)]
    image.logged(table, log)
    efi = f"{target}@@{EFI_START}M"
    size = (ROOT_START - EFI_START) * 1024
    start = f"--offset={EFI_START * MEBIBYTE // 512}"
    image.logged(["mkfs.fat", "-F", "16", start, str(target), str(size)], log)
    for name in ("EFI", "EFI/BOOT", "loader", "loader/entries"):
        image.logged(["mmd", "-i", efi, f"::{name}"], log)
    loader = root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    files = {"EFI/BOOT/BOOTX64.EFI": loader}
    files |= {name: (root / name).resolve() for name in ("vmlinuz", "initrd.img")}
    for name, text in LOADER.items():
        files[name] = building / Path(name).name
        files[name].write_text(text)
    for name, source in files.items():
        image.logged(["mcopy", "-i", efi, str(source), f"::{name}"], log)
    where = f"offset={ROOT_START * MEBIBYTE}"
    size = (END - ROOT_START - 1) * 1024
    command = ["mkfs.ext4", "-q", "-F", "-L", "root", "-d", str(root), "-E", where]
    image.logged([*command, str(target), f"{size}k"], log)


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.machine_image", is_done, install))
