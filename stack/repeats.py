"""Values that stand twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def twins(values: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Pairs of indexes at which the same value, None aside, stands; the earliest one first."""
    seen: dict[object, int] = {}
    for index, value in enumerate(values):
        if value is None:
            continue
        if value in seen:
            yield seen[value], index
        seen.setdefault(value, index)
