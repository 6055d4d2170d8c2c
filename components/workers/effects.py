"""What an edit means for a worker's machine: the one table that previews tell it from.

It follows from the node's identity, which is in the commands that remove it: where that changes the
machine is another one. Whatever else changes reaches no machine that runs.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

# What happens -> what the engine's sign for it is, and what becomes of the machine.
EFFECTS = {
    "added": ("create", "joins"),
    "installed": ("create", "switched on, its DISK IS WRITTEN OVER, joins"),
    "removed": ("delete", "drained, certificate revoked, name barred, Node deleted"),
    "switched off": (
        "delete",
        "drained, SWITCHED OFF, certificate revoked, name barred, Node deleted",
    ),
    "re-provisioned": ("update", "drained, its DISK IS ERASED, starts and joins anew"),
    "re-installed": (
        "update",
        "drained, SWITCHED OFF, its DISK IS WRITTEN OVER, joins anew",
    ),
    "to be provisioned anew": (
        "update",
        "its certificate is revoked; start it from its new seed, by hand",
    ),
    "made anew without a key": (
        "replace",
        "its machine goes and its join key is used: raise its generation instead",
    ),
    "seed delivered anew": ("update", "keeps running, with what it joined with"),
    "files delivered anew": ("update", "keeps running"),
    "registered again": ("update", "keeps running, with its certificate"),
    "settings changed": ("update", "keeps running"),
    "seed changed, not delivered": ("update", "keeps running"),
    "kubelet not changed": (
        "update",
        "keeps its kubelet, which its image brings: name an image with the new one",
    ),
    "known only after the CA host ran": (
        "update",
        "keeps running; where another CA is to be trusted, the gate tells it",
    ),
}
ANEW = ("re-provisioned", "re-installed", "to be provisioned anew")
DRAINED = ("removed", "switched off", "re-provisioned", "re-installed")
# What it is called where the graph writes the disk of a machine that was there before it.
OVER = {"added": "installed", "removed": "switched off", "re-provisioned": "re-installed"}
HARMLESS = ("registered again", "settings changed")


def identity(inputs: Mapping[str, Any]) -> str | None:
    """The identity that a worker's command has, by its inputs; None where it is not known yet."""
    words = shlex.split(str(inputs.get("delete") or ""))
    if len(words) > 2 and words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2].removesuffix("; fi"))
    return words[-1] if words else None


def effect(
    started_here: bool,
    follows_seed: bool,
    anew: bool,
    registration: set[str],
    delivery: set[str],
) -> str:
    """What an edit of a worker means for its machine, one of EFFECTS or "untouched".

    `started_here` where the graph itself restarts the machine, `follows_seed` where whatever
    reaches that makes it another one, `anew` where its identity changes; then the inputs that
    change of its registration and of its delivery.
    """
    if anew:
        kind = "re-provisioned" if started_here else "to be provisioned anew"
        return kind if follows_seed else OVER.get(kind, kind)
    if started_here and "triggers" in delivery:
        return "made anew without a key"
    if not (started_here and follows_seed) and {"stdin", "triggers"} & delivery:
        return "seed delivered anew"
    if registration:
        return "registered again"
    return "settings changed" if delivery else "untouched"
