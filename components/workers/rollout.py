"""Nodes whose machine an edit replaces: drained before, a few at a time, awaited before the next.

The engine's hooks hold a machine's command back until its turn has come, whatever `--parallel`
says; a node that does not come back stops the rest.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi

from components.admission import policy
from components.shell import here
from components.workers.effects import identity

_ADMISSION = Path(policy.__file__).with_name("admission.py")


@dataclass(frozen=True)
class Steps:
    """What is done in one node's turn, each given its name and its new identity.

    `leaving` gives standard input for the command that has a node leave the cluster, `back` returns
    once the node is back, and raises pulumi.RunError with the cause where it is not.
    """

    leaving: Callable[[str, str], Awaitable[str]]
    back: Callable[[str, str], Awaitable[None]]


class Rollout:
    """The places that nodes take while they are down; `most` of them at a time.

    A node that does not work before has nothing to lose: it is not drained, and keeps no place.
    """

    def __init__(self, name: str, kubeconfig: str, steps: Steps, most: int = 1):
        self._kubeconfig = kubeconfig
        self._steps = steps
        self._free = asyncio.Semaphore(most)
        self._nodes: dict[str, str] = {}
        self._down: dict[str, tuple[str, str]] = {}
        self._stopped = ""
        self._before = pulumi.ResourceHook(f"{name}: a node's turn to go down", self._take)
        self._after = pulumi.ResourceHook(f"{name}: a node is back", self._give)
        self._failed = pulumi.ErrorHook(f"{name}: a node stays down", self._stop)

    def hooks(self, command: str, node: str) -> pulumi.ResourceHookBinding | None:
        """What the resource `command`, which replaces the machine of `node`, is bound to."""
        if pulumi.runtime.is_dry_run():
            return None
        self._nodes[command] = node
        return pulumi.ResourceHookBinding(
            before_update=[self._before], after_update=[self._after], on_error=[self._failed]
        )

    async def _take(self, args: pulumi.ResourceHookArgs) -> None:
        old, new = await values(args.old_inputs), await values(args.new_inputs)
        wanted = identity(new)
        if wanted is None or wanted == identity(old):
            return
        node = self._nodes[args.name]
        await self._free.acquire()
        try:
            self._go_on(node)
            worked = await self._leave(node, wanted)
        except BaseException:
            self._free.release()
            raise
        if worked:
            self._down[args.urn] = node, wanted
        else:
            self._free.release()

    async def _give(self, args: pulumi.ResourceHookArgs) -> None:
        if args.urn not in self._down:
            return
        try:
            await self._steps.back(*self._down[args.urn])
        except pulumi.RunError as error:
            self._stopped = self._stopped or str(error)
            raise
        finally:
            del self._down[args.urn]
            self._free.release()

    def _stop(self, args: Any) -> bool:
        """The command itself failed: its node is down, and nobody waits for it any more."""
        if self._down.pop(args.urn, None):
            self._stopped = self._stopped or f"{args.name} failed"
            self._free.release()
        return False

    def _go_on(self, node: str) -> None:
        if self._stopped:
            raise pulumi.RunError(
                f"{node} was not touched and keeps running: the rollout stopped ({self._stopped}). "
                "See to that node, then run `pulumi up` again"
            )

    async def _leave(self, node: str, wanted: str) -> bool:
        """Have the node leave the cluster in order; whether it worked before."""
        words = [sys.executable, "-I", str(_ADMISSION), "leave"]
        given = await self._steps.leaving(node, wanted)
        try:
            said = await here.run(words, given, {"KUBECONFIG": self._kubeconfig})
        except here.HereError as error:
            raise pulumi.RunError(str(error)) from None
        return said.strip() == "left"


async def values(inputs: Any) -> dict[str, Any]:
    """The inputs' values of a hook's arguments; None for what is not known yet."""
    return {
        name: await value.future() if isinstance(value, pulumi.Output) else value
        for name, value in (inputs or {}).items()
    }
