"""Removed workers, and revoked certificates, kept from writing to the API server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from components.admission import policy as render
from components.join_gate import installation as join_gate
from components.join_gate.component import JoinGate, Registration
from components.shell import remote


@dataclass
class AdmissionArgs:
    """The workers that the gate was told of, and how this program reaches their API server.

    `drain_seconds` is how long a node that goes may take to be drained; 0 leaves that away.
    `kubernetes_version` is the kubelets'.
    """

    gate: JoinGate
    registrations: Sequence[Registration]
    kubeconfig: str
    drain_seconds: int
    kubernetes_version: str


class Admission(pulumi.ComponentResource):
    """The admission policy and its list of the barred: two resources, however many workers.

    Both take the workers' identities and nothing else of them, so that an edit that reaches no
    machine leaves them alone. `ready` is what a join waits for: from then on the name is not barred
    any more, and the Node of the identity before is gone, or has its own turn to go (Rollout).
    """

    def __init__(self, name: str, args: AdmissionArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:Admission", name, None, opts)
        gate, nodes = args.gate, [registration.node for registration in args.registrations]
        self._nodes = {node.node: node for node in nodes}
        identities: pulumi.Output[dict[str, str]] = gate.shown_secret.apply(
            lambda pem: {node.node: node.named(pem).identity for node in nodes}
        )
        revoked = remote.run(
            f"{name}-revoked",
            gate.host,
            create=join_gate.revoked_command(gate.authority.host),
            # What a new registration supersedes is revoked then, and is to be barred.
            stdin=pulumi.Output.all(
                identities, _after([it.done for it in args.registrations])
            ).apply(lambda known: join_gate.revoked_input(known[0])),
            quiet=True,
            parent=self,
            depends_on=[gate.ready],
        )
        self._revoked = revoked.stdout
        self._drain_seconds = args.drain_seconds

        def stated(known: list[Any]) -> str:
            rolling = {
                node.node: (node.machine_id(known[0][node.node]), _digest(node.place()))
                for node in nodes
                if node.starts_by_itself
            }
            return render.command_input(
                known[0],
                known[1],
                args.drain_seconds,
                args.kubernetes_version,
                rolling,
                [node.node for node in nodes if node.settings.protect],
            )

        self.ready = remote.run_here(
            f"{name}-bars",
            create=render.command("apply"),
            delete=render.command("remove"),
            stdin=pulumi.Output.all(identities, revoked.stdout).apply(stated),
            environment={"KUBECONFIG": args.kubeconfig},
            parent=self,
        )
        self.register_outputs({"workers": identities})

    async def leaving(self, node: str, identity: str) -> str:
        """Standard input for the turn of `node`, which becomes `identity`; once `ready` is."""
        revoked = await self._revoked.future()
        machine_id = self._nodes[node].machine_id(identity)
        return render.leave_input(node, machine_id, str(revoked), self._drain_seconds)


def _digest(place: list[str]) -> str:
    """Tells one place from another; of many workers it stands in the state twice."""
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:8]


def _after(resources: Sequence[pulumi.Resource]) -> pulumi.Output[None]:
    """Is there once `resources` are, and is no dependency on them.

    With one, every machine would depend on every registration through `ready`, and the engine
    deletes nothing that a resource depends on whose own delete failed: a dead provisioning host
    would keep the registrations of its workers, and with them their certificates.
    """

    async def done() -> None:
        await asyncio.gather(*(resource.urn.future() for resource in resources))

    return pulumi.Output.from_input(done())
