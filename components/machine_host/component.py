"""A provisioning host in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pulumi

from components.join_gate.component import JoinGate
from components.machine_host.provisioning import Provisioning
from components.shell import remote
from components.workers.hardware import Hardware
from stack.models import Cluster, ProvisioningHost


@dataclass
class MachineHostArgs:
    """A provisioning host, the gate of the cluster, and all nodes of it that are at that host.

    `needs` are there before anything is done on the host.
    """

    settings: ProvisioningHost
    cluster: Cluster
    gate: JoinGate
    nodes: Sequence[Hardware]
    needs: list[pulumi.Resource] = field(default_factory=list)


class MachineHost(pulumi.ComponentResource):
    """What the files of a provisioning host's nodes share, and the programs that take them.

    What is there of nodes that are not among `nodes` goes, before any new one comes (`ready`).
    """

    def __init__(
        self, name: str, args: MachineHostArgs, opts: pulumi.ResourceOptions | None = None
    ):
        super().__init__("autojoin:machineHost:MachineHost", name, None, opts)
        owner = f"{pulumi.get_project()}/{pulumi.get_stack()}/{name}"
        self.provisioning = provisioning = Provisioning(
            args.settings, args.cluster.name, owner, args.nodes
        )
        self.ready = remote.run(
            f"{name}-machines",
            args.settings,
            create=provisioning.install_command(),
            stdin=args.gate.authority.certificate_pem.apply(provisioning.install_input),
            delete=provisioning.remove_command(),
            parent=self,
            depends_on=args.needs,
        )
        self.register_outputs({})
