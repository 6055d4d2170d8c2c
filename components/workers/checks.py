"""Cross-checks of workers: names, addresses, hardware, provisioning hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pydantic.alias_generators import to_camel

from components.cilium.version_checks import minor, written
from components.workers.hardware_types import HARDWARE
from components.workers.releases import CONTAINERD, NEEDED_CONTAINERD
from stack.models import Lab, Worker
from stack.problem import Problem, some
from stack.repeats import twins
from stack.types import Address, Network

# Names that are somebody else's already, and whose.
RESERVED_NAMES = {
    "ca": "`make render` has a folder of that name",
    "cilium": "`make render` has a folder of that name",
    "localhost": "every machine is that to itself",
}
# What of cloud-init's user-data autojoin writes as lists; a user's own are appended.
LISTS = ("bootcmd", "runcmd", "write_files", "users", "packages", "mounts", "fs_setup")


def problems(lab: Lab, taken: dict[str, str]) -> Iterator[Problem]:
    """Every problem of the workers of `lab`; `taken` are addresses of others, and their keys."""
    for name, worker in lab.workers.items():
        yield from _identity(lab, name, worker, taken)
    yield from _unique(lab)
    yield from _boards(lab)
    for name, worker in lab.workers.items():
        yield from _hardware(lab, name, worker)
        yield from _provisioner(lab, name, worker)
        yield from _system(name, worker)


def warnings(lab: Lab) -> Iterator[Problem]:
    """The container runtime that a plain image installs is its release's own."""
    since, needed = NEEDED_CONTAINERD
    if minor(lab.cluster.kubernetes_version) < since:
        return
    old: dict[str, list[str]] = {}
    for name, worker in lab.workers.items():
        if HARDWARE[worker.hardware].installs(worker) and CONTAINERD[worker.os_release] < needed:
            old.setdefault(worker.os_release, []).append(name)
    for release, names in old.items():
        wrong = f"wants containerd {written(needed)}, and {release} came with "
        wrong += written(CONTAINERD[release])
        hint = "check what its updates bring, or use images with a newer one and "
        hint += f"imageKind: template, or Kubernetes {written((since[0], since[1] - 1))}"
        found = f"{lab.cluster.kubernetes_version}; {some(names)}"
        yield Problem("autojoin:cluster.kubernetesVersion", wrong, found, hint)


def _identity(lab: Lab, name: str, worker: Worker, taken: dict[str, str]) -> Iterator[Problem]:
    key = f"autojoin:workers.{name}"
    reserved = {**RESERVED_NAMES, **HARDWARE[worker.hardware].reserved_names}
    if name in reserved:
        yield Problem(key, "is a reserved name", name, reserved[name])
    networks: list[Network] = [ipaddress.ip_network(cidr) for cidr in lab.cluster.node_cidrs]
    for text in worker.addresses:
        address = ipaddress.ip_address(text)
        if not any(address in network for network in networks):
            hint = f"they are {', '.join(lab.cluster.node_cidrs)}"
            wrong = "is in none of autojoin:cluster.nodeCidrs"
            yield Problem(f"{key}.address", wrong, text, hint)
        elif _ends(address, networks):
            wrong = "is the first or last address of its network"
            yield Problem(f"{key}.address", wrong, text)
        if text in taken:
            yield Problem(f"{key}.address", f"is that of {taken[text]} too", text)


def _unique(lab: Lab) -> Iterator[Problem]:
    names = list(lab.workers)
    has: dict[str, list[tuple[str, str | None]]] = {
        "address": [(name, it) for name in names for it in lab.workers[name].addresses],
        "mac": [(name, lab.workers[name].mac) for name in names],
    }
    for attribute, values in has.items():
        for first, second in twins([value for _, value in values]):
            name, value = values[second]
            yield Problem(
                f"autojoin:workers.{name}.{attribute}",
                f"is that of autojoin:workers.{values[first][0]} too",
                str(value),
                "each node has its own",
            )
    slots = [(worker.bmc, worker.slot) if worker.slot else None for worker in lab.workers.values()]
    for first, second in twins(slots):
        yield Problem(
            f"autojoin:workers.{names[second]}.slot",
            f"is that of autojoin:workers.{names[first]} too",
            _slot(lab.workers[names[second]]),
            "one module a slot",
        )
    controllers = [_own_controller(lab, worker) for worker in lab.workers.values()]
    for first, second in twins(controllers):
        yield Problem(
            f"autojoin:workers.{names[second]}.bmc",
            f"is that of autojoin:workers.{names[first]} too",
            controllers[second] or "",
            "each machine has its own; of one controller's several systems give each an entry",
        )


def _own_controller(lab: Lab, worker: Worker) -> str | None:
    """The entry of a controller that is of one machine alone."""
    board = lab.boards.get(worker.bmc or "")
    return worker.bmc if board and board.protocol in ("redfish", "ipmi") else None


def _slot(worker: Worker) -> str:
    board = f"board {worker.bmc}, " if worker.bmc else ""
    return f"{board}slot {worker.slot}"


def _ends(address: Address, networks: list[Network]) -> bool:
    """Whether an IPv4 address names its network or everybody in it."""
    return any(
        address in network
        and network.version == 4
        and network.prefixlen < 31
        and address in (network.network_address, network.broadcast_address)
        for network in networks
    )


def _boards(lab: Lab) -> Iterator[Problem]:
    for name, worker in lab.workers.items():
        if lab.boards and worker.bmc is not None and worker.bmc not in lab.boards:
            hint = f"boards of autojoin:boards are: {', '.join(lab.boards)}"
            key = f"autojoin:workers.{name}.bmc"
            yield Problem(key, "is no board of autojoin:boards", worker.bmc, hint)
        yield from _controller(lab, name, worker)


def _controller(lab: Lab, name: str, worker: Worker) -> Iterator[Problem]:
    """What the controller of a machine that the graph starts must be, and what it must have."""
    kind, board = HARDWARE[worker.hardware], lab.boards.get(worker.bmc or "")
    if worker.bmc is None or not kind.protocols:
        return
    key = f"autojoin:boards.{worker.bmc}"
    started = kind.is_started(worker, lab.provisioner(worker))
    if board is None:
        if started and not lab.boards:
            hint = f"`pulumi up` starts {name} by it: say its address and its password"
            yield Problem(key, "is required", hint=hint)
        return
    if board.protocol not in kind.protocols:
        hint = f"{name} is {kind.name}: say {' or '.join(kind.protocols)}"
        yield Problem(f"{key}.protocol", "does not fit its worker", board.protocol, hint)
    elif started and board.protocol != "wake-on-lan":
        needed = ("password",) if board.protocol == "ipmi" else ("password", "public_key")
        for attribute in needed:
            if getattr(board, attribute) is None:
                wrong = f"is required, as `pulumi up` starts {name} by it"
                yield Problem(f"{key}.{to_camel(attribute)}", wrong)


def _hardware(lab: Lab, name: str, worker: Worker) -> Iterator[Problem]:
    key = f"autojoin:workers.{name}"
    kind = HARDWARE[worker.hardware]
    for attribute in kind.required:
        if getattr(worker, attribute) is None:
            wrong = f"is required with hardware: {kind.name}"
            yield Problem(f"{key}.{attribute}", wrong, hint=kind.hints.get(attribute, ""))
    # What only some types of hardware heed: to set it elsewhere is a mistake.
    for attribute in sorted({each for other in HARDWARE.values() for each in other.own}):
        if attribute in worker.model_fields_set and attribute not in kind.own:
            names = [other.name for other in HARDWARE.values() if attribute in other.own]
            hint = f"it is for {' and '.join(names)}; remove it"
            found = f"hardware: {kind.name}"
            yield Problem(f"{key}.{attribute}", "means nothing here", found, hint)
    if worker.architecture and kind.one_architecture and worker.architecture != kind.architecture:
        wrong = f"can't be with hardware: {kind.name}"
        hint = f"it is {kind.architecture}"
        yield Problem(f"{key}.architecture", wrong, worker.architecture, hint)
    yield from kind.problems(key, worker, lab.provisioner(worker))


def _provisioner(lab: Lab, name: str, worker: Worker) -> Iterator[Problem]:
    key = f"autojoin:workers.{name}"
    if worker.provisioner and worker.provisioner not in lab.provisioning:
        known = ", ".join(lab.provisioning) or "none"
        hint = f"hosts of autojoin:provisioning are: {known}"
        yield Problem(f"{key}.provisioner", "is no provisioning host", worker.provisioner, hint)
    elif lab.provisioner(worker) is None:
        hint = "name one host in autojoin:provisioning, or the worker's provisioner"
        if HARDWARE[worker.hardware].is_started(worker, None):
            wrong = f"is required with hardware: {worker.hardware}"
            yield Problem(f"{key}.provisioner", wrong, hint=hint)
        elif worker.await_join:
            yield Problem(f"{key}.provisioner", "is required with awaitJoin: true", hint=hint)


def _system(name: str, worker: Worker) -> Iterator[Problem]:
    key = f"autojoin:workers.{name}"
    if worker.storage_disk and worker.storage_disk == worker.disk:
        hint = "leave storageDisk out: the data then lies on the installed disk"
        yield Problem(f"{key}.storageDisk", "is the disk to install to", worker.disk, hint)
    kinds = [(taint.rpartition(":")[0].partition("=")[0], taint.rpartition(":")[2])
             for taint in worker.taints]  # fmt: skip
    for _, second in twins(kinds):
        hint = "one taint for each key and effect"
        yield Problem(f"{key}.taints[{second}]", "is there already", worker.taints[second], hint)
    for section in LISTS:
        value = worker.user_data.get(section)
        if section in worker.user_data and not isinstance(value, list):
            hint = "it is appended to autojoin's own"
            yield Problem(f"{key}.userData.{section}", "must be a list", type(value).__name__, hint)
    for section, data in (("userData", worker.user_data), ("kubelet", worker.kubelet)):
        for path in _odd_values(data):
            hint = "use text, numbers, true, false, lists and mappings with text keys"
            yield Problem(f"{key}.{section}{path}", "can't be written to the seed", hint=hint)


def _odd_values(value: object, path: str = "") -> Iterator[str]:
    """Paths of what is no JSON: dates (which YAML makes of 2026-01-01), keys that are no text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _odd_values(item, f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _odd_values(item, f"{path}[{index}]")
    elif not (value is None or isinstance(value, (str, int, float, bool))):
        yield path
