"""A protected worker: no edit removes it, and none makes its machine another one.

Its removal is refused by the engine, as its registration is protected, and once more before its
node would be drained (admission.py), for a `pulumi up` without a preview.
"""

from __future__ import annotations

import pulumi

from components.workers.effects import identity
from components.workers.rollout import values


class Protection:
    """The hook of one gate's protected workers, made with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}: a protected worker stays as it is"
        self._hook: pulumi.ResourceHook | None = None

    def of(self, protect: bool) -> pulumi.ResourceHookBinding | None:
        """The hooks for a worker's registration, which is the first to know of another identity."""
        if not protect:
            return None
        if self._hook is None:
            options = pulumi.ResourceHookOptions(on_dry_run=True)
            self._hook = pulumi.ResourceHook(self._name, refuse, options)
        return pulumi.ResourceHookBinding(before_update=[self._hook])


async def refuse(args: pulumi.ResourceHookArgs) -> None:
    """Raise pulumi.RunError where the update is to another identity."""
    old, new = await values(args.old_inputs), await values(args.new_inputs)
    found = identity(old), identity(new)
    if None in found or found[0] == found[1]:
        return
    node = args.name.removesuffix("-registration")
    raise pulumi.RunError(
        f"{node} is protected, and this edit makes its machine another one ({found[0]} → "
        f"{found[1]}). Take the edit back, or set autojoin:workers.{node}.protect: false"
    )
