"""Where the time of a join goes, from the times its phases ended at."""

from __future__ import annotations

import pytest

from bench.join import Join, phase_by_phase


def test_phases_add_up_to_the_last_ones_end() -> None:
    # By name, as an output of the stack has them.
    phases = {"certificate": 1.75, "clock": 1.5, "ready": 2.5}
    rows = phase_by_phase(1, [Join(100.0, 101.25, 102.25, 102.5, 1.0, 103.0, {}, phases)])
    assert [row.name.split(",")[0] for row in rows[1:]] == ["- clock", "- certificate", "- ready"]
    assert [row.value for row in rows] == pytest.approx([1.25, 0.25, 0.25, 0.75])
    assert sum(row.value for row in rows) == pytest.approx(2.5)
