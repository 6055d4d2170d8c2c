"""The text of a stack file as plain data, read so that nothing in it is guessed or lost.

PyYAML's own loader keeps the last of two equal keys, reads `yes` and `0777` as YAML 1.1
does (Pulumi's reader does not), and follows any number of aliases. Here the events of its parser
are put together instead: each such thing is a problem with its exact place, and the rest of the
file is read on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from stack.problem import Location, Problem, dotted, shortened

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 400_000

TWICE = "stands twice"

_STANDARD_TAG = "tag:yaml.org,2002:"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Document:
    """What a file holds: plain data, and the line (from 1) at which each place stands."""

    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(content: bytes, name: str) -> Document:
    """The document in `content`. What keeps it from being read is a problem of the file `name`."""
    wrong = _unreadable(content)
    if wrong:
        return Document(None, problems=[Problem(name, *wrong)])
    text = content.decode("utf-8-sig")
    try:
        return _Reader(name).read(text)
    except yaml.MarkedYAMLError as error:
        return Document(None, problems=[_syntax(error, text, name)])
    except yaml.reader.ReaderError as error:
        place = f"line {text.count(chr(10), 0, error.position) + 1}"
        found = f"{place}: {shortened(str(error.reason))}"
        return Document(None, problems=[Problem(name, "is no YAML", found)])
    except _Hopeless as error:
        return Document(None, problems=[Problem(name, *error.args)])


def _unreadable(content: bytes) -> tuple[str, ...]:
    """What is wrong with the bytes: problem, what was found, hint; nothing where they are text."""
    if len(content) > MAX_BYTES:
        size = f"{len(content) / 1024 / 1024:.0f} MiB"
        return ("is too large for a stack file", size, f"at most {MAX_BYTES // 1024**2} MiB")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("is not UTF-8", "it begins as UTF-16 does", "save it as UTF-8")
    if b"\0" in content:
        return ("is not text", f"a zero byte at {content.index(0)}", "save it as UTF-8")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}"
        return ("is not UTF-8", found, "save it as UTF-8")
    return ()


def _syntax(error: yaml.MarkedYAMLError, text: str, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    reason = (error.problem or error.context or "").replace("could not find", "lacks the")
    if mark is None:
        return Problem(name, "is no YAML", shortened(reason))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Problem(name, "is no YAML", f"{place}: a tab", "indent with spaces")
    return Problem(name, "is no YAML", f"{place}: {reason}", _syntax_hint(reason))


def _syntax_hint(reason: str) -> str:
    if "mapping values are not allowed" in reason:
        return "a value that holds `: ` needs quotes; keys of one mapping stand in one column"
    if "%" in reason or "@" in reason or "`" in reason or "cannot start any token" in reason:
        return "put the value into quotes"
    return "look at that line and the one before"


def shown(place: Location) -> str:
    """A place in the file; keys of the configuration stand under `config:`, which is left out."""
    inside = place[1:] if place[:1] == ("config",) and len(place) > 1 else place
    return dotted(inside)


# --- from events to data ---------------------------------------------------------------------


class _Hopeless(Exception):
    """What makes it useless to read on: problem, found, hint."""


@dataclass(eq=False)
class _Scalar:
    text: str
    line: int
    tag: str | None
    plain: bool


@dataclass(eq=False)
class _List:
    line: int
    tag: str | None
    items: list[_Node] = field(default_factory=list)

    def add(self, node: _Node) -> None:
        self.items.append(node)


@dataclass(eq=False)
class _Mapping:
    line: int
    tag: str | None
    pairs: list[tuple[_Node, _Node]] = field(default_factory=list)
    key: _Node | None = None

    def add(self, node: _Node) -> None:
        if self.key is None:
            self.key = node
        else:
            self.pairs.append((self.key, node))
            self.key = None


_Node = _Scalar | _List | _Mapping


def _nodes(text: str) -> list[_Node]:
    """The documents of a text. Without recursion, so that no nesting exhausts the stack."""
    roots = _List(1, None)
    above: list[_List | _Mapping] = [roots]
    anchors: dict[str, _Node] = {}
    names: list[str | None] = []

    def add(node: _Node, anchor: str | None) -> None:
        if anchor:
            anchors[anchor] = node
        above[-1].add(node)

    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0]
            add(_Scalar(event.value, line, event.tag, plain), event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            kind = _List if isinstance(event, yaml.SequenceStartEvent) else _Mapping
            above.append(kind(line, event.tag))
            names.append(event.anchor)
            if len(above) > MAX_DEPTH:
                raise _Hopeless("is nested too deeply", f"line {line}", _DEPTH_HINT)
        elif isinstance(event, yaml.CollectionEndEvent):
            add(above.pop(), names.pop())
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                found = f"line {line}: *{shortened(str(event.anchor))}"
                raise _Hopeless("has an alias whose anchor does not stand before it", found)
            add(anchors[event.anchor], None)
    return roots.items


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.document = Document(None)
        self.count = 0

    def read(self, text: str) -> Document:
        roots = _nodes(text)
        if len(roots) > 1:
            found = f"another begins in line {roots[1].line}"
            raise _Hopeless("holds more than one document", found, "keep one, without `---`")
        if roots:
            self.document.data = self._data(roots[0], ())
        return self.document

    def _problem(self, place: Location, wrong: str, found: str = "", hint: str = "") -> None:
        key = shown(place) if place else self.name
        self.document.problems.append(Problem(key, wrong, found, hint))

    # Aliases are followed here, so size and depth count again.

    def _data(self, node: _Node, place: Location) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise _Hopeless(
                "holds too many values", f"more than {MAX_NODES}", "look at its aliases"
            )
        if len(place) > MAX_DEPTH:
            raise _Hopeless("is nested too deeply", f"line {node.line}", _DEPTH_HINT)
        self.document.lines.setdefault(place, node.line)
        if isinstance(node, _Scalar):
            return self._scalar(node, place)
        if node.tag:
            self._tagged(node.tag, place)
        if isinstance(node, _Mapping):
            return self._mapping(node, place)
        return [self._data(item, (*place, index)) for index, item in enumerate(node.items)]

    def _mapping(self, node: _Mapping, place: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key, value in node.pairs:
            if not isinstance(key, _Scalar):
                self._problem(place, "has a key that is no text", f"line {key.line}")
            elif key.text == "<<" and key.plain:
                merged = self._merged(value, place)
            elif key.text in seen:
                lines = f"lines {seen[key.text]} and {key.line}"
                self._problem((*place, key.text), TWICE, lines, "keep one")
            else:
                seen[key.text] = key.line
                self.document.lines[(*place, key.text)] = key.line
                found[key.text] = self._data(value, (*place, key.text))
        return {**merged, **found}

    def _merged(self, node: _Node, place: Location) -> dict[str, Any]:
        """The mapping that `<<: *name` or `<<: [*one, *other]` brings in; the first one wins."""
        merged: dict[str, Any] = {}
        for part in node.items if isinstance(node, _List) else [node]:
            if isinstance(part, _Mapping):
                merged = {**self._data(part, place), **merged}
            else:
                self._problem(place, "merges something that is no mapping", f"line {node.line}")
        return merged

    def _tagged(self, tag: str, place: Location) -> None:
        shown_tag = shortened(tag.replace(_STANDARD_TAG, "!!"))
        self._problem(place, "carries a tag", shown_tag, "write the value alone")

    def _scalar(self, node: _Scalar, place: Location) -> Any:
        text = node.text
        if node.tag and node.tag not in ("!", _STANDARD_TAG + "str"):
            self._tagged(node.tag, place)
        if node.tag or not node.plain:
            return text
        wrong = _ambiguous(text)
        if wrong:
            self._problem(place, *wrong)
        return _plain(text)


_DEPTH_HINT = f"at most {MAX_DEPTH} levels"
_YES_OR_NO = {"yes", "no", "on", "off"}


def _ambiguous(text: str) -> tuple[str, ...]:
    """What readers of YAML disagree about: problem, found, hint."""
    if text.lower() in _YES_OR_NO:
        wrong = "is a truth value to some readers of YAML and text to others"
        return (wrong, text, "write true or false, or quotes around text")
    if re.fullmatch(r"[-+]?0[0-9_]+|0[bB][01_]+", text):
        return (
            "is an octal number to some readers of YAML",
            text,
            "write no zero first, or quotes",
        )
    if re.fullmatch(r"[-+]?[0-9]+(_[0-9]*)+", text):
        return ("is a number to some readers of YAML", text, "write it without _, or in quotes")
    if re.fullmatch(r"\d{4}-\d\d?-\d\d?([Tt ].*)?", text):
        return ("is a date to some readers of YAML", text, "write it in quotes")
    return ()


def _plain(text: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false") and text in (text.lower(), text.upper(), text.title()):
        return text.lower() == "true"
    try:
        if re.fullmatch(r"[-+]?[0-9]{1,400}", text):
            return int(text)
        if re.fullmatch(r"0x[0-9a-fA-F]{1,400}", text):
            return int(text, 16)
        if re.fullmatch(r"0o[0-7]{1,400}", text):
            return int(text, 8)
        if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
            return float(text)
    except ValueError:
        return text
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", "", 1))
    return text
