"""The outer machine: one systemd-nspawn container that holds everything else of the lab.

It plays the hypervisor that a person's lab has. What runs in it ends with it: its processes are
in one control group, its mounts in a mount namespace of its own, its network in its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import arm64_image, cgroup, emulation, image, pki, plain_image, registry, router
from lab.place import Addresses, Place, Process, start_time, with_process
from lab.waiting import wait_for
from tools.errors import LabError

FILES = Path(__file__).resolve().parent / "files"
MACHINE_SCRIPT = FILES.parents[1] / "components/machine_host/on_host/machine.sh"
ASSEMBLE_SCRIPT = MACHINE_SCRIPT.with_name("assemble.sh")
SERVICES = ("coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ARM64_KUBELET = "kubelet-arm64"
PREVIOUS_KUBELET = "kubelet-previous"
# What an arm64 machine has of the other image: qemu-user knows neither what containerd's shim asks
# of the kernel nor generic netlink, which systemd-networkd can't do without.
NOT_EMULATED = (
    "/usr/bin/containerd",
    "/usr/bin/containerd-shim-runc-v2",
    "/usr/sbin/runc",
    "/usr/lib/systemd/systemd-networkd",
)
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"
HOST_COMMANDS = ("systemd-nspawn", "unshare", "mount", "ip", "ssh", "depmod")
UNITS = (
    "autojoin-network",
    "autojoin-rack",
    "autojoin-registry",
    "autojoin-resolver",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
)
# The image serves machines of every kind; these of its services are none of the hypervisor's.
MASKED = ("systemd-networkd.service", "systemd-networkd.socket", "cloud-init.target")
INOTIFY_INSTANCES = 8192
SSH_SECONDS = 30.0
VETH_SECONDS = 15.0

# $1 group, $2 the image's root, $3 the machine's folder; the rest is the machine's command.
# The image is named relative to itself, as a colon in its path would divide it in two.
LAUNCH = """\
echo $$ >"$1/cgroup.procs"
mount -t tmpfs -o mode=0755 autojoin /run/systemd
cd "$2"
mount -t overlay overlay -o "lowerdir=.,upperdir=$3/upper,workdir=$3/work" "$3/root"
cd /
shift 3
exec "$@"
"""


@dataclass(frozen=True)
class Binaries:
    """Where the tools that the machines run were found; keys are their names."""

    paths: dict[str, Path]


def find_binaries() -> Binaries:
    """Every tool by its name on PATH; LabError names all that are missing at once.

    The arm64 kubelet is among them where arm64 machines can be had (tool set `arm64`), and that of
    the minor release before where there is one (`edits`).
    """
    names = (*SERVICES, "kubelet")
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if not path]
    commands = [name for name in HOST_COMMANDS if not which(name)]
    lines = [f"{name} not found on PATH: run `make tools`" for name in (*missing, *commands)]
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        lines.append("this kernel has no overlay file system: run `modprobe overlay`")
    if lines:
        raise LabError("\n".join(lines))
    if arm64_image.is_done() and emulation.RULE.exists():
        found[ARM64_KUBELET] = shutil.which(ARM64_KUBELET)
    found[PREVIOUS_KUBELET] = shutil.which(PREVIOUS_KUBELET)
    return Binaries({name: Path(os.path.realpath(path)) for name, path in found.items() if path})


def which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def folder(place: Place) -> Path:
    return place.state / "hypervisor"


def fingerprint(place: Place, binaries: Binaries) -> str:
    """What the outer machine was started from; another value asks for another start."""
    roots = f"{image.root()} {registry.served()}"
    state = hashlib.sha256(f"{roots} {place.addresses} {LAUNCH}".encode())
    for path in sorted(FILES.rglob("*")):
        if path.is_file() and "image" not in path.relative_to(FILES).parts[:1]:
            state.update(str(path).encode() + path.read_bytes())
    if ARM64_KUBELET in binaries.paths:
        state.update(str(arm64_image.root()).encode())
    if plain_image.is_done():
        state.update(str(plain_image.root()).encode())
    for name, path in sorted(binaries.paths.items()):
        facts = path.stat()
        state.update(f"{name} {path} {facts.st_size} {facts.st_mtime_ns}".encode())
    return state.hexdigest()[:16]


# --- what is in it --------------------------------------------------------------------------


def write_layers(place: Place, binaries: Binaries) -> Path:
    """The thin folders that lie over an image: `worker`, `plain`, and where they can be had
    `worker-previous` and `worker-arm64`. Made anew at every start."""
    target = place.state / "layers"
    remove_tree(target)
    write_worker_layer(target / "worker", binaries.paths["kubelet"])
    if PREVIOUS_KUBELET in binaries.paths:
        write_worker_layer(target / "worker-previous", binaries.paths[PREVIOUS_KUBELET])
    write_plain_layer(target / "plain")
    if ARM64_KUBELET in binaries.paths:
        write_arm64_layer(target / "worker-arm64", binaries)
    return target


def write_worker_layer(root: Path, kubelet: Path) -> None:
    shutil.copytree(FILES / "worker", root)
    (root / "usr/bin").mkdir()
    link_or_copy(kubelet, root / "usr/bin/kubelet")
    enable(root, "sysinit.target", "autojoin-shims.service")
    link(root / "etc/systemd/system/multi-user.target.wants/containerd.service",
         "/lib/systemd/system/containerd.service")  # fmt: skip
    write_modules(root)


def write_plain_layer(root: Path) -> None:
    """What containers are in need of, without containerd's settings: of runc the first on its path
    is taken, whatever settings there will be."""
    shutil.copytree(FILES / "worker", root, ignore=shutil.ignore_patterns("containerd"))
    link(root / "usr/local/sbin/runc", "/usr/local/lib/autojoin/runc")
    enable(root, "sysinit.target", "autojoin-shims.service")
    write_modules(root)


def write_arm64_layer(root: Path, binaries: Binaries) -> None:
    write_worker_layer(root, binaries.paths[ARM64_KUBELET])
    unit = "/usr/lib/systemd/system/containerd.service"
    for name in (*NOT_EMULATED, unit, LOADER, *libraries(NOT_EMULATED)):
        source = Path(os.path.realpath(image.root() / name.lstrip("/")))
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)
    link(root / "lib64", LIBRARIES)  # where these programs look for their loader


def libraries(programs: Sequence[str]) -> list[str]:
    """The paths of all that `programs` of the image are linked with."""
    answer = run(["chroot", str(image.root()), "ldd", *programs], "ldd")
    found = re.findall(r" => (?:/usr)?(/lib/\S+) ", answer)
    return sorted({f"/usr{path}" for path in found})


def write_modules(root: Path) -> None:
    """Let `modprobe` find in the machine what the kernel has, built in or loaded by the host."""
    release = os.uname().release
    modules = root / "usr/lib/modules" / release
    modules.mkdir(parents=True)
    names = ("kernel/fs/overlayfs/overlay.ko", "kernel/net/bridge/br_netfilter.ko")
    (modules / "modules.builtin").write_text("".join(f"{name}\n" for name in names))
    (modules / "modules.order").write_text("")
    command = [which("depmod") or "depmod", "-b", str(root / "usr"), release]
    run(command, "depmod")


def write_root(place: Place) -> None:
    """The hypervisor's own files, over the image: units, sshd, keys. Nothing else is removed."""
    upper = folder(place) / "upper"
    for name in ("upper", "work", "root"):
        (folder(place) / name).mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    shutil.copytree(FILES / "hypervisor", upper, dirs_exist_ok=True)
    install_machine_script(upper)
    write(upper / "etc/autojoin/hypervisor.env", settings(place.addresses))
    write(upper / "etc/hostname", "hypervisor\n")
    write(upper / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 hypervisor\n")
    write(upper / "etc/cloud/cloud-init.disabled", "")
    keys = pki.folder(place)
    copy_private(keys / "ssh-hypervisor-host", upper / "etc/ssh/ssh_host_ed25519_key")
    copy_private(keys / "ssh-client.pub", upper / "root/.ssh/authorized_keys")
    target = upper / "etc/kubernetes/pki"
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    for file in sorted(keys.iterdir()):
        if file.suffix in (".pem", ".key", ".pub", ".kubeconfig") and "ssh-" not in file.name:
            copy_private(file, target / file.name)
    write(upper / "etc/autojoin/registry.yml", registry.lab_configuration(place))
    write(upper / "etc/frr/daemons", router.DAEMONS)
    write(upper / "etc/systemd/system/frr.service.d/edited.conf", router.EDITED)
    for name in UNITS:
        enable(upper, "multi-user.target", f"{name}.service")
    for name in MASKED:
        link(upper / "etc/systemd/system" / name, "/dev/null")
    link(upper / "etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")


def settings(addresses: Addresses) -> str:
    """What the hypervisor's units are told of the network."""
    own = [f"{addresses.hypervisor}/24", addresses.router_ipv6]
    services = [addresses.services, addresses.services_ipv6]
    return (
        f"ADDRESS={addresses.hypervisor}\n"
        f"BRIDGE_ADDRESSES={' '.join(str(each) for each in own if each)}\n"
        f"SERVICES={','.join(str(each) for each in services if each)}\n"
    )


def install_machine_script(upper: Path) -> None:
    """The same scripts that the graph installs; the CA host is started by them before any graph."""
    for script in (MACHINE_SCRIPT, ASSEMBLE_SCRIPT):
        target = upper / "usr/local/lib/autojoin" / script.stem
        shutil.copyfile(script, target)
        target.chmod(0o755)


def enable(root: Path, target: str, unit: str) -> None:
    link(root / f"etc/systemd/system/{target}.wants" / unit, f"/etc/systemd/system/{unit}")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def link(path: Path, destination: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(destination)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for `source` where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_private(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pki.write_once(target, source.read_bytes(), 0o600)


def remove_tree(path: Path) -> None:
    """Remove `path`, but nothing that is mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(path)], check=True)


# --- start and stop -------------------------------------------------------------------------


def start(place: Place, binaries: Binaries) -> Place:
    """Start the outer machine and return once its SSH answers; the place with its process."""
    clean(place)
    layers = write_layers(place, binaries)
    write_root(place)
    raise_inotify_limit()
    group = cgroup.create(place.identifier)
    command = launch_command(place, binaries, group, layers)
    with (folder(place) / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this program
            cwd="/",
        )
    started = start_time(process.pid)
    if started is None:
        raise LabError(f"the hypervisor ended at once:\n{console_end(place)}")
    place = with_process(place, Process(process.pid, started), fingerprint(place, binaries))
    set_address(place, process)
    await_ssh(place, process)
    return place


def launch_command(place: Place, binaries: Binaries, group: Path, layers: Path) -> list[str]:
    own = folder(place)
    launch = [which("unshare") or "unshare", "--mount", "--propagation", "private"]
    enter = ["sh", "-euc", LAUNCH, "autojoin-hypervisor"]
    enter += [str(group), str(image.root()), str(own)]
    launch += emulation.entering(enter) if ARM64_KUBELET in binaries.paths else enter
    settings = {
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    environment = ["env", "-i", *(f"{name}={value}" for name, value in settings.items())]
    nspawn = [
        which("systemd-nspawn") or "systemd-nspawn",
        f"--directory={own / 'root'}",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--console=read-only",
        f"--machine={place.machine}",
        f"--uuid={uuid.uuid5(uuid.NAMESPACE_OID, place.identifier)}",
        "--network-veth",
        "--capability=all",
        "--system-call-filter=@keyring bpf perf_event_open @mount",
        bind(image.root(), "/var/lib/autojoin/image", read_only=True),
        bind(registry.served(), registry.STORAGE, read_only=True),
        bind(layers, "/var/lib/autojoin/layers", read_only=True),
        bind(data(place, "machines"), "/var/lib/autojoin/machines"),
        bind(data(place, "etcd"), "/var/lib/etcd"),
    ]
    nspawn += [bind(binaries.paths[name], f"/usr/bin/{name}", read_only=True) for name in SERVICES]
    if plain_image.is_done():
        nspawn += [
            bind(plain_image.root(), "/var/lib/autojoin/image-plain", read_only=True),
            bind(plain_image.packages(), "/var/lib/autojoin/packages", read_only=True),
        ]
    if ARM64_KUBELET in binaries.paths:
        nspawn += [bind(arm64_image.root(), "/var/lib/autojoin/image-arm64", read_only=True)]
    return [*launch, *environment, *nspawn]


def bind(source: Path, target: str, *, read_only: bool = False) -> str:
    """systemd-nspawn's option that shows `source` as `target` in the machine."""
    option = "--bind-ro" if read_only else "--bind"
    escaped = str(source).replace("\\", "\\\\").replace(":", "\\:")
    return f"{option}={escaped}:{target}"


def data(place: Place, name: str) -> Path:
    """A folder of the lab's own disk that outlives the outer machine."""
    target = place.state / name
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    return target


def raise_inotify_limit() -> None:
    """Eight kubelets on one machine run out of the kernel's default of 128 instances."""
    path = Path("/proc/sys/fs/inotify/max_user_instances")
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) < INOTIFY_INSTANCES:
            path.write_text(str(INOTIFY_INSTANCES))


def set_address(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Give the host's side of the veth its address, as soon as systemd-nspawn has made it."""
    device = place.interface
    link = Path("/sys/class/net", device)
    failure = f"interface {device} of the hypervisor does not appear"
    wait_for(link.exists, VETH_SECONDS, failure, lambda: console_end(place), process)
    address = f"{place.host_address}/24"
    run(["ip", "address", "replace", address, "dev", device], "setting the host's address")
    run(["ip", "link", "set", device, "up"], "setting the host's link up")
    route = [str(place.pool), "via", str(place.hypervisor_address), "dev", device]
    run(["ip", "route", "replace", *route], "routing load balancer addresses to the lab")


def await_ssh(place: Place, process: subprocess.Popen[bytes]) -> None:
    address = str(place.hypervisor_address)
    failure = f"the hypervisor does not answer SSH at {address}"
    wait_for(
        lambda: answers_ssh(address), SSH_SECONDS, failure, lambda: console_end(place), process
    )


def answers_ssh(address: str, port: int = 22) -> bool:
    """Whether an SSH server greets at `address`."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            connection.settimeout(1)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def console_end(place: Place, lines: int = 8) -> str:
    try:
        text = (folder(place) / "console.log").read_text(errors="replace")
    except OSError:
        return "(no console log)"
    return "\n".join(text.strip().splitlines()[-lines:])


def clean(place: Place) -> None:
    """End whatever may be left of a lab: its processes, its interface, stale mounts."""
    if place.running() and place.hypervisor:
        with contextlib.suppress(ProcessLookupError):
            os.kill(place.hypervisor.pid, 9)
    cgroup.remove(place.identifier)
    if Path("/sys/class/net", place.interface).exists():
        subprocess.run(["ip", "link", "delete", place.interface], capture_output=True)
    for mount in mounts_below(place.state):
        run(["umount", "--lazy", mount], "unmounting what was left")


def mounts_below(path: Path) -> list[str]:
    """The mount points under `path` in this namespace, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{path}/")), reverse=True)


def run(command: list[str], what: str) -> str:
    """The output of `command`; LabError where it fails."""
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    if answer.returncode:
        raise LabError(f"{what} failed (`{' '.join(command)}`): {answer.stderr.strip()}")
    return answer.stdout
