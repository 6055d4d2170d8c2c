"""What the lab's plain workers start from and install: a bare Debian, and two apt repositories.

`python -m lab.plain_image is-done` (exit status 0 or 1) and `python -m lab.plain_image install`.
Debian's packages are its own; kubelet and kubectl are packed here, of what is built here: those of
the minor release before too, where they are (tool set `edits`). Both repositories are signed with
a key that nobody has any more.
"""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path

import yaml

from lab import image, registry
from tools import pins
from tools.pins import (
    GO_TOOLS,
    KUBERNETES_VERSION,
    PREVIOUS_KUBERNETES_VERSION,
    PREVIOUS_TOOLS,
    Layout,
)

# What of Debian's cloud images a node's start needs: no runtime, no kubelet, and no gpg.
BARE = (
    *("ca-certificates", "cloud-init", "curl", "dbus", "iproute2", "kmod", "netbase", "openssl"),
    *("procps", "systemd-sysv", "udev"),
)
# What is installed of Debian, beside what it stands on.
DEBIANS = ("containerd", "gpg", "iptables")
# What is packed, and what the published packages of it stand on; the CNI plugins are Cilium's here.
PACKED = {"kubelet": "iptables (>= 1.4.21), iproute2, mount, util-linux", "kubectl": ""}
UNIT = "[Unit]\nDescription=The package's own\n[Service]\nExecStart=/usr/bin/kubelet\n"
DOWNLOAD = """\
apt-get -q update
apt-get -q -y install --no-install-recommends {bare}
apt-get clean
apt-get -q -y install --no-install-recommends --download-only {debians}
rm -rf /etc/apt/sources.list
"""
# $1 the folder of both repositories.
SIGN = """\
export GNUPGHOME="$1/.gnupg"
mkdir -m 700 "$GNUPGHOME"
gpg --batch --passphrase '' --quick-generate-key lab ed25519 sign never
for repository in debian kubernetes; do
    cd "$1/$repository"
    apt-ftparchive packages . >Packages
    apt-ftparchive release . >../Release
    mv ../Release Release
    gpg --batch --clearsign --output InRelease Release
    gpg --armor --export >Release.key
done
rm -r "$GNUPGHOME"
"""


def binaries() -> list[tuple[str, str, Path]]:
    """Of each package its name, its version, and the program in it."""
    tools = [(KUBERNETES_VERSION, tool) for tool in GO_TOOLS if tool.name in PACKED]
    there = [tool for tool in PREVIOUS_TOOLS if Layout().tool(tool).exists()]
    tools += [(PREVIOUS_KUBERNETES_VERSION, tool) for tool in there]
    return [(tool.name.removesuffix("-previous"), it, Layout().tool(tool)) for it, tool in tools]


def folder() -> Path:
    steps = [inspect.getsource(step) for step in (build, pack, image.settle)]
    lists = repr((BARE, DEBIANS, PACKED, UNIT, DOWNLOAD, SIGN, image.MASKED))
    key = pins.digest(registry.base_archive().name, lists, str(binaries()), *steps)
    return pins.cache() / f"plain-image-{key}"


def root() -> Path:
    """The image's root folder; whole where it exists."""
    return folder() / "root"


def packages() -> Path:
    """The folder of the repositories `debian` and `kubernetes`."""
    return folder() / "packages"


def is_done() -> bool:
    return root().is_dir()


def install() -> None:
    """Build image and repositories unless they are there; LabError has the end of the log."""
    image.require(("apt-ftparchive", "dpkg-deb", "gpg", "tar"))
    with image.only_builder():
        if is_done():
            return
        with image.built("plain-image", folder()) as (building, log):
            build(building, log)


def build(building: Path, log: Path) -> None:
    target, repositories = building / "root", building / "packages"
    for path in (target, repositories / "debian", repositories / "kubernetes"):
        path.mkdir(parents=True)
    registry.unpack_base(target, log)
    image.in_root(target, DOWNLOAD.format(bare=" ".join(BARE), debians=" ".join(DEBIANS)), log)
    for file in (target / "var/cache/apt/archives").glob("*.deb"):
        shutil.move(file, repositories / "debian")
    image.settle(target, log)
    keep_debians_modules(target)
    for name, version, binary in binaries():
        tree = building / f"{name}-{version}"
        pack(name, version, binary, tree, log)
        shutil.move(f"{tree}.deb", repositories / "kubernetes")
    image.logged(["sh", "-euc", SIGN, "sh", str(repositories)], log)


def keep_debians_modules(target: Path) -> None:
    """Of the lab's settings of cloud-init, those that its machines can't be without."""
    file = target / "etc/cloud/cloud.cfg.d/90-lab.cfg"
    settings = yaml.safe_load(file.read_text())
    needed = {name: settings[name] for name in ("datasource_list", "system_info")}
    file.write_text(yaml.safe_dump(needed))


def pack(name: str, version: str, binary: Path, tree: Path, log: Path) -> None:
    """TREE.deb of a binary, as pkgs.k8s.io has it."""
    fields = {
        "Package": name,
        "Version": f"{version}-1.1",
        "Architecture": pins.ARCHITECTURE,
        "Depends": PACKED[name],
        "Maintainer": "the lab",
        "Description": f"{name}, as it is built here",
    }
    control = "".join(f"{field}: {value}\n" for field, value in fields.items() if value)
    image.write(tree / "DEBIAN/control", control)
    image.write(tree / "usr/bin" / name, "")
    shutil.copyfile(binary, tree / "usr/bin" / name)
    (tree / "usr/bin" / name).chmod(0o755)
    if name == "kubelet":
        image.write(tree / "usr/lib/systemd/system/kubelet.service", UNIT)
    image.logged(["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree)], log)
    shutil.rmtree(tree)


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.plain_image", is_done, install))
