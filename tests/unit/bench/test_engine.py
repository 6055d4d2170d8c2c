"""The engine's rows on the smallest lab: both sides run, and what is compared is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench import engine

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def result() -> Iterator[engine.Result]:
    with engine.bed() as place:
        yield engine.measure(place, 1, repetitions=1)


def test_both_sides_are_measured_and_told(result: engine.Result) -> None:
    rows = {row.name: row for row in engine.ratios([result])}
    assert set(rows) == {f"{name}, 1 workers" for name in ("preview", "up", "unchanged")}
    assert all(min(*row.ours, *row.other) > 0 for row in rows.values())


def named(state: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((each["type"], each["name"]) for each in engine.written_down(state))


def test_both_sides_have_the_same_resources(result: engine.Result) -> None:
    assert len(result.state) > 10
    assert named(result.bare.state()) == named(result.state)


def test_a_worker_costs_its_own_resources(result: engine.Result) -> None:
    added = engine.operations(result.ours.figures["one more"][0])
    assert added >= result.resources_per_worker > 0


def test_the_programs_memory_is_seen(result: engine.Result) -> None:
    for side in (result.ours, result.bare):
        assert side.figures["unchanged"][0].peak_mib > 20
