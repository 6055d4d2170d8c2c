"""Nodes that an edit takes down: drained before, a few at a time, and awaited before the next.

`kubectl drain` does the evicting, so PodDisruptionBudgets hold. The engine's hooks hold a command
back until its node's turn has come, whatever `--parallel` says; a node that does not come back
stops the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import pulumi

from components.shell.kubectl import REQUEST_SECONDS

# Given to `kubectl drain` itself; its last request may take a little longer.
_GRACE_SECONDS = 30


class Rollout:
    """The places that nodes take while they are down; `most` of them at a time.

    `goes_down` says of an update which node's machine it takes down, None where no machine.
    A node that is not Ready before has nothing to lose: it takes no place and is not drained.
    `drain_seconds` 0 leaves the draining away; `back_seconds` is what a node has to come back.
    """

    def __init__(
        self,
        name: str,
        kubeconfig: str,
        goes_down: Callable[[pulumi.ResourceHookArgs], str | None],
        *,
        most: int = 1,
        drain_seconds: int = 300,
        back_seconds: int = 300,
    ):
        self._kubeconfig = kubeconfig
        self._goes_down = goes_down
        self._drain_seconds = drain_seconds
        self._back_seconds = back_seconds
        self._free = asyncio.Semaphore(most)
        self._down: set[str] = set()
        self._stopped = ""
        self._before = pulumi.ResourceHook(f"{name}: a node's turn to go down", self._take)
        self._after = pulumi.ResourceHook(f"{name}: a node is back", self._give)
        self._failed = pulumi.ErrorHook(f"{name}: a node stays down", self._stop)

    def hooks(self) -> pulumi.ResourceHookBinding:
        """What every command that may take a node down is bound to."""
        return pulumi.ResourceHookBinding(
            before_update=[self._before], after_update=[self._after], on_error=[self._failed]
        )

    async def _take(self, args: pulumi.ResourceHookArgs) -> None:
        node = self._goes_down(args)
        if node is None:
            return
        self._go_on(node)
        if not await self._ready(node):
            return
        await self._free.acquire()
        try:
            self._go_on(node)
            await self._drain(node)
        except BaseException:
            self._free.release()
            raise
        self._down.add(args.urn)

    async def _give(self, args: pulumi.ResourceHookArgs) -> None:
        if args.urn not in self._down:
            return
        node = self._goes_down(args) or args.name
        try:
            await self._await(node)
        except pulumi.RunError as error:
            self._stopped = self._stopped or str(error)
            raise
        finally:
            self._down.discard(args.urn)
            self._free.release()

    def _stop(self, args: Any) -> bool:
        """The command itself failed: its node is down, and nobody waits for it any more."""
        if args.urn in self._down:
            self._down.discard(args.urn)
            self._stopped = self._stopped or f"{args.name} failed"
            self._free.release()
        return False

    def _go_on(self, node: str) -> None:
        if self._stopped:
            raise pulumi.RunError(
                f"{node} was not touched and keeps running: the rollout stopped ({self._stopped}). "
                "See to that node, then run `pulumi up` again"
            )

    async def _ready(self, node: str) -> bool:
        said = await self._kubectl("get", "node", node, "--ignore-not-found", "--output=json")
        conditions = json.loads(said)["status"].get("conditions", []) if said.strip() else []
        return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)

    async def _drain(self, node: str) -> None:
        """Empty the node and take it out of the cluster; as before where that can't be."""
        if self._drain_seconds:
            words = ("--ignore-daemonsets", "--delete-emptydir-data")
            bound = f"--timeout={self._drain_seconds}s"
            try:
                await self._kubectl(
                    "drain", node, *words, bound, seconds=self._drain_seconds + _GRACE_SECONDS
                )
            except pulumi.RunError as error:
                await self._kubectl("uncordon", node)
                raise pulumi.RunError(
                    f"{node} can't be drained in {self._drain_seconds} s and keeps running as it "
                    f"is: {error}. Make room for its pods, loosen their budget, or set "
                    "autojoin:rollout.drainTimeout: 0 to take nodes down as they are"
                ) from None
        # Else the Node of the machine before, which says Ready for a while, is taken for the new.
        await self._kubectl("delete", "node", node, "--ignore-not-found")

    async def _await(self, node: str) -> None:
        bound = f"--timeout={self._back_seconds}s"
        seconds = self._back_seconds + _GRACE_SECONDS
        for condition in ("create", "condition=Ready"):
            try:
                await self._kubectl(
                    "wait", f"node/{node}", f"--for={condition}", bound, seconds=seconds
                )
            except pulumi.RunError as error:
                raise pulumi.RunError(
                    f"{node} is not Ready {self._back_seconds} s after it was provisioned anew: "
                    f"{error}"
                ) from None

    async def _kubectl(self, *words: str, seconds: float = 4 * REQUEST_SECONDS) -> str:
        """What kubectl prints. pulumi.RunError with what it complains of."""
        process = await asyncio.create_subprocess_exec(
            "kubectl",
            *words,
            env={**os.environ, "KUBECONFIG": self._kubeconfig},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, complaint = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.kill()
            raise pulumi.RunError(f"kubectl {words[0]} does not end in {seconds:.0f} s") from None
        if process.returncode:
            raise pulumi.RunError(_shortest(complaint.decode()) or "kubectl gave no reason")
        return output.decode()


def _shortest(complaint: str) -> str:
    """What kubectl can't do, each once, for it repeats that as long as it tries; else its end."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    causes = [line for line in lines if "annot " in line]
    return "; ".join(dict.fromkeys(causes or lines[-1:]))[:800]
