"""The wait for all workers at once, at the join gate that hears of all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.join_gate import installation as join_gate
from components.join_gate.component import JoinGate
from components.shell import remote, ssh
from components.workers.hardware import Hardware
from components.workers.worker import Worker

# Of the gate's own, once a node's time is over.
_ANSWER_SECONDS = 60


@dataclass
class JoinsArgs:
    """The gate, and the workers that join by it, by the names that their summaries have."""

    gate: JoinGate
    workers: Mapping[str, Worker]


class Joins(pulumi.ComponentResource):
    """Ready are the workers that are waited for; or it fails, with the cause of each that is not.

    It waits again where the identity of one of them changes. `nodes` are the workers' summaries.
    """

    def __init__(self, name: str, args: JoinsArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:Joins", name, None, opts)
        self.nodes: dict[str, dict[str, pulumi.Input[Any]]] = {
            worker: made.summary for worker, made in args.workers.items()
        }
        awaited = {worker: made for worker, made in args.workers.items() if made.node.awaited}
        if awaited:
            told = self._wait(name, args.gate, list(awaited.values())).stdout.apply(_last_line)
            for worker, made in awaited.items():
                joined = told.apply(lambda nodes, name=made.node.node: nodes.get(name))
                self.nodes[worker] = {**made.summary, "joined": joined}
        self.register_outputs({})

    def _wait(self, name: str, gate: JoinGate, workers: list[Worker]) -> Any:
        def nodes(pem: str) -> str:
            wanted = {
                each.node.node: (each.node.named(pem).identity, each.node.join_timeout)
                for each in workers
            }
            return join_gate.await_input(wanted)

        return remote.run(
            f"{name}-ready",
            gate.host,
            create=join_gate.await_command(gate.authority.host),
            stdin=gate.shown_secret.apply(nodes),
            parent=self,
            depends_on=[worker.machine for worker in workers if worker.machine],
        )


def back(gate: JoinGate, nodes: Mapping[str, Hardware]) -> Callable[[str, str], Awaitable[None]]:
    """Waits at the gate for one node of an identity; pulumi.RunError with the cause if it fails.

    `nodes` are by the names that their Nodes have.
    """

    async def wait(node: str, identity: str) -> None:
        seconds = nodes[node].join_timeout
        given = join_gate.await_input({node: (identity, seconds)}).encode()
        command = join_gate.await_command(gate.authority.host)
        try:
            await asyncio.to_thread(
                ssh.run, gate.host, command, stdin=given, seconds=seconds + _ANSWER_SECONDS
            )
        except ssh.SshError as error:
            raise pulumi.RunError(str(error)) from None

    return wait


def _last_line(output: str) -> dict[str, Any]:
    lines = output.strip().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
