"""A worker in the graph: what all types share. What a type emits is in its own file here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pulumi

from components.join_gate.component import Registration, SeedValues
from components.machine_host.component import MachineHost
from components.shell import remote
from components.workers.hardware import Hardware


@dataclass
class WorkerArgs:
    """What a worker is made from.

    `registration` is the join gate's, and knows what the worker is; `host` brings it its files,
    None leaves that to a person; `needs` are there before a machine may join.
    """

    registration: Registration
    host: MachineHost | None = None
    needs: list[pulumi.Resource] = field(default_factory=list)


class Worker(pulumi.ComponentResource):
    """One worker node. Its files are brought to where they make a node, once it is registered.

    Three resources at most (this component, its registration, its delivery), since each costs a
    checkpoint of the whole state. `summary` is what a person wants to know of it.
    """

    token: ClassVar[str]
    hardware: ClassVar[type[Hardware]]

    def __init__(self, name: str, args: WorkerArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__(self.token, name, None, opts)
        registration = args.registration
        node = registration.node
        if not isinstance(node, self.hardware):
            raise TypeError(f"{name}: {self.token} is not made of {node.name}")
        registration.gate.marks.tell_at(name, self)
        settings = node.settings
        self.summary: dict[str, pulumi.Input[Any]] = {
            "hardware": settings.hardware,
            "address": settings.address,
            "generation": settings.generation,
            # A hash over the join key's 256 random bits tells nothing of it.
            "userDataSha256": registration.gate.shown_seed_values.apply(
                lambda values: node.emission(values).user_data_sha256
            ),
            "joined": self._deliver(name, args),
        }
        self.register_outputs({"address": settings.address})

    def _deliver(self, name: str, args: WorkerArgs) -> pulumi.Input[Any]:
        """What is known of the join."""
        registration, host = args.registration, args.host
        node, gate = registration.node, registration.gate
        delivery = node.delivery()
        if delivery is None or host is None:
            return node.undelivered() | {"readySeconds": None}
        provisioning = host.provisioning

        def command(values: SeedValues) -> str:
            marked = node.delivery(node.marks(node.emission(values)))
            assert marked is not None
            return marked.create

        def files(values: SeedValues) -> str:
            emission = node.emission(values)
            return node.delivery_input(
                emission, provisioning.book(node.name, emission.authority_pem)
            )

        machine = remote.run(
            f"{name}-machine",
            delivery.host,
            create=gate.shown_seed_values.apply(command),
            stdin=gate.seed_values.apply(files),
            delete=delivery.delete,
            before_update=registration.gate.marks.of(name, type(node)),
            parent=self,
            depends_on=[registration.done, *args.needs, host.ready],
        )
        return machine.stdout.apply(node.joined)
