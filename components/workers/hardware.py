"""The contract of a worker: what every hardware type emits. Data in, files and commands out."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from components import from_lab
from components.archive import File, text
from components.join_gate import installation as join_gate
from components.machine_host import delivery
from components.machine_host.recipe import Book
from components.workers import cloud_init, identity, kubelet, releases
from components.workers.seed import Cluster, Node, Seed
from stack import models
from stack.models import Board, Host, ProvisioningHost
from stack.models import Worker as Settings
from stack.problem import Problem

# What stands in the files where the stack's secret is not to be shown, or not known.
REDACTED = "REDACTED"


def assignments(values: Mapping[str, str]) -> str:
    """Values for a script to read with `.`: shell assignments, one a line."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


@dataclass(frozen=True)
class Keys:
    """The secrets of a node in one generation: what joins, and what reads its progress."""

    join_key: str = REDACTED
    status_token: str = REDACTED
    # Of the whole stack: keys the digests that a preview shows.
    mark_key: str = REDACTED


@dataclass(frozen=True)
class Site:
    """Where a worker stands: its cluster and the gate to it, and what holds or feeds its machine.

    `host` is its provisioning host; None leaves the files to a person. `board` holds a module.
    """

    cluster: models.Cluster
    gate_url: str
    host: ProvisioningHost | None = None
    board: Board | None = None
    registries: Mapping[str, models.Registry] = field(default_factory=dict)
    cluster_dns: str | None = None


@dataclass(frozen=True)
class Named:
    """Who a worker is, and how it proves that: what the stack's secret alone decides."""

    identity: str
    keys: Keys


@dataclass(frozen=True)
class Emission(Named):
    """All that one worker needs, rendered once. Holds the join key: never shown."""

    authority_pem: str
    seed: Seed

    @property
    def user_data_sha256(self) -> str:
        return hashlib.sha256(self.seed.user_data.encode()).hexdigest()


@dataclass(frozen=True)
class Delivery:
    """How a worker's files get to its provisioning host: commands for it, both safe to repeat."""

    host: Host
    create: str
    delete: str


class Hardware:
    """One worker on one type of hardware.

    A type is a class of its own in a file of its own that states only what differs: the class
    variables and the methods of the first part below.
    """

    name: ClassVar[str]
    architecture: ClassVar[str] = "amd64"
    # The name, or a glob, by which a node without a MAC address finds its interface.
    interface: ClassVar[str] = "e*"
    # Whether the usual image of this hardware lacks container runtime and kubelet, and what it
    # needs beside them.
    plain: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    # Whether a machine takes its seed from a disc on its provisioning host.
    starts_from_disc: ClassVar[bool] = False
    # Whether the root file system is smaller than its disk at first.
    grow_root: ClassVar[bool] = True
    # The program that takes the files on the provisioning host, and its name there.
    program: ClassVar[str] = "deliver"
    program_file: ClassVar[Path] = delivery.DELIVER_SCRIPT
    # Keys of a worker that this type needs, those that it heeds and not every other type does, and
    # why the first are needed, where that is not plain.
    required: ClassVar[tuple[str, ...]] = ()
    own: ClassVar[tuple[str, ...]] = ()
    hints: ClassVar[Mapping[str, str]] = {}
    # Values for the required keys of an example.
    example: ClassVar[Mapping[str, Any]] = {}
    # Names that a node of this type can't have, each with whose it is.
    reserved_names: ClassVar[Mapping[str, str]] = {}
    # Why there is no other distribution for it, where there is none.
    ubuntu_alone: ClassVar[str] = ""
    # Whether there is no other architecture than `architecture`.
    one_architecture: ClassVar[bool] = True
    # What the controllers of its machines speak (autojoin:boards), and whether a machine that the
    # graph starts is another one by whatever reaches it; else by generation and address alone.
    protocols: ClassVar[tuple[str, ...]] = ()
    follows_seed: ClassVar[bool] = True
    # Seconds from its start, by the graph, to its join.
    usual_join: ClassVar[int] = 300

    def __init__(self, node: str, settings: Settings, site: Site):
        self.node = node
        self.settings = settings
        self.site = site
        self._last: tuple[tuple[str, str], Emission] | None = None
        self._named: tuple[str | None, Named] | None = None

    @property
    def mac(self) -> str | None:
        """The MAC address of the node's interface, where it is known."""
        return self.settings.mac

    @property
    def variant(self) -> Mapping[str, str]:
        """Values of an example, where its type has variants whose files share few lines."""
        return {}

    @property
    def kind(self) -> str:
        """What nodes have in common whose files are made from the same lines."""
        return " ".join((self.name, *self.variant.values()))

    # --- what a hardware type states ------------------------------------------------------

    def kubelet_overrides(self, node: Node) -> dict[str, Any]:
        """What of the KubeletConfiguration the hardware and its system need otherwise."""
        known = {"providerID": self.machine_id(node.identity)} if self.starts_by_itself else {}
        return {"cgroupDriver": "systemd"} | known

    @classmethod
    def installs(cls, settings: Settings) -> bool:
        """Whether container runtime and kubelet are installed at first boot."""
        return cls.plain if settings.image_kind is None else settings.image_kind == "plain"

    @classmethod
    def labels(cls, node: str, settings: Settings) -> dict[str, str]:
        """The labels of its Node: those given, and those that every kubelet sets by itself."""
        machine = settings.architecture or cls.architecture
        own = {"kubernetes.io/hostname": node}
        for domain in ("kubernetes.io", "beta.kubernetes.io"):
            own |= {f"{domain}/os": "linux", f"{domain}/arch": machine}
        return settings.labels | own

    @classmethod
    def is_started(cls, settings: Settings | None, host: ProvisioningHost | None) -> bool:
        """Whether the graph starts a machine of this type that is at `host`.

        Where it does, whatever reaches the machine is a new identity (new join key, old certificate
        revoked), if it `follows_seed`; elsewhere only generation, address and hardware are, so that
        editing a label never revokes a node that still runs from its old seed.
        """
        return False

    @classmethod
    def problems(
        cls, key: str, settings: Settings, host: ProvisioningHost | None
    ) -> Iterator[Problem]:
        """What is wrong with settings of a worker at `host` that only this type can tell."""
        if cls.ubuntu_alone and not settings.os_release.startswith("ubuntu-"):
            hint = f"{cls.ubuntu_alone}; choose ubuntu-22.04 or ubuntu-24.04"
            yield Problem(f"{key}.osRelease", "can't be installed", settings.os_release, hint)

    @property
    def starts_by_itself(self) -> bool:
        """Whether the graph starts the machine."""
        return self.is_started(self.settings, self.site.host)

    @property
    def join_timeout(self) -> int:
        """Seconds within which the node must have joined."""
        usual = self.usual_join if self.starts_by_itself else Hardware.usual_join
        return self.settings.join_timeout or usual

    def own_files(self, emission: Emission) -> dict[str, File]:
        """The type's files beside the seed, by path relative to the node's folder."""
        return {}

    def delivered_files(self, emission: Emission) -> dict[str, File]:
        """What goes to the provisioning host, by path relative to its folder of nodes' files.

        The first parts of the paths are folders of this node alone.
        """
        files = self.files(emission, with_disc=self.starts_from_disc)
        return {f"{self.node}/{path}": file for path, file in files.items()}

    def delivery(self, identity: str, marks: Iterable[str] = ()) -> Delivery | None:
        """The commands that bring the files to the machine; None leaves that to a person.

        They are of one identity. `marks` are shown in the command, and change nothing there.
        """
        host = self.site.host
        if host is None:
            return None
        where = delivery.records(host.directory, self.site.cluster.name)
        return Delivery(
            host,
            delivery.apply_command(self.node, host.directory, where, marks),
            delivery.remove_command(self.node, host.directory, where, identity),
        )

    def is_at(self, host: ProvisioningHost) -> bool:
        """Whether `host` is that of its machine or its files, by whatever name or address."""
        own = self.site.host
        return own is not None and own.host_key == host.host_key

    def place(self) -> list[str]:
        """What says where its machine or its files are: elsewhere, these go before others come."""
        host = self.site.host
        where = [host.host_key, host.directory] if host else []
        return [self.name, self.site.cluster.name, *where]

    def machine_id(self, identity: str) -> str:
        """What its Node tells of its machine of that identity, where the graph starts it: as the
        provider's ID, or as its machine-id."""
        return f"autojoin://{self.site.cluster.name}/{identity}"

    def reaches_machine(self) -> list[Any]:
        """What of the worker reaches its machine beside its seed, where the graph starts it."""
        return []

    def parcel(self, emission: Emission) -> dict[str, File]:
        """All that goes to the provisioning host, by path. It holds the join key: a secret."""
        return delivery.parcel(self.delivered_files(emission), emission.identity)

    def delivery_input(self, emission: Emission, book: Book | None = None) -> str:
        """Standard input of the delivery. It holds the join key: a secret.

        `book` is what the nodes of this type share on the host; see machine_host/provisioning.py.
        """
        return delivery.apply_input(self.parcel(emission), book)

    def marks(self, emission: Emission) -> list[str]:
        """`path:digest` for each delivered file, for who reads a preview; they tell no content."""
        key = emission.keys.mark_key.encode()
        return [
            f"{path.removeprefix('files/')}:{hmac.digest(key, file.content, 'sha256').hex()[:8]}"
            for path, file in sorted(self.parcel(emission).items())
        ]

    @property
    def awaited(self) -> bool:
        """Whether `pulumi up` waits until the node is Ready."""
        wish = self.settings.await_join
        there = self.site.host is not None
        return there and (self.starts_by_itself if wish is None else wish)

    def undelivered(self) -> dict[str, Any]:
        """Where the files are, for the stack's outputs, where nobody waited for the node."""
        host = self.site.host
        if host is None:
            return {"files": "make render writes them: no provisioning host is configured"}
        return {"files": f"{host.user}@{host.address}:{host.directory}/{self.node}"}

    # --- what all share -------------------------------------------------------------------

    def emission(self, values: tuple[str, str]) -> Emission:
        """`emit`, rendered once for the same secret and the same authority's certificate."""
        if self._last is None or self._last[0] != values:
            self._last = values, self.emit(*values)
        return self._last[1]

    def emit(self, secret_pem: str | None, authority_pem: str | None) -> Emission:
        """Everything of this worker. Without the stack's secret its keys are `REDACTED`; without
        the authority's certificate a placeholder stands for it, which nothing can verify against.
        """
        authority_pem = authority_pem or cloud_init.UNKNOWN_AUTHORITY
        known = self.named(secret_pem)
        seed = self.seed(known.identity, authority_pem, known.keys.join_key)
        return Emission(known.identity, known.keys, authority_pem, seed)

    def named(self, secret_pem: str | None) -> Named:
        """Who it is; without the stack's secret its keys are `REDACTED`."""
        if self._named is None or self._named[0] != secret_pem:
            self._named = secret_pem, self._name(secret_pem)
        return self._named[1]

    def _name(self, secret_pem: str | None) -> Named:
        name = self._identity(secret_pem)
        if secret_pem is None:
            return Named(name, Keys())
        keys = Keys(
            identity.join_key(secret_pem, name),
            identity.status_token(secret_pem, name),
            identity.mark_key(secret_pem),
        )
        return Named(name, keys)

    def files(self, emission: Emission, *, with_disc: bool = True) -> dict[str, File]:
        """Every file of the worker, by path relative to its folder: its seed and the type's own."""
        seed = {name: text(content) for name, content in emission.seed.files().items()}
        about = text(self.description(emission), 0o644)
        found = {**seed, "node.json": about, **self.own_files(emission)}
        if with_disc:
            from components.workers import (
                iso,  # pycdlib takes as long to import as ten nodes to render
            )

            image = iso.image({name: file.content for name, file in seed.items()})
            found["seed.iso"] = File(image)
        return found

    def bmc_password(self, emission: Emission) -> dict[str, File]:
        """The file with its controller's password, where that is known."""
        board = self.site.board
        if not board or not board.password:
            return {}
        shown = emission.keys.join_key != REDACTED
        password = board.password.get_secret_value() if shown else REDACTED
        return {"bmc-password": text(f"{password}\n")}

    def description(self, emission: Emission) -> str:
        """node.json: what the folder it lies in is, for programs and people on that host."""
        facts = {
            "name": self.node,
            "hardware": self.name,
            "identity": emission.identity,
            "generation": self.settings.generation,
            "address": self.settings.addresses[0],
            "addresses": self.settings.addresses,
            "mac": self.mac,
            "architecture": self.settings.architecture or self.architecture,
            "osRelease": self.settings.os_release,
        }
        return json.dumps(facts, indent=2) + "\n"

    @property
    def directory(self) -> str | None:
        """The provisioning host's folder of nodes' files; None where there is no host."""
        host = self.site.host
        return host.directory if host else None

    def register_input(self, emission: Named, join_key_hours: int) -> str:
        """What the join gate is told of the worker. It holds the join key: a secret."""
        return join_gate.register_input(
            self.node,
            list(self.settings.addresses),
            self.settings.generation,
            emission.identity,
            emission.keys.join_key,
            emission.keys.status_token,
            join_key_hours,
        )

    def _identity(self, secret_pem: str | None) -> str:
        """Of whatever reaches the machine; where a person starts it, of what makes it another.

        Whom it trusts is no part of that: a node that runs is told of another CA by the gate.
        """
        facts: list[Any] = [self.name]
        if self.starts_by_itself and self.follows_seed:
            cluster, node = self.cluster(), self._node("")
            facts += [
                self.user_data(cluster, node, cloud_init.UNKNOWN_AUTHORITY, ""),
                cloud_init.network(cluster, node),
                identity.secret_digest(secret_pem) if secret_pem is not None else REDACTED,
                self.site.host.host_key if self.site.host else "",
                *self.reaches_machine(),
            ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        settings = self.settings
        return identity.identity(self.node, settings.generation, settings.addresses, digest)

    def cluster(self) -> Cluster:
        """What the node needs to know of its cluster; CAs may be in files."""
        settings = self.site.cluster
        pem = settings.api_server_authority_pem
        return replace(
            from_lab.cluster(settings),
            api_server_authority=pem,
            cluster_dns=self.site.cluster_dns,
            registries=from_lab.registries(self.site.registries),
        )

    def _node(self, node_identity: str) -> Node:
        plain = self.installs(self.settings)
        return from_lab.node(
            self.node,
            self.settings,
            node_identity,
            interface=self.interface,
            mac=self.mac,
            plain=plain,
            packages=releases.there(self.packages, self.settings.os_release) if plain else (),
            grow_root=self.grow_root,
        )

    def seed(self, node_identity: str, authority_pem: str, join_key: str) -> Seed:
        """The seed as it is given to the machine."""
        cluster, node = self.cluster(), self._node(node_identity)
        return cloud_init.texts(
            cluster, node, self.user_data(cluster, node, authority_pem, join_key)
        )

    def user_data(
        self, cluster: Cluster, node: Node, authority_pem: str, join_key: str
    ) -> dict[str, Any]:
        """cloud-init's user-data; a type may wrap it."""
        return cloud_init.user_data(
            cluster,
            node,
            authority_pem=authority_pem,
            gate_url=self.site.gate_url,
            join_key=join_key,
            kubelet_overrides=kubelet.merged(self.kubelet_overrides(node), self.settings.kubelet),
        )
