"""Stack files as people write them (situations.yaml): what `make check` says, word by word."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.load import examine_content

DATA = yaml.safe_load((Path(__file__).parent / "situations.yaml").read_text())


def changed(change: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = copy.deepcopy(DATA["base"])
    for place, value in change.items():
        section, _, key = place.partition("__")
        parent, last = (values[section], key) if key else (values, section)
        if value is None:
            del parent[last]
        else:
            parent[last] = value
    return {"config": {f"autojoin:{section}": value for section, value in values.items()}}


@pytest.mark.parametrize("case", DATA["situations"], ids=lambda case: case["name"])
def test_what_is_said(case: dict[str, Any]) -> None:
    stack = changed(case["change"])
    report = examine_content(yaml.safe_dump(stack).encode(), "x")
    problems = [str(problem) for problem in report.problems]
    warnings = [f"warning: {warning}" for warning in report.warnings]
    if "autojoin:bgp" not in stack["config"]:
        # Said of every cluster without BGP, and not in each of the situations.
        warnings.remove(f"warning: {DATA['without-bgp']}")
    assert [*problems, *warnings] == case["says"]
