"""One thing that is wrong with a configuration, and how its place is written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

NAMESPACE = "autojoin"
# So many names a line tells.
MOST_NAMES = 5

# The parts of a place: section, keys and list indexes, from the outermost.
Location = tuple[int | str, ...]


@dataclass(frozen=True)
class Problem:
    """`key: what is wrong (what was found); hint`."""

    key: str
    wrong: str
    found: str = ""
    hint: str = ""

    def __str__(self) -> str:
        found = f" ({self.found})" if self.found else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.key}: {self.wrong}{found}{hint}"


class ConfigError(Exception):
    """A configuration that can't be used; `problems` holds every one that was found."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def key_path(location: Sequence[int | str]) -> str:
    """`autojoin:workers.metal-1.mac`, `autojoin:bgp.peers[0].name`: as `pulumi config` writes it.

    `location` begins with the section's name without its namespace.
    """
    return NAMESPACE if not location else f"{NAMESPACE}:{dotted(location)}"


def dotted(location: Sequence[int | str]) -> str:
    """The parts of a place, with dots and brackets between."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif path:
            path += f".{part}" if re.fullmatch(r"[\w:/-]{1,80}", part) else f"[{quoted(part)}]"
        else:
            path = part if re.fullmatch(r"[\w:/.-]{1,80}", part) else quoted(part)
    return path


def quoted(text: str) -> str:
    """Text in double quotes on one line, shortened where it is long."""
    return shortened(json.dumps(text, ensure_ascii=False))


def shortened(text: str) -> str:
    """At most 60 characters, on one line, nothing in it that a terminal would obey."""
    plain = "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)
    return plain if len(plain) <= 60 else plain[:57] + "…"


def some(names: list[str]) -> str:
    """Names for a line: the first few, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
