"""The wait for all workers at once, at the join gate that hears of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.join_gate import installation as join_gate
from components.join_gate.component import JoinGate
from components.shell import remote
from components.workers.worker import Worker


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
        def nodes(values: Any) -> str:
            wanted = {
                each.node.node: (
                    each.node.emission(values).identity,
                    each.node.settings.join_timeout,
                )
                for each in workers
            }
            return join_gate.await_input(wanted)

        return remote.run(
            f"{name}-ready",
            gate.host,
            create=join_gate.await_command(gate.authority.host),
            stdin=gate.shown_seed_values.apply(nodes),
            parent=self,
            depends_on=[worker.machine for worker in workers if worker.machine],
        )


def _last_line(output: str) -> dict[str, Any]:
    lines = output.strip().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
