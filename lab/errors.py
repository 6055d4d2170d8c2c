"""The lab's one error type: a message for a person, never a traceback."""

from __future__ import annotations


class LabError(Exception):
    """What is wrong, what was found, and what to do; one or several lines."""
