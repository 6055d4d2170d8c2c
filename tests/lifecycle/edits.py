"""Edits and accidents as data: `edits/*.yaml`, each a list of entries that follow each other.

    name: what somebody does                   words that are a sentence with "it is so that"
    edit: {section: {key: value}}              a merge patch of the stack file's config (RFC 7396)
    on-hypervisor, on-authority: command       an accident there
    on-cluster: words                          of kubectl, for the same
    nodes: {kind: [names]}                     what the summary says of nodes; the rest is untouched
    sections: [names]                          what else it tells of, all of it, where it is given
    replace: name                              a resource that is to be replaced in this run
    words: [texts]                             that stand in the summary for a person
    up: [texts]                                what `pulumi up` prints
    fails: [texts]                             what it prints where it fails
    then, then-on-authority: command           mends the accident, and `pulumi up` goes on; without
                                               it the accident is over before the edit begins
    restarts: [sections]                       whose own pods the accident itself starts anew
    then-edit: {section: {key: value}}         and what is edited before it goes on
    short: true                                one of the few that a `make test` without EDITS tries

In strings SUBNET is the first three parts of the lab's addresses, POOL its load balancers' network,
HOST-KEY and KEY-FILE those of its hypervisor.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]
HERE = Path(__file__).parent / "edits"
# How many random edits; with it, every named one and every moment of a kill is tried too.
EDITS = int(os.environ.get("EDITS", "0"))


@dataclass(frozen=True)
class Edit:
    """One entry; see above."""

    kind: str
    name: str
    edit: dict[str, Any] = field(default_factory=dict)
    on_hypervisor: str = ""
    on_authority: str = ""
    on_cluster: str = ""
    nodes: dict[str, list[str]] = field(default_factory=dict)
    sections: list[str] | None = None
    replace: str = ""
    words: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    then: str = ""
    then_on_authority: str = ""
    restarts: list[str] = field(default_factory=list)
    then_edit: dict[str, Any] = field(default_factory=dict)
    short: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}".replace(" ", "-")

    @property
    def lasts(self) -> bool:
        """Whether the accident lasts while `pulumi up` runs."""
        return bool(self.then or self.then_on_authority)


def load(kind: str) -> list[Edit]:
    """The entries of one file; without EDITS the few that need none of those before them."""
    entries = yaml.safe_load((HERE / f"{kind}.yaml").read_text())
    found = [
        Edit(kind=kind, **{key.replace("-", "_"): value for key, value in entry.items()})
        for entry in entries
    ]
    return [edit for edit in found if edit.short or EDITS]


def patched(config: Config, patch: Config, names: dict[str, str]) -> Config:
    """`config` after a merge patch: mappings key by key, null takes a key away."""
    found = copy.deepcopy(config)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            below = found.get(key)
            found[key] = patched(below if isinstance(below, dict) else {}, value, names)
        else:
            found[key] = named(value, names)
    return found


def named(value: Any, names: dict[str, str]) -> Any:
    """With what the names stand for in this lab, in all its strings."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(name, text)
        return value
    if isinstance(value, list):
        return [named(each, names) for each in value]
    if isinstance(value, dict):
        return {key: named(each, names) for key, each in value.items()}
    return value
