"""Workers in the graph. What each hardware type emits is decided in its file here."""

from __future__ import annotations

from typing import Any

import pulumi

from components.join_gate import installation as join_gate
from components.join_gate.component import JoinGate, SeedValues
from components.machine_host.provisioning import Provisioning
from components.shell import remote
from components.workers.hardware_types import HARDWARE, Emission
from components.workers.marks import marks
from stack.models import Lab


class MachineHost(pulumi.ComponentResource):
    """A provisioning host: what its nodes' files share, and the programs that take them."""

    def __init__(
        self,
        name: str,
        lab: Lab,
        authority_pem: pulumi.Output[str],
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:workers:MachineHost", name, None, opts)
        self.provisioning = provisioning = Provisioning(lab, name)
        self.ready = remote.run(
            f"{name}-machines",
            provisioning.host,
            create=provisioning.install_command(),
            stdin=authority_pem.apply(provisioning.install_input),
            delete=provisioning.remove_command(),
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
        self._made: tuple[SeedValues, Emission] | None = None
        # Many applies of one thing each keep the SDK busier than the rendering does.
        self._values = gate.seed_values
        self._shown_values = gate.shown_seed_values
        self.registration = remote.run(
            f"{name}-registration",
            gate.host,
            create=join_gate.register_command(gate.authority.host, name),
            stdin=gate.seed_values.apply(self._registration_input),
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
            "userDataSha256": gate.shown_seed_values.apply(
                lambda values: self._emission(values).user_data_sha256
            ),
        }

    def join(self, needs: list[pulumi.Resource], hosts: dict[str, MachineHost]) -> None:
        """The second half: bring the files to where they make a node, once `needs` are there."""
        name = self.hardware.lab.provisioner_name(self.hardware.settings)
        host = hosts[name] if name else None
        self.summary["joined"] = self._deliver([self.registration, *needs], host)
        self.register_outputs({"address": self.summary["address"]})

    def _deliver(self, needs: list[pulumi.Resource], host: MachineHost | None) -> pulumi.Input[Any]:
        """What is known of the join."""
        hardware = self.hardware
        delivery = hardware.delivery()
        if delivery is None or host is None:
            return hardware.undelivered() | {"readySeconds": None}
        machine = remote.run(
            f"{hardware.node}-machine",
            delivery.host,
            create=self._shown_values.apply(self._delivery_command),
            stdin=self._values.apply(
                lambda values: self._delivery_input(values, host.provisioning)
            ),
            delete=delivery.delete,
            before_update=self._marks,
            parent=self,
            depends_on=[*needs, host.ready],
        )
        return machine.stdout.apply(hardware.joined)

    def _emission(self, values: SeedValues) -> Emission:
        """Rendered once."""
        if self._made is None or self._made[0] != values:
            self._made = values, self.hardware.emit(*values)
        return self._made[1]

    def _registration_input(self, values: SeedValues) -> str:
        return self.hardware.register_input(self._emission(values))

    def _delivery_command(self, values: SeedValues) -> str:
        delivery = self.hardware.delivery(self.hardware.marks(self._emission(values)))
        assert delivery is not None
        return delivery.create

    def _delivery_input(self, values: SeedValues, host: Provisioning) -> str:
        emission = self._emission(values)
        book = host.book(self.hardware.name, emission.authority_pem)
        return self.hardware.delivery_input(emission, book)
