"""A provisioning host in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.join_gate.component import JoinGate
from components.machine_host.provisioning import Provisioning
from components.shell import remote
from components.workers.hardware import Hardware
from stack.models import ProvisioningHost


@dataclass
class MachineHostArgs:
    """A provisioning host, the nodes that it feeds, and the gate that they join by."""

    settings: ProvisioningHost
    gate: JoinGate
    nodes: Sequence[Hardware]


class MachineHost(pulumi.ComponentResource):
    """What the files of a provisioning host's nodes share, and the programs that take them."""

    def __init__(
        self, name: str, args: MachineHostArgs, opts: pulumi.ResourceOptions | None = None
    ):
        super().__init__("autojoin:machineHost:MachineHost", name, None, opts)
        self.provisioning = provisioning = Provisioning(args.settings, args.nodes)
        self.ready = remote.run(
            f"{name}-machines",
            args.settings,
            create=provisioning.install_command(),
            stdin=args.gate.authority.certificate_pem.apply(provisioning.install_input),
            delete=provisioning.remove_command(),
            parent=self,
        )
        self.register_outputs({})
