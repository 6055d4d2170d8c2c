"""Workers in the graph. What each hardware type emits is decided in render/hardware/."""

from __future__ import annotations

from typing import Any

import pulumi

from components import remote
from components.join_gate import JoinGate
from components.marks import marks
from config.models import Host, Lab
from render import join_gate
from render.hardware import HARDWARE, Emission, nspawn


class MachineHost(pulumi.ComponentResource):
    """A Linux host on which nspawn machines run: the script and unit that start them."""

    def __init__(self, name: str, host: Host, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:workers:MachineHost", name, None, opts)
        self.ready = remote.run(
            f"{name}-machines",
            host,
            create=nspawn.install_command(),
            stdin=nspawn.install_input(),
            parent=self,
        )
        self.register_outputs({})


class Worker(pulumi.ComponentResource):
    """One worker node: registered at the join gate; then (`join`) its files are delivered.

    Three resources at most (this component, its registration, its delivery), since each costs a
    checkpoint of the whole state.
    """

    def __init__(
        self,
        name: str,
        lab: Lab,
        gate: JoinGate,
        opts: pulumi.ResourceOptions | None = None,
    ):
        settings = lab.workers[name]
        kind = "".join(word.capitalize() for word in settings.hardware.split("-"))
        super().__init__(f"autojoin:workers:{kind}", name, None, opts)
        self.hardware = HARDWARE[settings.hardware](lab, name)
        self._marks = marks.of(name, self, settings.hardware == "nspawn")
        self._emitted = emission = self._emission(gate)
        self.registration = remote.run(
            f"{name}-registration",
            gate.host,
            create=join_gate.register_command(gate.authority.host, name),
            stdin=emission.apply(self.hardware.register_input),
            delete=join_gate.remove_node_command(gate.authority.host, name),
            quiet=True,
            before_update=self._marks,
            parent=self,
            depends_on=[gate.ready],
        )
        self.summary: dict[str, pulumi.Input[Any]] = {
            "hardware": settings.hardware,
            "address": settings.address,
            "generation": settings.generation,
            # A hash over the join key's 256 random bits tells nothing of it.
            "userDataSha256": pulumi.Output.unsecret(
                emission.apply(lambda emitted: emitted.user_data_sha256)
            ),
        }

    def join(self, needs: list[pulumi.Resource]) -> None:
        """The second half: bring the files to where they make a node, once `needs` are there."""
        self.summary["joined"] = self._deliver(self._emitted, [self.registration, *needs])
        self.register_outputs({"address": self.summary["address"]})

    def _emission(self, gate: JoinGate) -> pulumi.Output[Emission]:
        values = pulumi.Output.all(gate.secret, gate.authority.certificate_pem)
        return pulumi.Output.secret(values.apply(lambda known: self.hardware.emit(*known)))

    def _deliver(
        self, emission: pulumi.Output[Emission], needs: list[pulumi.Resource]
    ) -> pulumi.Input[Any]:
        """What is known of the join."""
        delivery = self.hardware.delivery()
        if delivery is None:
            return self.hardware.undelivered() | {"readySeconds": None}
        machine = remote.run(
            f"{self.hardware.node}-machine",
            delivery.host,
            create=delivery.create,
            stdin=emission.apply(self.hardware.delivery_input),
            delete=delivery.delete,
            before_update=self._marks,
            parent=self,
            depends_on=needs,
        )
        return machine.stdout.apply(self.hardware.joined)
