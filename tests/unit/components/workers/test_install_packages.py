"""install-packages.sh under dash, with a package manager that is stood in."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from components.workers.cloud_init import INSTALL_SCRIPT, PACKAGES_KEY
from lab import image

FINGERPRINT_LINES = (
    "pub:-:2048:1:234654DA9A296436:1661356832:::-:::scSC::::::23::0:\nfpr:::::::::{}:\n"
)


class System:
    """A root folder and tools: `installed` holds what dpkg knows, `calls` what was asked of apt."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.tools = folder / "tools"
        self.calls = folder / "calls"
        self.installed = folder / "installed"
        for path in (self.tools, self.installed, self.root / "etc/apt/sources.list.d"):
            path.mkdir(parents=True)
        (self.root / "etc/autojoin").mkdir()
        (self.root / "etc/autojoin/install-packages.env").write_text(
            "REPOSITORY=https://pkgs.k8s.io/core:/stable:/v1.34/deb/\n"
            f"KEY_FINGERPRINT={PACKAGES_KEY}\nKUBERNETES_VERSION=1.34.2\n"
            "PACKAGES='containerd more'\nSANDBOX_IMAGE=registry.k8s.io/pause:3.10.1\n"
        )
        self.calls.write_text("")
        self.fingerprint(PACKAGES_KEY)
        self.tool("curl", 'while [ "$1" != --output ]; do shift; done; echo key >"$2"')
        self.tool(
            "dpkg-query",
            f"case $* in *Conffiles*) exec /usr/bin/dpkg-query --admindir="
            f'{image.root()}/var/lib/dpkg "$@" ;; esac; '
            f"for last; do :; done; [ -f {self.installed}/$last ] || exit 1; "
            f'echo "installed $(cat {self.installed}/$last)"',
        )
        self.tool(
            "apt-get",
            f'echo "$*" >>{self.calls}\n[ ! -e {folder}/offline ] || exit 100\n'
            "for word; do case $word in kubelet=*|kubectl=*) "
            f"echo 1.34.2-1.1 >{self.installed}/${{word%%=*}} ;; "
            f"containerd|more) echo 1.7 >{self.installed}/$word ;; esac; done",
        )
        self.tool("apt-mark", f'echo "mark $*" >>{self.calls}')
        self.tool("containerd", f'exec {image.root()}/usr/bin/containerd "$@"')
        self.tool("systemctl", f'echo "systemctl $*" >>{self.calls}')

    def tool(self, name: str, action: str) -> None:
        (self.tools / name).write_text(f"#!/bin/sh\n{action}\n")
        (self.tools / name).chmod(0o755)

    def fingerprint(self, value: str) -> None:
        self.tool("gpg", f"printf '%s' '{FINGERPRINT_LINES.format(value)}'")

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}"}
        environment["AUTOJOIN_ROOT"] = str(self.root)
        return subprocess.run(
            ["dash", str(INSTALL_SCRIPT)], env=environment, capture_output=True, text=True
        )


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_installs_the_configured_version_and_holds_it(system: System) -> None:
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    calls = system.calls.read_text()
    assert "containerd more kubelet=1.34.2-* kubectl=1.34.2-*" in calls
    assert "mark hold kubelet kubectl" in calls
    source = (system.root / "etc/apt/sources.list.d/kubernetes.list").read_text()
    assert source == (
        "deb [signed-by=/etc/apt/keyrings/kubernetes.asc] "
        "https://pkgs.k8s.io/core:/stable:/v1.34/deb/ /\n"
    )
    assert containerd(system) == ("/opt/cni/bin", True)


def test_what_is_there_is_left_alone(system: System) -> None:
    assert system.run().returncode == 0
    system.calls.write_text("")
    assert system.run().returncode == 0
    assert system.calls.read_text() == "mark hold kubelet kubectl\n"


# What `containerd config default` prints of release 1 and of release 2, in part.
DEFAULTS = {
    "1": """\
    sandbox_image = "registry.k8s.io/pause:3.6"
      bin_dir = "/opt/cni/bin"
            SystemdCgroup = false
      config_path = ""
""",
    "2": """\
      sandbox = 'registry.k8s.io/pause:3.10'
          sandboxer = 'podsandbox'
            SystemdCgroup = false
      config_path = ''
""",
}


@pytest.mark.parametrize("release", sorted(DEFAULTS))
def test_containerd_is_told_where_images_come_from(system: System, release: str) -> None:
    system.tool("containerd", f"cat <<'END'\n{DEFAULTS[release]}END")
    assert system.run().returncode == 0
    written = (system.root / "etc/containerd/config.toml").read_text()
    assert "SystemdCgroup = true" in written
    assert 'config_path = "/etc/containerd/certs.d"' in written
    image = '"registry.k8s.io/pause:3.10.1"'
    assert f"sandbox_image = {image}" in written or f"sandbox = {image}" in written
    assert ("sandboxer = 'podsandbox'" in written) == (release == "2")


def test_a_configuration_that_somebody_wrote_stays(system: System) -> None:
    file = system.root / "etc/containerd/config.toml"
    file.parent.mkdir()
    file.write_text("version = 2\n")
    assert system.run().returncode == 0
    assert file.read_text() == "version = 2\n"


def test_a_longer_version_is_another(system: System) -> None:
    for name in ("containerd", "more"):
        (system.installed / name).write_text("1.7\n")
    for name in ("kubelet", "kubectl"):
        (system.installed / name).write_text("1.34.20-1.1\n")
    assert system.run().returncode == 0
    assert "kubelet=1.34.2-*" in system.calls.read_text()


def test_another_signing_key_installs_nothing(system: System) -> None:
    system.fingerprint("F" * 40)
    done = system.run()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(f"not {PACKAGES_KEY}; nothing of it is installed")
    assert "kubelet" not in system.calls.read_text()
    assert not (system.root / "etc/apt/sources.list.d/kubernetes.list").exists()


def test_no_network_is_named_and_the_next_run_goes_on(system: System, tmp_path: Path) -> None:
    (tmp_path / "offline").touch()
    done = system.run()
    assert done.returncode == 1
    assert "apt-get update failed" in done.stdout
    (tmp_path / "offline").unlink()
    assert system.run().returncode == 0


def test_a_key_that_can_not_be_fetched_is_named(system: System) -> None:
    system.tool("curl", "echo 'curl: (6) Could not resolve host' >&2; exit 6")
    done = system.run()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("can't be fetched; check the node's DNS and route")


def containerd(system: System) -> tuple[str, bool]:
    """Where its configuration looks for plugins, and whether systemd keeps control groups."""
    text = (system.root / "etc/containerd/config.toml").read_text()
    cri = tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]
    runtime = cri["containerd"]["runtimes"]["runc"]["options"]
    return cri["cni"]["bin_dir"], runtime["SystemdCgroup"]


def test_debians_own_configuration_of_containerd_gives_way(system: System) -> None:
    """Debian's package, its file as it came: the lab's image has both."""
    file = system.root / "etc/containerd/config.toml"
    file.parent.mkdir()
    file.write_bytes((image.root() / "etc/containerd/config.toml").read_bytes())
    assert 'bin_dir = "/usr/lib/cni"' in file.read_text()
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert containerd(system) == ("/opt/cni/bin", True)
    assert "systemctl restart containerd.service" in system.calls.read_text()
    system.calls.write_text("")
    assert system.run().returncode == 0
    assert "restart" not in system.calls.read_text()


def test_a_persons_configuration_of_containerd_is_left(system: System) -> None:
    file = system.root / "etc/containerd/config.toml"
    file.parent.mkdir()
    file.write_text("# mine\nversion = 2\n")
    assert system.run().returncode == 0
    assert file.read_text() == "# mine\nversion = 2\n"
