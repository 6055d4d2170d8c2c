"""What an edit means for a worker's machine, said by a plain `pulumi preview` at the worker.

One hook for all workers, and in previews only: `pulumi up` shows what happens as it does.
`make preview` tells more, from the same rules (components/summary.py).
"""

from __future__ import annotations

from typing import Any

import pulumi

from components import summary

_HARMLESS = ("registered again", "settings changed")
_NAME = "what an edit means for a machine"


class Marks:
    """Marks the commands of workers: `of(node, …)` for each, then their `hooks`."""

    def __init__(self) -> None:
        self._workers: dict[str, tuple[pulumi.Resource, bool]] = {}
        self._marked: set[str] = set()
        self._hook: pulumi.ResourceHook | None = None

    def of(self, node: str, worker: pulumi.Resource, started_here: bool) -> list[Any]:
        """The hooks for the commands of one worker, to run before an update; none but in preview.

        The commands are named NODE-registration and NODE-machine.
        """
        if not pulumi.runtime.is_dry_run():
            return []
        self._workers[node] = worker, started_here
        if self._hook is None:
            options = pulumi.ResourceHookOptions(on_dry_run=True, ignore_errors=True)
            self._hook = pulumi.ResourceHook(_NAME, self._mark, options)
            self._hook.__name__ = _NAME
        return [self._hook]

    async def _mark(self, args: pulumi.ResourceHookArgs) -> None:
        node, _, part = args.name.rpartition("-")
        worker, started_here = self._workers[node]
        changed = await _changed(args.old_inputs or {}, args.new_inputs or {})
        if changed is None or node in self._marked:
            return
        self._marked.add(node)
        pair = (changed, set()) if part == "registration" else (set(), changed)
        kind = summary.machine_change(started_here, *pair)
        if kind not in summary.EFFECTS:
            self._marked.discard(node)
            return
        line = f"{kind}: {summary.EFFECTS[kind][1]}"
        if kind == "seed delivered anew":
            line += "; cloud-init runs once: raise its generation where a joined node is to change"
        tell = pulumi.log.info if kind in _HARMLESS else pulumi.log.warn
        tell(line, worker)


async def _changed(old: Any, new: Any) -> set[str] | None:
    """The names of the inputs that differ; None where that is known only after the CA host ran."""
    found = set()
    for name in {*old, *new}:
        before, after = await _value(old.get(name)), await _value(new.get(name))
        if name == "stdin" and after is None:
            return None
        if before != after:
            found.add(name)
    return found


async def _value(value: Any) -> Any:
    return await value.future() if isinstance(value, pulumi.Output) else value


marks = Marks()
