"""The contract of a worker: what every hardware type emits. Data in, files and commands out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from config.models import Host, Lab
from render import cloud_init, from_lab, identity, iso, join_gate
from render.archive import File, text
from render.seed import Seed

# What stands in the files where the stack's secret is not to be shown, or not known.
REDACTED = "REDACTED"


@dataclass(frozen=True)
class Keys:
    """The two secrets of a node in one generation: what joins, and what reads its progress."""

    join_key: str = REDACTED
    status_token: str = REDACTED


@dataclass(frozen=True)
class Emission:
    """All that one worker needs, rendered once. Holds the join key: never shown."""

    identity: str
    keys: Keys
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
    interface: ClassVar[str] = ""
    kubelet_overrides: ClassVar[dict[str, Any]] = {}
    # Whether a changed seed reaches the machine without a person. Where it does, the change is a
    # new identity (new join key, old certificate revoked); elsewhere only `generation` makes one,
    # so that editing a label never revokes a node that still runs from its old seed.
    restarts_by_itself: ClassVar[bool] = False

    def __init__(self, lab: Lab, node: str):
        self.lab = lab
        self.node = node
        self.settings = lab.workers[node]
        self.gate_url = from_lab.gate_url(lab)

    # --- what a hardware type states ------------------------------------------------------

    def own_files(self, emission: Emission) -> dict[str, File]:
        """The type's files beside the seed, by path relative to the node's folder."""
        return {}

    def delivery(self) -> Delivery | None:
        """The commands that bring the files to the machine; None leaves that to a person."""
        return None

    def delivery_input(self, emission: Emission) -> str:
        """Standard input of the delivery. It holds the join key: a secret."""
        raise NotImplementedError

    def joined(self, output: str) -> dict[str, Any]:
        """What the output of the delivery tells of the join, for the stack's outputs."""
        raise NotImplementedError

    # --- what all share -------------------------------------------------------------------

    def emit(self, secret_pem: str | None, authority_pem: str | None) -> Emission:
        """Everything of this worker. Without the stack's secret its keys are `REDACTED`; without
        the authority's certificate a placeholder stands for it, which nothing can verify against.
        """
        authority_pem = authority_pem or cloud_init.UNKNOWN_AUTHORITY
        name = self._identity(authority_pem)
        keys = Keys()
        if secret_pem is not None:
            keys = Keys(
                identity.join_key(secret_pem, name), identity.status_token(secret_pem, name)
            )
        return Emission(name, keys, authority_pem, self._seed(name, authority_pem, keys.join_key))

    def files(self, emission: Emission) -> dict[str, File]:
        """Every file of the worker, by path relative to its folder: its seed and the type's own."""
        seed = {name: text(content) for name, content in emission.seed.files().items()}
        image = iso.image({name: file.content for name, file in seed.items()})
        return {**seed, "seed.iso": File(image), **self.own_files(emission)}

    def register_input(self, emission: Emission) -> str:
        """What the join gate is told of the worker. It holds the join key: a secret."""
        return join_gate.register_input(
            self.node,
            [self.settings.address],
            self.settings.generation,
            emission.identity,
            emission.keys.join_key,
            emission.keys.status_token,
            self.lab.join_gate.join_key_hours,
        )

    def _identity(self, authority_pem: str) -> str:
        digest = ""
        if self.restarts_by_itself:
            blank = self._seed("", authority_pem, "")
            digest = hashlib.sha256(json.dumps(vars(blank)).encode()).hexdigest()
        addresses = [self.settings.address]
        return identity.identity(self.node, self.settings.generation, addresses, digest)

    def _seed(self, node_identity: str, authority_pem: str, join_key: str) -> Seed:
        return cloud_init.seed(
            from_lab.cluster(self.lab),
            from_lab.node(self.node, self.settings, node_identity, self.interface),
            authority_pem=authority_pem,
            gate_url=self.gate_url,
            join_key=join_key,
            kubelet_overrides=self.kubelet_overrides,
        )
