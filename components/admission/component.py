"""Removed workers, and revoked certificates, kept from writing to the API server."""

from __future__ import annotations

import pulumi

from components.admission import policy as render
from components.cilium.component import kubeconfig
from components.join_gate import installation as join_gate
from components.join_gate.component import JoinGate
from components.shell import remote
from stack.models import Lab


class Admission(pulumi.ComponentResource):
    """The admission policy and its list of the barred: two resources, however many workers.

    Both take the workers' names and generations and nothing else of them, so that any other edit
    of a worker leaves them alone. `ready` is what a join waits for: from then on the name is not
    barred any more, and the Node of the generation before is gone.
    """

    def __init__(
        self,
        name: str,
        lab: Lab,
        gate: JoinGate,
        registrations: list[pulumi.Resource],
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:index:Admission", name, None, opts)
        generations = {worker: lab.workers[worker].generation for worker in sorted(lab.workers)}
        revoked = remote.run(
            f"{name}-revoked",
            gate.host,
            create=join_gate.revoked_command(gate.authority.host),
            stdin=join_gate.revoked_input(generations),
            quiet=True,
            parent=self,
            # What a new registration supersedes is revoked then, and is to be barred.
            depends_on=[gate.ready, *registrations],
        )
        self.ready = remote.run_here(
            f"{name}-bars",
            create=render.command("apply"),
            delete=render.command("remove"),
            stdin=revoked.stdout.apply(lambda text: render.command_input(generations, text)),
            environment={"KUBECONFIG": kubeconfig(lab)},
            parent=self,
        )
        self.register_outputs({"workers": generations})
