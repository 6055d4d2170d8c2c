"""The pinned tools of the lab, as data, and where each of them lies once it is made.

Go tools share one module, tools/go/shared: with one version of each library, Go compiles a
package that several tools import once. A tool has a module of its own only where it can't be
built with the others' versions.
Standard library only: this runs before there is a virtual environment.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = Path(__file__).resolve().parent / "go"

KUBERNETES_VERSION = "1.34.2"
# Of the minor release before, from which nodes are brought to the other one.
PREVIOUS_KUBERNETES_VERSION = "1.33.13"
CILIUM_VERSION = "1.18.4"
PULUMI_VERSION = "3.276.0"
PULUMI_KUBERNETES_VERSION = "4.25.0"
COREDNS_VERSION = "1.13.1"

_KUBERNETES_FLAGS = f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION}"


@dataclass(frozen=True)
class Edit:
    """A line of a file, which must be there exactly once, and what stands there `instead`."""

    file: str
    line: str
    instead: str = ""


@dataclass(frozen=True)
class Patch:
    """What is changed in a copy of a module from which a tool is then built.

    Each of `copied` is a file and the name under which it must lie too.
    """

    module: str
    edits: tuple[Edit, ...]
    copied: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GoTool:
    """One binary built from the module in tools/go/`module`.

    `version` is what `version_arguments` must print for a binary that is already on PATH to be
    taken instead; tools whose print-out does not tell their version are always built.
    `system` and `architecture` are Go's names of others than this machine's; the tool's name tells
    them too.
    """

    name: str
    module: str
    package: str
    linker_flags: str = ""
    tags: str = ""
    version: str = ""
    version_arguments: tuple[str, ...] = ()
    patch: Patch | None = None
    # No part of the keys of what is built. `test`: it is the package's tests, as a program.
    test: bool = field(default=False, repr=False)
    system: str = field(default="", repr=False)
    architecture: str = field(default="", repr=False)

    @property
    def command(self) -> str:
        """Its name on PATH."""
        return self.name.removesuffix(f"-{self.system}-{self.architecture}")


@dataclass(frozen=True)
class GoFile:
    """A file or folder taken as it is from a module's source."""

    name: str
    module: str
    source_module: str
    path: str
    executable: bool = False

    @property
    def command(self) -> str:
        """Its name on PATH."""
        return self.name


def _kubernetes(name: str) -> GoTool:
    return GoTool(
        name,
        "shared",
        f"k8s.io/kubernetes/cmd/{name}",
        linker_flags=_KUBERNETES_FLAGS,
        version=f"v{KUBERNETES_VERSION}",
        version_arguments=("version", "--client") if name == "kubectl" else ("--version",),
    )


CFSSL_VERSION = "1.6.5"
CFSSL_PLATFORMS = (
    ("linux", "amd64"),
    ("linux", "arm64"),
    ("illumos", "amd64"),
    ("freebsd", "amd64"),
    ("openbsd", "amd64"),
    ("netbsd", "amd64"),
)


def cfssl(system: str, architecture: str) -> GoTool:
    """The CFSSL that is brought to CA hosts of one platform, by Go's names of it."""
    flags = f"-X github.com/cloudflare/cfssl/cli/version.version={CFSSL_VERSION}"
    name = f"cfssl-{system}-{architecture}"
    return GoTool(name, "cfssl", ".", flags, system=system, architecture=architecture)


_PULUMI_KUBERNETES = "github.com/pulumi/pulumi-kubernetes/provider/v4"
_PULUMI_KUBERNETES_MAIN = "cmd/pulumi-resource-kubernetes"

# Four component kinds, which nothing here uses, bring the whole Go SDK in: 64 packages of types,
# most of what there would be to compile.
_COMPONENTS = tuple(
    Edit("pkg/provider/provider_construct.go", line)
    for line in (
        f'\tproviderhelmv4 "{_PULUMI_KUBERNETES}/pkg/provider/helm/v4"',
        f'\tproviderkustomizev2 "{_PULUMI_KUBERNETES}/pkg/provider/kustomize/v2"',
        f'\tprovideryamlv2 "{_PULUMI_KUBERNETES}/pkg/provider/yaml/v2"',
        '\t"kubernetes:yaml/v2:ConfigFile":     provideryamlv2.NewConfigFileProvider,',
        '\t"kubernetes:yaml/v2:ConfigGroup":    provideryamlv2.NewConfigGroupProvider,',
        '\t"kubernetes:helm.sh/v4:Chart":       providerhelmv4.NewChartProvider,',
        '\t"kubernetes:kustomize/v2:Directory": providerkustomizev2.NewDirectoryProvider,',
    )
)
# The engine's release makes this field a pointer.
_PROVIDER = "\t\tProvider: {}pschema.ResourceSpec{{"
_FITTED = Patch(
    _PULUMI_KUBERNETES,
    (*_COMPONENTS, Edit("pkg/gen/schema.go", _PROVIDER.format(""), _PROVIDER.format("&"))),
    # The generator that makes the embedded files only packs them; it is not in the module.
    copied=tuple(
        (f"{_PULUMI_KUBERNETES_MAIN}/{name}.json", f"{_PULUMI_KUBERNETES_MAIN}/{name}-embed.json")
        for name in ("schema", "terraform-mapping")
    ),
)

# Built only where the release plugin can't be downloaded (tools/plugins). Never on PATH, where the
# engine would take it for an installed one.
KUBERNETES_PLUGIN = GoTool(
    "pulumi-resource-kubernetes",
    "shared",
    f"{_PULUMI_KUBERNETES}/{_PULUMI_KUBERNETES_MAIN}",
    linker_flags=f"-X {_PULUMI_KUBERNETES}/pkg/version.Version={PULUMI_KUBERNETES_VERSION}",
    patch=_FITTED,
)

# This machine's, as Go and Debian name it.
ARCHITECTURE = {"aarch64": "arm64"}.get(os.uname().machine, "amd64")
# For CA hosts of this machine's platform: the lab's, and those of the tests.
CFSSL = cfssl("linux", ARCHITECTURE)

GO_TOOLS = (
    CFSSL,
    GoTool(
        "pulumi",
        "shared",
        "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        linker_flags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version="
        f"v{PULUMI_VERSION}",
        # Not taken from PATH: a release finds its own language host beside it, which ignores ours.
    ),
    GoTool(
        "pulumi-language-python",
        "pulumi-language-python",
        "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",
    ),
    GoTool(
        "etcd",
        "shared",
        "go.etcd.io/etcd/server/v3",
        version="etcd Version: 3.6.4",
        version_arguments=("--version",),
    ),
    _kubernetes("kube-apiserver"),
    _kubernetes("kubectl"),
    _kubernetes("kubelet"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
)


def _cilium(name: str, package: str, tags: str = "", module: str = "shared") -> GoTool:
    return GoTool(
        name,
        module,
        f"github.com/cilium/cilium/{package}",
        linker_flags=f"-X github.com/cilium/cilium/pkg/version.ciliumVersion={CILIUM_VERSION}",
        tags=tags,
    )


# What the lab's container images are made of; see lab/images/.
IMAGE_TOOLS: tuple[GoTool | GoFile, ...] = (
    # The agent alone can't be built with Kubernetes' libraries of 1.34.
    _cilium("cilium-agent", "daemon", module="cilium-agent"),
    _cilium("cilium-cni", "plugins/cilium-cni"),
    _cilium("cilium-dbg", "cilium-dbg"),
    _cilium("cilium-health-responder", "cilium-health/responder"),
    _cilium("cilium-mount", "tools/mount"),
    _cilium("cilium-sysctlfix", "tools/sysctlfix"),
    _cilium("cilium-operator-generic", "operator", tags="ipam_provider_operator"),
    _cilium("hubble-relay", "hubble-relay"),
    GoTool("coredns", "coredns", "."),
    GoTool("agnhost", "shared", "k8s.io/kubernetes/test/images/agnhost"),
    GoFile("pause.c", "shared", "k8s.io/kubernetes", "build/pause/linux/pause.c"),
    GoFile("porter", "shared", "k8s.io/kubernetes", "test/images/agnhost/porter"),
    *(
        GoFile(path.rpartition("/")[2], "shared", "github.com/cilium/cilium", path, True)
        for path in (
            "images/cilium/init-container.sh",
            "plugins/cilium-cni/cni-uninstall.sh",
            "plugins/cilium-cni/install-plugin.sh",
        )
    ),
    GoFile("bpf", "shared", "github.com/cilium/cilium", "bpf"),
)

# What the benchmark is measured against, built for it alone.
BENCH_TOOLS = (
    GoTool(
        "kubeadm",
        "shared",
        "k8s.io/kubernetes/cmd/kubeadm",
        linker_flags=_KUBERNETES_FLAGS,
        version=f"v{KUBERNETES_VERSION}",
        version_arguments=("version", "--output", "short"),
    ),
)

GO_FILES = (
    GoFile(
        "pulumi-language-python-exec",
        "shared",  # the script is the same in the release of the Python SDK
        "github.com/pulumi/pulumi/sdk/v3",
        "python/cmd/pulumi-language-python-exec",
        executable=True,
    ),
    GoFile(
        "cilium-chart",
        "shared",
        "github.com/cilium/cilium",
        "install/kubernetes/cilium",
    ),
)


def _cilium_files(release: str, module: str) -> tuple[GoFile, GoFile]:
    source = "github.com/cilium/cilium"
    chart = GoFile(f"cilium-chart-{release}", module, source, "install/kubernetes/cilium")
    crds = "pkg/k8s/apis/cilium.io/client/crds"
    return chart, GoFile(f"cilium-crds-{release}", module, source, crds)


def _gateway_api(release: str) -> GoFile:
    module = f"gateway-api-{release}"
    return GoFile(f"{module}-crds", module, "sigs.k8s.io/gateway-api", "config/crd/standard")


# What the tests need besides: helm (the plugin holds the same release), charts and CRDs of every
# supported release of Cilium, the CRDs that its chart wants to find, and a BGP router.
TEST_TOOLS: tuple[GoTool | GoFile, ...] = (
    GoTool("helm", "shared", "helm.sh/helm/v3/cmd/helm"),
    GoTool("gobgpd", "shared", "github.com/osrg/gobgp/v4/cmd/gobgpd"),
    GoTool("gobgp", "shared", "github.com/osrg/gobgp/v4/cmd/gobgp"),
    *_cilium_files("1.17", "cilium-1.17"),
    *_cilium_files("1.18", "shared"),
    *_cilium_files("1.19", "cilium-1.19"),
    *_cilium_files("1.20", "cilium-1.20"),
    _gateway_api("1.2"),
    _gateway_api("1.4"),
    _gateway_api("1.6"),
    GoFile(
        "servicemonitor-crd",
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
)

ETCD = next(tool for tool in GO_TOOLS if tool.name == "etcd")

# What the images are made of that Kubernetes' conformance specs run; lab/conformance_images.py.
CONFORMANCE_IMAGE_TOOLS: tuple[GoTool | GoFile, ...] = (
    ETCD,
    # Of the image's own release: the spec gives a later one too few rights.
    GoTool("sample-apiserver", "sample-apiserver", "k8s.io/sample-apiserver"),
    GoTool("nnp", "conformance", "k8s.io/kubernetes/test/images/nonewprivs"),
    GoFile("nautilus", "conformance", "k8s.io/kubernetes", "test/images/nautilus/html"),
)

# Kubernetes' end-to-end suite and what runs it.
E2E = GoTool("e2e.test", "conformance", "k8s.io/kubernetes/test/e2e", _KUBERNETES_FLAGS, test=True)
CONFORMANCE_TOOLS: tuple[GoTool | GoFile, ...] = (
    E2E,
    GoTool("ginkgo", "conformance", "github.com/onsi/ginkgo/v2/ginkgo"),
    *CONFORMANCE_IMAGE_TOOLS[1:],
)

# What a roll-out from one minor release to the next begins with.
PREVIOUS_TOOLS = tuple(
    GoTool(
        f"{name}-previous",
        "kubernetes-previous",
        f"k8s.io/kubernetes/cmd/{name}",
        _KUBERNETES_FLAGS.replace(KUBERNETES_VERSION, PREVIOUS_KUBERNETES_VERSION),
    )
    for name in ("kubelet", "kubectl")
)

# What the lab's arm64 machines need, which stand in for Turing Pi RK1 and CM4.
ARM64_TOOLS = (
    GoTool(
        "kubelet-arm64",
        "shared",
        "k8s.io/kubernetes/cmd/kubelet",
        linker_flags=_KUBERNETES_FLAGS,
        architecture="arm64",
    ),
)

# Debian package -> a file that is there once it is installed.
DEBIAN_PACKAGES = {
    "systemd-container": "/usr/bin/systemd-nspawn",
    "debootstrap": "/usr/sbin/debootstrap",
    "openssh-client": "/usr/bin/ssh",
    "iproute2": "/usr/sbin/ip",
    "openssl": "/usr/bin/openssl",
    "curl": "/usr/bin/curl",
    "procps": "/usr/bin/ps",
    "kmod": "/usr/sbin/depmod",
    "xz-utils": "/usr/bin/xz",
    "buildah": "/usr/bin/buildah",  # makes the lab's container images
    "docker-registry": "/usr/bin/docker-registry",
    "util-linux": "/usr/bin/flock",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
}

# What runs arm64 programs on another machine, and what makes a root folder of them. Where systemd
# runs, Debian registers qemu with the kernel; the lab does so for itself where nobody has.
ARM64_PACKAGES = {
    "qemu-user-static": "/usr/lib/binfmt.d/qemu-aarch64.conf",
    "mmdebstrap": "/usr/bin/mmdebstrap",  # apt outside the root: debootstrap's is emulated
    "arch-test": "/usr/bin/arch-test",
}

# What the tests need besides; openssh-server starts a service where systemd runs.
TEST_PACKAGES = {
    "apt-utils": "/usr/bin/apt-ftparchive",  # makes the repository of the lab's plain workers
    "golang-cfssl": "/usr/bin/cfssl",  # 1.2: an old client, for the join gate
    "busybox": "/usr/bin/busybox",
    # A clock that is wrong for one process: a machine of the lab has its host's.
    "libfaketime": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "dosfstools": "/usr/sbin/mkfs.fat",
    "fdisk": "/usr/sbin/sfdisk",
    "gpg": "/usr/bin/gpg",
    "gpg-agent": "/usr/bin/gpg-agent",
    "ipmitool": "/usr/bin/ipmitool",
    "mtools": "/usr/bin/mcopy",
    "openssh-server": "/usr/sbin/sshd",
    "python3-cryptography": "/usr/lib/python3/dist-packages/cryptography/__init__.py",
    "shellcheck": "/usr/bin/shellcheck",
    "sudo": "/usr/bin/sudo",
    "doas": "/usr/bin/doas",
    "libxml2-utils": "/usr/bin/xmllint",  # validates SMF manifests
    "sqlite3": "/usr/bin/sqlite3",
    "wakeonlan": "/usr/bin/wakeonlan",
    # A virtual machine, by which the tests have one with a kernel of its own.
    "ovmf": "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "qemu-system-x86": "/usr/bin/qemu-system-x86_64",
    # BGP routers, which the tests run in network namespaces. Where systemd runs, Debian starts
    # them too.
    "frr": "/usr/lib/frr/bgpd",
    "bird2": "/usr/sbin/bird",
    "openbgpd": "/usr/sbin/bgpd",
}


# What runs the lab's virtual machines, and what lays out their disk.
MACHINE_PACKAGES = {
    "libvirt-clients": "/usr/bin/virsh",
    "libvirt-daemon-driver-qemu": "/usr/bin/virt-qemu-run",
    "libvirt-daemon-system": "/etc/libvirt/qemu.conf",
    "qemu-utils": "/usr/bin/qemu-img",
    "cpio": "/bin/cpio",
    "dnsmasq-base": "/usr/sbin/dnsmasq",
    "ipxe": "/usr/lib/ipxe/ipxe.efi",
    **{
        name: TEST_PACKAGES[name]
        for name in (
            "apt-utils",
            "dosfstools",
            "fdisk",
            "gpg",
            "gpg-agent",
            "ipmitool",
            "mtools",
            "openssh-server",
            "ovmf",
            "qemu-system-x86",
        )
    },
}


def cache() -> Path:
    """The folder outside the checkout in which everything that was built is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "autojoin"


def digest(*parts: bytes | str) -> str:
    """The first 12 hex digits of a hash over `parts`."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()[:12]


def module_digest(module: str, recipe: object) -> str:
    """The key of what is built by `recipe` from tools/go/`module`."""
    files = sorted(file for file in (MODULES / module).iterdir() if file.suffix != ".md")
    return digest(repr(recipe), *(file.read_bytes() for file in files))


def requirements() -> tuple[Path, ...]:
    """The hash-pinned requirements of the program, and of the work on it."""
    return CHECKOUT / "requirements.txt", CHECKOUT / "requirements-work.txt"


@dataclass(frozen=True)
class Layout:
    """Where each pinned thing lies in the cache. One folder a thing, keyed by its own pins.

    So a changed pin rebuilds that one thing; `home` (keyed by all of them) only links to them.
    """

    cache: Path = field(default_factory=cache)

    def tool(self, tool: GoTool | GoFile) -> Path:
        return self.cache / f"{tool.name}-{module_digest(tool.module, tool)}" / tool.name

    @property
    def venv(self) -> Path:
        import sys

        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        contents = [file.read_bytes() for file in requirements()]
        return self.cache / f"venv-{digest(*contents, python)}"

    @property
    def home(self) -> Path:
        keys = [str(self.tool(tool)) for tool in (*GO_TOOLS, *GO_FILES)]
        return self.cache / digest(*keys, str(self.venv))

    @property
    def binaries(self) -> Path:
        """The folder to put on PATH: every built tool by its name."""
        return self.home / "bin"

    @property
    def chart(self) -> Path:
        """The Cilium chart, as its module ships it."""
        return self.tool(next(file for file in GO_FILES if file.name == "cilium-chart"))

    def test_file(self, name: str) -> Path:
        """A file or folder of TEST_TOOLS."""
        return self.tool(next(tool for tool in TEST_TOOLS if tool.name == name))
