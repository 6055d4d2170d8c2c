"""A worker in the graph: what all types share. What a type emits is in its own file here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pulumi

from components.join_gate.component import Registration, SeedValues
from components.machine_host.component import MachineHost
from components.shell import remote
from components.workers.hardware import Delivery, Hardware
from components.workers.rollout import Rollout


@dataclass
class WorkerArgs:
    """What a worker is made from.

    `registration` is the join gate's, and knows what the worker is; `host` brings it its files,
    None leaves that to a person; `needs` are there before a machine may join. `rollout` says when
    the machine may go down for another, which is at once without one.
    """

    registration: Registration
    host: MachineHost | None = None
    needs: list[pulumi.Resource] = field(default_factory=list)
    rollout: Rollout | None = None


class Worker(pulumi.ComponentResource):
    """One worker node. Its files are brought to where they make a node, once it is registered.

    Three resources at most (this component, its registration, its delivery), since each costs a
    checkpoint of the whole state. `summary` is what a person wants to know of it; whether it has
    joined is for Joins to say.
    """

    token: ClassVar[str]
    hardware: ClassVar[type[Hardware]]

    def __init__(self, name: str, args: WorkerArgs, opts: pulumi.ResourceOptions | None = None):
        opts = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(aliases=_other_types()))
        super().__init__(self.token, name, None, opts)
        self.registration = registration = args.registration
        self.node = node = registration.node
        if not isinstance(node, self.hardware):
            raise TypeError(f"{name}: {self.token} is not made of {node.name}")
        registration.gate.marks.tell_at(name, self)
        shown = registration.gate.shown_seed_values
        self.identity = registration.gate.identity(node)
        self.summary: dict[str, pulumi.Input[Any]] = {
            "hardware": node.settings.hardware,
            "address": node.settings.addresses[0],
            "addresses": list(node.settings.addresses),
            "generation": node.settings.generation,
            "kubernetesVersion": node.site.cluster.kubernetes_version,
            "startedByUp": node.starts_by_itself,
            "identity": self.identity,
            # A hash over the join key's 256 random bits tells nothing of it.
            "userDataSha256": shown.apply(lambda values: node.emission(values).user_data_sha256),
            "joined": node.undelivered() | {"readySeconds": None},
        }
        self.machine = self._deliver(name, args)
        self.register_outputs({"address": node.settings.addresses[0]})

    def _deliver(self, name: str, args: WorkerArgs) -> pulumi.Resource | None:
        """Its files on its host, or its machine there; None where a person carries them."""
        node, gate = self.node, args.registration.gate
        if args.host is None or node.site.host is None:
            return None
        provisioning = args.host.provisioning

        def commands(identity: str, marks: Iterable[str] = ()) -> Delivery:
            found = node.delivery(identity, marks)
            assert found is not None
            return found

        def create(values: SeedValues) -> str:
            emission = node.emission(values)
            return commands(emission.identity, node.marks(emission)).create

        def files(values: SeedValues) -> str:
            emission = node.emission(values)
            return node.delivery_input(
                emission, provisioning.book(node.kind, emission.authority_pem)
            )

        command, turns = f"{name}-machine", None
        if args.rollout and node.starts_by_itself:
            turns = args.rollout.hooks(command, node.node)
        machine: pulumi.Resource = remote.run(
            command,
            node.site.host,
            create=gate.shown_seed_values.apply(create),
            stdin=gate.seed_values.apply(files),
            delete=self.identity.apply(lambda identity: commands(identity).delete),
            # The old machine goes, where it is, before one comes elsewhere with its address.
            triggers=node.place(),
            hooks=pulumi.ResourceHookBinding.merge(gate.marks.of(name, node), turns),
            parent=self,
            # Not of its registration, which stands before `needs` anyway: where a host is dead, the
            # registration's removal must not wait for the machine's.
            depends_on=[*args.needs, args.host.ready],
        )
        return machine


def _other_types() -> list[pulumi.Alias]:
    """A worker whose hardware is edited is the same worker of another type."""
    from components.workers.hardware_types import WORKERS

    return [pulumi.Alias(type_=kind.token) for kind in WORKERS.values()]
