"""The lab's one error type: a message for a person, never a traceback; and how it is told."""

from __future__ import annotations

import sys


class LabError(Exception):
    """What is wrong, what was found, and what to do; one or several lines."""


def tell(error: Exception) -> None:
    """Say to the person what is wrong, each line marked as ours."""
    for line in str(error).splitlines():
        print(f"autojoin: {line}", file=sys.stderr)
