"""The contract of a worker: what every hardware type has in common."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pulumi

from components import remote
from components.join_gate import JoinGate
from config.models import Lab
from config.models import Worker as Settings
from render import cloud_init, identity, join_gate
from render.seed import Seed


@dataclass(frozen=True)
class Emission:
    """All that one worker needs, rendered once. Holds the join key: never shown."""

    identity: str
    seed: Seed
    register_input: str
    deliver_input: str

    @property
    def user_data_sha256(self) -> str:
        return hashlib.sha256(self.seed.user_data.encode()).hexdigest()


class Worker(pulumi.ComponentResource):
    """One worker node: registered at the join gate, then brought up from its seed.

    A hardware type states only what differs: `hardware`, `interface`, `kubelet_overrides`,
    `deliver` and, where the graph starts the machine itself, `restarts_by_itself`. A worker is
    three resources at most (this component, its registration, its delivery), since each costs a
    checkpoint of the whole state.
    """

    hardware: ClassVar[str]
    interface: ClassVar[str] = ""
    kubelet_overrides: ClassVar[dict[str, Any]] = {}
    # Whether a changed seed reaches the machine without a person. Where it does, the change is a
    # new identity (new join key, old certificate revoked); elsewhere only `generation` makes one,
    # so that editing a label never revokes a node that still runs from its old seed.
    restarts_by_itself: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        lab: Lab,
        gate: JoinGate,
        needs: list[pulumi.Resource],
        opts: pulumi.ResourceOptions | None = None,
    ):
        kind = "".join(word.capitalize() for word in self.hardware.split("-"))
        super().__init__(f"autojoin:workers:{kind}", name, None, opts)
        self.name = name
        self.lab = lab
        self.gate = gate
        self.settings = lab.workers[name]
        emission = self._emission()
        self.registration = remote.run(
            f"{name}-registration",
            gate.host,
            create=join_gate.register_command(name),
            stdin=emission.apply(lambda emitted: emitted.register_input),
            delete=join_gate.remove_node_command(name),
            quiet=True,
            parent=self,
            depends_on=[gate.ready],
        )
        joined = self.deliver(
            emission.apply(lambda emitted: emitted.deliver_input),
            [self.registration, *needs],
        )
        self.summary: dict[str, pulumi.Input[Any]] = {
            "hardware": self.hardware,
            "address": self.settings.address,
            "generation": self.settings.generation,
            # A hash over the join key's 256 random bits tells nothing of it.
            "userDataSha256": pulumi.Output.unsecret(
                emission.apply(lambda emitted: emitted.user_data_sha256)
            ),
            "joined": joined,
        }
        self.register_outputs({"address": self.settings.address})

    # --- what a hardware type states ------------------------------------------------------

    def deliver(self, data: pulumi.Output[str], needs: list[pulumi.Resource]) -> pulumi.Input[Any]:
        """Bring the emitted files (`delivery_input`) to the machine; what is known of its join."""
        raise NotImplementedError

    def delivery_input(self, seed: Seed, authority_pem: str, status_token: str) -> str:
        """The standard input of the delivery. Called once, with everything known."""
        raise NotImplementedError

    # --- what all share -------------------------------------------------------------------

    def _emission(self) -> pulumi.Output[Emission]:
        values = pulumi.Output.all(self.gate.secret, self.gate.authority.certificate_pem)
        return pulumi.Output.secret(values.apply(lambda known: self.render(*known)))

    def render(self, secret_pem: str, authority_pem: str) -> Emission:
        """Everything of this worker from the two values that the graph makes."""
        node_identity = self._identity(authority_pem)
        join_key = identity.join_key(secret_pem, node_identity)
        token = identity.status_token(secret_pem, node_identity)
        seed = self._seed(node_identity, authority_pem, join_key)
        return Emission(
            identity=node_identity,
            seed=seed,
            register_input=join_gate.register_input(
                self.name,
                [self.settings.address],
                self.settings.generation,
                node_identity,
                join_key,
                token,
            ),
            deliver_input=self.delivery_input(seed, authority_pem, token),
        )

    def _identity(self, authority_pem: str) -> str:
        digest = ""
        if self.restarts_by_itself:
            blank = self._seed("", authority_pem, "")
            digest = hashlib.sha256(json.dumps(vars(blank)).encode()).hexdigest()
        addresses = [self.settings.address]
        return identity.identity(self.name, self.settings.generation, addresses, digest)

    def _seed(self, node_identity: str, authority_pem: str, join_key: str) -> Seed:
        return cloud_init.seed(
            cluster(self.lab),
            node(self.name, self.settings, node_identity, self.interface),
            authority_pem=authority_pem,
            gate_url=self.gate.url,
            join_key=join_key,
            kubelet_overrides=self.kubelet_overrides,
        )


def cluster(lab: Lab) -> cloud_init.Cluster:
    """What a node needs to know of its cluster."""
    settings = lab.cluster
    return cloud_init.Cluster(
        name=settings.name,
        api_server=settings.api_server,
        kubernetes_version=settings.kubernetes_version,
        pod_cidrs=tuple(settings.pod_cidrs),
        service_cidrs=tuple(settings.service_cidrs),
        node_cidrs=tuple(settings.node_cidrs),
        dns_servers=tuple(settings.dns_servers),
        gateway=settings.gateway,
    )


def node(name: str, settings: Settings, node_identity: str, interface: str) -> cloud_init.Node:
    """What a node needs to know of itself."""
    return cloud_init.Node(
        name=name,
        addresses=(settings.address,),
        generation=settings.generation,
        identity=node_identity,
        mac=settings.mac,
        labels=dict(settings.labels),
        taints=(),
        interface=interface,
    )
