"""Files written down by what they have in common with others: input of on_host/assemble.sh.

Nodes' files are nearly the same for all nodes of a kind. What is common lies on their provisioning
host once, as a book; a recipe holds what is one node's own, and which lines of the book go between.
Not compressed: compressors differ between machines, and the same files must give the same text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from components.archive import File

ASSEMBLE_SCRIPT = Path(__file__).parent / "on_host" / "assemble.sh"
SUM_DIGITS = 16
# An excerpt costs about as much as this many characters.
_SHORT_EXCERPT = 12
# Of a line that stands in a book more often, the first places only are looked at.
_MOST_PLACES = 8
_ZEROS = re.compile(rb"\0{16,}")
_SHORT_COPY = 256


@dataclass(frozen=True)
class Book:
    """Lines that the files of many nodes have in common; its name is the digest of its text."""

    text: str

    @cached_property
    def name(self) -> str:
        return digest(self.text.encode())

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")[:-1]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Where each line stands, counted from 0."""
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self.lines):
            where = found.setdefault(line, [])
            if len(where) < _MOST_PLACES:
                where.append(number)
        return found


def book(files: Mapping[str, File], without: Collection[str] = ()) -> Book:
    """All lines of the text files among `files` but those that hold one of the texts `without`."""
    contents = (files[path].content for path in sorted(files))
    text = "".join(content.decode() for content in contents if _is_text(content))
    lines = text.split("\n")[:-1]
    kept = [line for line in lines if not any(part in line for part in without)]
    return Book("".join(f"{line}\n" for line in kept))


def digest(content: bytes) -> str:
    """The start of a content's SHA-256: against accidents, not against an attacker."""
    return hashlib.sha256(content).hexdigest()[:SUM_DIGITS]


def recipe(files: Mapping[str, File], shared: Book | None = None) -> str:
    """The recipe of `files` (relative path -> file), with excerpts of `shared`."""
    writer = _Writer(shared)
    # Files with binary content come last: they may hold others of them whole.
    for path in sorted(files, key=lambda it: (not _is_text(files[it].content), it)):
        writer.add(path, files[path])
    return "\n".join([*writer.steps, "end", ""])


def _is_text(content: bytes) -> bool:
    """Whether it is whole lines that a shell can read."""
    if (content and not content.endswith(b"\n")) or b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass
class _Writer:
    shared: Book | None
    steps: list[str] = field(default_factory=list)
    before: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shared is not None:
            self.steps.append(f"book {self.shared.name}")

    def add(self, path: str, file: File) -> None:
        self.steps.append(f"file {file.mode:o} {digest(file.content)} {path}")
        if _is_text(file.content):
            self._lines(file.content.decode().split("\n")[:-1])
        else:
            self._bytes(file.content)
        self.before[path] = file.content

    def _lines(self, lines: list[str]) -> None:
        at = 0
        while at < len(lines):
            first, count = self._longest(lines, at)
            if sum(map(len, lines[at : at + count])) + count > _SHORT_EXCERPT:
                self.steps.append(f"={first + 1},{first + count}")
            else:
                count = 1
                self.steps.append(f"+{lines[at]}")
            at += count

    def _longest(self, lines: list[str], at: int) -> tuple[int, int]:
        """The longest run of the book's lines that `lines` has from `at` on: start and length."""
        best = (0, 0)
        if self.shared is None:
            return best
        known = self.shared.lines
        for start in self.shared.places.get(lines[at], ()):
            count = 1
            most = min(len(lines) - at, len(known) - start)
            while count < most and known[start + count] == lines[at + count]:
                count += 1
            best = max(best, (start, count), key=lambda it: it[1])
        return best

    def _bytes(self, content: bytes) -> None:
        """Copies of earlier files first, then runs of zeros; the rest as base64."""
        for path, inner in self.before.items():
            if len(inner) >= _SHORT_COPY and inner in content:
                ahead, _, behind = content.partition(inner)
                self._bytes(ahead)
                self.steps.append(f"<{path}")
                self._bytes(behind)
                return
        at = 0
        for zeros in _ZEROS.finditer(content):
            self._base64(content[at : zeros.start()])
            self.steps.append(f"0{len(zeros[0])}")
            at = zeros.end()
        self._base64(content[at:])

    def _base64(self, content: bytes) -> None:
        if content:
            self.steps.append("@" + base64.b64encode(content).decode())
