"""Misspelt keys: named once, then read as what they probably mean, so that nothing follows twice.

Without this, `podCidr:` would be an unknown key and, one line on, a missing `podCidrs`.
"""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from stack import wording
from stack.models import Lab
from stack.problem import Problem, key_path


def mended(values: dict[str, Any]) -> tuple[list[Problem], dict[str, Any], dict[str, str]]:
    """The misspelt keys, values with each under its right name, and right place → written one."""
    problems: list[Problem] = []
    spelt: dict[str, str] = {}
    # A key inside a misspelt section is known as misspelt only once the section is put right.
    while True:
        found, values = _mended_once(values, spelt)
        if not found:
            return problems, values, spelt
        problems += found


def _mended_once(
    values: dict[str, Any], spelt: dict[str, str]
) -> tuple[list[Problem], dict[str, Any]]:
    problems: list[Problem] = []
    try:
        Lab.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        unknown = [item for item in error.errors() if item["type"] == "extra_forbidden"]
    else:
        return problems, values
    changed = copy.deepcopy(values) if unknown else values
    for details in unknown:
        location = tuple(details["loc"])
        parent = wording.value_at(changed, location[:-1])
        near = wording.nearest_key(location)
        if near and near not in parent:
            problems.append(as_written(wording.problem(details, values), spelt))
            parent[near] = parent.pop(location[-1])
            spelt[key_path((*location[:-1], near))] = key_path(location)
    return problems, changed


def as_written(problem: Problem, spelt: dict[str, str]) -> Problem:
    """The same problem, its key as it stands in the file."""
    for right, written in reversed(spelt.items()):
        rest = problem.key.removeprefix(right)
        if rest != problem.key and rest[:1] in ("", ".", "["):
            key = written + rest
            problem = Problem(key, problem.wrong, problem.found, problem.hint)
    return problem
