"""Rows of ratios, and how they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure: ours against another's, over the same number of repetitions.

    `ours` and `other` are in `unit`, a value for each repetition; `goal` bounds the ratio of their
    medians, from below where `at_least`. Without `other` the figure itself is held to the goal;
    without a goal it is only told.
    """

    name: str
    ours: Sequence[float]
    unit: str
    other_name: str = ""
    other: Sequence[float] = ()
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def value(self) -> float:
        """The ratio; the figure itself where there is nothing to hold it against."""
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.other) if self.other else ours

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


HEADINGS = ("what", "ours", "against", "theirs", "ratio", "goal", "met", "note")


def cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.at_least else "≤"
    return (
        row.name,
        shown(row.ours, row.unit),
        row.other_name,
        shown(row.other, row.unit) if row.other else "",
        f"{row.value:.2f}" if row.other else "",
        "" if row.goal is None else f"{sign} {row.goal:g}",
        {True: "yes", False: "NO", None: ""}[row.met],
        row.note,
    )


def shown(values: Sequence[float], unit: str) -> str:
    """The median, with the spread where there are several values."""
    spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
    return f"{number(statistics.median(values))}{spread} {unit}".strip()


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def text(rows: Sequence[Row]) -> str:
    """For a terminal, in columns."""
    table = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines)
