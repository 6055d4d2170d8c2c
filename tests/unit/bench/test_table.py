"""Ratios, goals, and how they are written."""

from __future__ import annotations

from bench.table import Row, markdown, number, text


def test_a_ratio_is_one_of_medians() -> None:
    row = Row("up", [3.0, 1.0, 2.0], "s", "bare", [1.0, 9.0, 4.0], goal=0.5)
    assert row.value == 0.5
    assert row.met is True


def test_a_goal_may_be_a_lower_bound() -> None:
    assert Row("rate", [60.0], "/s", "raw", [100.0], goal=0.7, at_least=True).met is False
    assert Row("rate", [70.0], "/s", "raw", [100.0], goal=0.7, at_least=True).met is True


def test_a_figure_without_another_is_held_to_the_goal_itself() -> None:
    assert Row("check", [2.5], "s", goal=2.0).met is False
    assert Row("state", [2.5], "KiB").met is None


def test_the_table_tells_spread_and_what_is_missed() -> None:
    line = text([Row("up", [3.0, 1.0, 2.0], "s", "bare", [1.0], goal=1.1)]).splitlines()[1]
    assert line.split() == ["up", "2", "(1–3)", "s", "bare", "1", "s", "2.00", "≤", "1.1", "NO"]
    assert "| up | 0.123 s |" in markdown([Row("up", [0.123456], "s")])


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (1234.5, 3, 0.012345, 99.99)] == [
        "1234",
        "3",
        "0.0123",
        "100",
    ]
