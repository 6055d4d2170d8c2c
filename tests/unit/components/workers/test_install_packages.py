"""install-packages.sh under dash, with a package manager that is stood in; and under the lab's
bare Debian, by chroot, with a repository that is served on this machine.
"""

from __future__ import annotations

import functools
import http.server
import os
import shlex
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.workers.cloud_init import INSTALL_SCRIPT, PACKAGES_KEYRING
from lab import image, plain_image
from tools.pins import KUBERNETES_VERSION


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
            "REPOSITORY=https://pkgs.k8s.io/core:/stable:/v1.34/deb/\nSUITE=/\n"
            "KEY_FINGERPRINT=\nKUBERNETES_VERSION=1.34.2\nSYSTEMD_CGROUP=true\n"
            "PACKAGES='containerd more'\nSANDBOX_IMAGE=registry.k8s.io/pause:3.10.1\n"
        )
        self.calls.write_text("")
        self.tool(
            "dpkg-query",
            f"case $* in *Conffiles*) exec /usr/bin/dpkg-query --admindir="
            f'{image.root()}/var/lib/dpkg "$@" ;; esac; '
            f"for last; do :; done; [ -f {self.installed}/$last ] || exit 1; "
            f'echo "installed $(cat {self.installed}/$last)"',
        )
        self.tool(
            "apt-get",
            f'echo "$*" >>{self.calls}\n'
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


# What `containerd config default` prints of release 1 and of release 2, in part; and as Debian 13
# has the first, where no pod started: it has another place for plugins.
DEFAULTS = {
    "1 of Debian 13": """\
    sandbox_image = "registry.k8s.io/pause:3.6"
      bin_dir = "/usr/lib/cni"
            SystemdCgroup = false
      config_path = ""
""",
    "1": """\
    sandbox_image = "registry.k8s.io/pause:3.6"
      bin_dir = "/opt/cni/bin"
            SystemdCgroup = false
      config_path = ""
""",
    "2": """\
      bin_dirs = ['/opt/cni/bin']
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
    assert "/opt/cni/bin" in written and "/usr/lib/cni" not in written
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


# --- the real apt ---------------------------------------------------------------------------

IN_BARE_DEBIAN = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount --rbind /dev "$2/root/dev"
exec chroot "$2/root" dash /install-packages
"""
NOBODY = "http://127.0.0.1:9/"


class Bare:
    """The lab's bare Debian with what a seed brings; `served` has Debian's packages and ours."""

    def __init__(self, folder: Path, served: str) -> None:
        self.folder, self.disk = folder, folder / "upper"
        self.environment = {
            **{"REPOSITORY": f"{served}kubernetes/", "SUITE": "/", "KEY_FINGERPRINT": ""},
            **{"KUBERNETES_VERSION": KUBERNETES_VERSION, "PACKAGES": "containerd"},
            **{"SANDBOX_IMAGE": "pause:1", "SYSTEMD_CGROUP": "false"},
        }
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(mode=0o755)
        self.write("install-packages", INSTALL_SCRIPT.read_text())
        self.write("usr/local/sbin/systemctl", "#!/bin/sh\n")  # there is no systemd to ask
        (self.disk / "usr/local/sbin/systemctl").chmod(0o755)
        self.write(PACKAGES_KEYRING, released_key("kubernetes"))
        self.write("etc/apt/keyrings/debian.asc", released_key("debian"))
        self.debian(f"{served}debian")

    def write(self, path: str, content: str) -> None:
        image.write(self.disk / path.lstrip("/"), content)

    def debian(self, address: str) -> None:
        """As people's mirrors are told of: in deb822."""
        fields = (
            f"Types: deb\nURIs: {address}\nSuites: ./\nSigned-By: /etc/apt/keyrings/debian.asc\n"
        )
        self.write("etc/apt/sources.list.d/debian.sources", fields)

    def run(self) -> subprocess.CompletedProcess[str]:
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.environment.items()]
        self.write("etc/autojoin/install-packages.env", "".join(lines))
        command = ["sh", "-euc", IN_BARE_DEBIAN, "sh", str(plain_image.root()), str(self.folder)]
        return subprocess.run([*image.ALONE, *command], capture_output=True, text=True)


def released_key(repository: str) -> str:
    return (plain_image.packages() / repository / "Release.key").read_text()


def fingerprint(folder: Path, key: str) -> str:
    show = ["gpg", "--homedir", str(folder), "--with-colons", "--show-keys"]
    lines = subprocess.run(show, input=key, check=True, capture_output=True, text=True).stdout
    return next(line.split(":")[9] for line in lines.splitlines() if line.startswith("fpr:"))


def other_key(folder: Path) -> str:
    gpg = ["gpg", "--homedir", str(folder), "--batch", "--passphrase", ""]
    new = [*gpg, "--quick-generate-key", "other", "ed25519", "sign", "never"]
    subprocess.run([*image.ALONE, *new], check=True, capture_output=True)
    export = [*gpg, "--armor", "--export"]
    return subprocess.run(export, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of the repositories, whose files are links that a test may replace."""
    for name in ("debian", "kubernetes"):
        (tmp_path / "served" / name).mkdir(parents=True)
        for file in (plain_image.packages() / name).iterdir():
            (tmp_path / "served" / name / file.name).symlink_to(file)
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def bare(tmp_path: Path, served: str) -> Bare:
    (tmp_path / "gnupg").mkdir(mode=0o700)
    (tmp_path / "machine").mkdir()
    return Bare(tmp_path / "machine", served)


def test_a_bare_debian_gets_its_packages_from_a_mirror(bare: Bare, tmp_path: Path) -> None:
    key = released_key("kubernetes")
    bare.environment["KEY_FINGERPRINT"] = fingerprint(tmp_path / "gnupg", key)
    bare.write(PACKAGES_KEYRING, "")
    done = bare.run()
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("containerd", "kubelet", "kubectl"):
        assert (bare.disk / "usr/bin" / name).stat().st_size > 0
    states = (bare.disk / "var/lib/dpkg/status").read_text().split("\n\n")
    held = {state.split("\n")[0] for state in states if "\nStatus: hold ok installed" in state}
    assert held == {"Package: kubelet", "Package: kubectl"}
    assert "SystemdCgroup = false" in (bare.disk / "etc/containerd/config.toml").read_text()
    bare.debian(NOBODY)
    assert bare.run().returncode == 0  # nothing is asked for again


def test_packages_come_also_after_a_power_cut_while_some_were_installed(bare: Bare) -> None:
    """apt refuses to go on from what dpkg had begun; any plain machine may be cut off there."""
    known = (plain_image.root() / "var/lib/dpkg/status").read_text().split("\n\n")
    begun = next(each for each in known if each.startswith("Package: netbase\n"))
    bare.write("var/lib/dpkg/updates/0001", f"{begun}\n")
    done = bare.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dpkg was interrupted" in done.stdout + done.stderr


def is_silent(bare: Bare, folder: Path) -> str:
    bare.environment["REPOSITORY"] = NOBODY
    return "Could not connect to 127.0.0.1:9"


def is_elsewhere(bare: Bare, folder: Path) -> str:
    bare.environment["REPOSITORY"] += "other/"
    return "other  Release' does not have a Release file."


def is_signed_by_another_key(bare: Bare, folder: Path) -> str:
    bare.write(PACKAGES_KEYRING, other_key(folder / "gnupg"))
    return "the public key is not available"


def has_another_key(bare: Bare, folder: Path) -> str:
    bare.environment["KEY_FINGERPRINT"] = "F" * 40
    return f"not {'F' * 40}; nothing of it is installed"


def has_another_key_beside_its_own(bare: Bare, folder: Path) -> str:
    key = released_key("kubernetes")
    bare.environment["KEY_FINGERPRINT"] = fingerprint(folder / "gnupg", key)
    file = folder / "served/kubernetes/Release.key"
    file.unlink()
    file.write_text(key + other_key(folder / "gnupg"))
    return "nothing of it is installed"


def has_no_key(bare: Bare, folder: Path) -> str:
    bare.environment["KEY_FINGERPRINT"] = "F" * 40
    (folder / "served/kubernetes/Release.key").unlink()
    return "404"


def has_another_version(bare: Bare, folder: Path) -> str:
    bare.environment["KUBERNETES_VERSION"] = "1.33.1"
    return "Version '1.33.1-*' for 'kubelet' was not found"


def is_well_and_debians_is_silent(bare: Bare, folder: Path) -> str:
    bare.debian(NOBODY)
    return "Could not connect to 127.0.0.1:9"


@pytest.mark.parametrize(
    "wrong",
    [
        *(is_silent, is_elsewhere, is_signed_by_another_key, has_another_key),
        *(has_another_key_beside_its_own, has_no_key, has_another_version),
        is_well_and_debians_is_silent,
    ],
)
def test_the_last_line_tells_what_is_wrong_with_a_repository_that(
    wrong: Callable[[Bare, Path], str], bare: Bare, tmp_path: Path
) -> None:
    said = wrong(bare, tmp_path)
    done = bare.run()
    assert done.returncode == 1
    assert said in done.stdout.splitlines()[-1], done.stdout
    assert not (bare.disk / "usr/bin/kubelet").exists()
