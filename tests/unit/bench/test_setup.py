"""The cold set-up's rows account for all of its CPU time."""

from __future__ import annotations

import pytest

from bench import setup
from bench.measure import BenchError
from tools.pins import Layout

OUTPUT = """\
autojoin: [1/4] Debian packages
autojoin: [2/4] kubelet
autojoin: [1/4] Debian packages done in 12 s, 7 s of CPU
autojoin: [2/4] kubelet … 30 s
autojoin: [2/4] kubelet done in 31 s, 55 s of CPU
autojoin: [3/4] links done in 0 s, 0 s of CPU
autojoin: set-up done in 45 s
"""


def test_the_rows_add_up() -> None:
    whole, cpu, *parts = setup.split(46.5, 65.5, OUTPUT)
    assert [(row.name, row.value) for row in parts] == [
        ("- Debian packages", 7),
        ("- kubelet", 55),
        ("- 1 others, and between", 3.5),
    ]
    assert (whole.value, cpu.value) == (46.5, sum(row.value for row in parts))


def test_tools_of_this_machines_cache_are_not_taken_for_a_fresh_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"{Layout().binaries}:/usr/bin:{Layout().venv / 'bin'}:/bin")
    assert setup.path_of_a_fresh_machine() == "/usr/bin:/bin"


def test_a_set_up_that_told_nothing_is_no_figure() -> None:
    with pytest.raises(BenchError):
        setup.split(1.0, 1.0, "autojoin: set-up done in 1 s\n")
