"""What an edit means for a worker's machine, said by a plain `pulumi preview` at the worker.

In previews only: `pulumi up` shows what happens as it does. `make preview` tells more, from the
same rules (effects.py).
"""

from __future__ import annotations

import pulumi

from components.workers.effects import EFFECTS, HARMLESS, effect, identity
from components.workers.hardware import Hardware
from components.workers.rollout import values


class Marks:
    """Marks the commands of one gate's workers: `of(name, …)` gives their hooks.

    One hook for all of them, called `name`: each hook is some more values to wait for.
    """

    def __init__(self, name: str) -> None:
        self._name = f"{name}: what an edit means for a machine"
        self._started: dict[str, tuple[bool, bool]] = {}
        self._workers: dict[str, pulumi.Resource] = {}
        self._marked: set[str] = set()
        self._hook: pulumi.ResourceHook | None = None

    def of(self, name: str, node: Hardware) -> pulumi.ResourceHookBinding | None:
        """The hooks for the commands of one worker, to run before an update, or before a machine
        that is there already is first written over; none but in preview.

        The commands are named NAME-registration and NAME-machine.
        """
        if not pulumi.runtime.is_dry_run():
            return None
        self._started[name] = node.starts_by_itself, node.follows_seed
        if self._hook is None:
            options = pulumi.ResourceHookOptions(on_dry_run=True, ignore_errors=True)
            self._hook = pulumi.ResourceHook(self._name, self._mark, options)
            self._hook.__name__ = self._name
        if node.starts_by_itself and not node.follows_seed:
            return pulumi.ResourceHookBinding(
                before_create=[self._hook], before_update=[self._hook]
            )
        return pulumi.ResourceHookBinding(before_update=[self._hook])

    def tell_at(self, name: str, worker: pulumi.Resource) -> None:
        """Say it at the component of worker `name`."""
        self._workers[name] = worker

    async def _mark(self, args: pulumi.ResourceHookArgs) -> None:
        name, _, part = args.name.rpartition("-")
        old, new = await values(args.old_inputs), await values(args.new_inputs)
        anew = identity(old) != identity(new)
        if old and (identity(new) is None or (new.get("stdin") is None and not anew)):
            return  # known only after the CA host ran
        changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        parts = (changed, set()) if part == "registration" else (set(), changed)
        kind = effect(*self._started[name], anew, *parts) if old else "installed"
        if kind not in EFFECTS or name in self._marked:
            return
        self._marked.add(name)
        line = f"{kind}: {EFFECTS[kind][1]}"
        if kind == "seed delivered anew":
            line += "; cloud-init runs once: raise its generation where a joined node is to change"
        tell = pulumi.log.info if kind in HARMLESS else pulumi.log.warn
        tell(line, self._workers.get(name))
