"""One thing that is wrong with a configuration."""

from __future__ import annotations

from dataclasses import dataclass


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
