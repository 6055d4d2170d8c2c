"""What a program costs grows with its resources, and not with their square."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.preview.deployed import Config, Deployed

pytestmark = pytest.mark.full

# Loaded by every Python that starts: in the program, counts the tasks that a wait looks at.
_COUNTING = """
import asyncio, atexit, sys

looked_at = 0
wait = asyncio.wait

async def counting(tasks, **how):
    global looked_at
    looked_at += len(tasks)
    return await wait(tasks, **how)

def tell():
    if "pulumi-language-python-exec" in " ".join(sys.orig_argv):
        open({file!r}, "a").write(f"{{looked_at}}\\n")

asyncio.wait = counting
atexit.register(tell)
"""


def test_the_program_waits_for_registrations_and_not_for_every_value_again_after_each(
    stack: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(config: Config) -> None:
        pass

    counts = tmp_path / "counts"
    (tmp_path / "sitecustomize.py").write_text(_COUNTING.format(file=str(counts)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stack.preview(nothing)
    # All values of three workers, after each of them: 12061.
    assert int(counts.read_text()) < len(stack.state())
