"""YAML as a person would write it, the same bytes as one dump, and quick where much is repeated.

PyYAML's emitter looks at every character in Python: 15 ms for one node's user-data. A block mapping
is the text of its entries one after another, and a block sequence that of its items, so a long one
is emitted in pieces, and a piece that was emitted before (a script, a unit) is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

# Shorter values, as Python writes them, are emitted whole.
_LONG = 600
_MOST_REMEMBERED = 2000
# Keys whose line above a block holds nothing else, whatever is quoted.
_SIMPLE_KEY = re.compile(r"[\w.-]{1,60}", re.ASCII)
# Text by the keys above it and by its value as Python writes it, which tells 1 from "1" and True.
_remembered: dict[tuple[tuple[str, ...], str], str] = {}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if any(odd in text for odd in "\x85\u2028\u2029"):
        style = '"'  # line breaks to YAML, which it would fold
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def to_yaml(data: dict[str, Any]) -> str:
    """YAML with scripts and certificates as literal blocks."""
    *pieces, last = _pieces(data, ())
    return "".join([*(_unended(piece) for piece in pieces), last])


def dump(data: Any) -> str:
    """The same in one piece."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def forget() -> None:
    """Start anew, as a program does: for who measures."""
    _remembered.clear()


def _pieces(value: Any, above: tuple[str, ...]) -> Iterator[str]:
    """The text of `value` below the keys `above`."""
    if not value or not isinstance(value, (dict, list)) or len(repr(value)) < _LONG:
        yield _text(value, above)
    elif isinstance(value, list):
        for item in value:
            yield _text([item], above)
    else:
        for key, inner in value.items():
            if inner and isinstance(inner, (dict, list)) and _simple(key):
                yield _text({key: [0]}, above).partition("\n")[0] + "\n"
                yield from _pieces(inner, (*above, key))
            else:
                yield _text({key: inner}, above)


def _unended(piece: str) -> str:
    """Without the mark that the emitter puts behind a document that ends in empty lines."""
    return piece.removesuffix("...\n") if piece.endswith("\n...\n") else piece


def _simple(key: Any) -> bool:
    return isinstance(key, str) and _SIMPLE_KEY.fullmatch(key) is not None


def _text(value: Any, above: tuple[str, ...]) -> str:
    place = (above, repr(value))
    known = _remembered.get(place)
    if known is None:
        for key in reversed(above):
            value = {key: value}
        known = dump(value).split("\n", len(above))[-1]
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[place] = known
    return known
