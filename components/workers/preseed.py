"""Debian's installer: what it is booted with, and by preseed the answers to what it would ask.

The questions are those of debian-installer's manual, appendix B.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.workers import sources

FINISH_SCRIPT = Path(__file__).parent / "on_node" / "install-finish.sh"
# What Debian's cloud images have beside the base system; what these recommend, libraries of a
# desktop among it, is a third of what there would be to install.
PACKAGES = ("apparmor", "ca-certificates", "cloud-init", "curl", "dbus", "libpam-systemd",
            "netplan.io", "openssh-server", "sudo", "systemd-resolved")  # fmt: skip
# No swap, which a kubelet refuses. A machine with UEFI has no use for the first, others for the
# second. Sizes in MB: least, priority, most.
PARTITIONS = (
    "node :: "
    "1 1 1 free $iflabel{ gpt } method{ biosgrub } . "
    "512 512 512 free $iflabel{ gpt } method{ efi } format{ } . "
    "2000 2000 -1 ext4 method{ format } format{ } use_filesystem{ } filesystem{ ext4 } "
    "mountpoint{ / } ."
)
# What the installer's shell knows of where it was told all this: the folder of preseed.cfg.
SEED = "seed=$(sed -n 's/.* url=\\([^ ]*\\)preseed.cfg .*/\\1/p' /proc/cmdline)"
ANSWERS = {
    # Without the package of all others; cloud-init sets C.UTF-8. Of this one's country, which says
    # nothing here, the installer would ask.
    "debian-installer/language": "string C",
    "debian-installer/country": "string US",
    "debian-installer/locale": "string C",
    "keyboard-configuration/xkb-keymap": "select us",
    # The new system's network is the seed's.
    "netcfg/target_network_config": "select loopback",
    "clock-setup/utc": "boolean true",
    "time/zone": "string Etc/UTC",
    # Nobody logs in but by the seed's keys.
    "passwd/make-user": "boolean false",
    "passwd/root-password-crypted": "password *",
    "partman-auto/method": "string regular",
    "partman-auto/expert_recipe": f"string {PARTITIONS}",
    "partman-auto/choose_recipe": "select node",
    "partman-partitioning/default_label": "string gpt",
    "partman-partitioning/confirm_write_new_label": "boolean true",
    "partman-efi/non_efi_system": "boolean true",
    "partman-basicfilesystems/no_swap": "boolean false",
    "partman/choose_partition": "select finish",
    "partman/confirm": "boolean true",
    "partman/confirm_nooverwrite": "boolean true",
    "base-installer/install-recommends": "boolean false",
    "apt-setup/enable-source-repositories": "boolean false",
    "apt-setup/non-free-firmware": "boolean true",
    "pkgsel/run_tasksel": "boolean false",
    "pkgsel/include": f"string {' '.join(PACKAGES)}",
    "pkgsel/upgrade": "select full-upgrade",
    "pkgsel/update-policy": "select none",
    # install-finish.sh installs a boot loader, after all else.
    "grub-installer/skip": "boolean true",
    "systemd-boot-installer/skip": "boolean true",
    "nobootloader/confirmation_common": "note",
    "finish-install/reboot_in_progress": "note",
}


def boot_words(node: str, mac: str, seed: str, dns_servers: Sequence[str]) -> str:
    """The kernel's command line. `seed` is the URL of the folder of preseed.cfg.

    Those are the questions that come before it; of names' servers the first will do, and DHCP's
    are taken before it.
    """
    card = f"01-{mac.replace(':', '-')}"
    return (
        f"auto=true priority=critical url={seed}preseed.cfg BOOTIF={card} interface=auto "
        f"hostname={node} domain= netcfg/get_nameservers={''.join(dns_servers[:1])} ---"
    )


def preseed(disk: str, identity: str, user_data: Mapping[str, Any]) -> str:
    """preseed.cfg. Debian comes from where the node's own user-data has it from, by its proxy."""
    guard = running("install-guard", shlex.join([disk, identity]))
    # Whatever a command ends with, the installer goes on after a dialog: to the disk.
    guard = f"modprobe -q ext4; {guard} || while :; do sleep 3600; done"
    answers = {
        **mirror(user_data),
        **ANSWERS,
        "partman/early_command": f"string {guard}",
        "preseed/late_command": "string " + running("install-finish", '"$seed"'),
    }
    return "".join(f"d-i {question} {answer}\n" for question, answer in answers.items())


def running(program: str, arguments: str) -> str:
    """A command for the installer's shell: a program that lies beside preseed.cfg."""
    return f'{SEED}; fetch-url "${{seed}}{program}" /tmp/{program} && sh /tmp/{program} {arguments}'


def mirror(user_data: Mapping[str, Any]) -> dict[str, str]:
    """Debian's mirror; security updates are at `/debian-security` of their own host, or of none
    where a mirror is given alone."""
    debian = sources.debian(user_data)
    url = urlsplit(debian.mirror)
    answers = {
        "mirror/country": "string manual",
        "mirror/protocol": f"string {url.scheme}",
        f"mirror/{url.scheme}/hostname": f"string {url.netloc}",
        f"mirror/{url.scheme}/directory": f"string {url.path or '/'}",
        f"mirror/{url.scheme}/proxy": f"string {debian.proxy}",
    }
    if debian.security is None:
        return answers | {"apt-setup/services-select": "multiselect updates"}
    return answers | {"apt-setup/security_host": f"string {urlsplit(debian.security).netloc}"}
