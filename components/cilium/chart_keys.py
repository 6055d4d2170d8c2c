"""The values that a Cilium chart really has, and what of given values it has not.

The chart's values.schema.json refuses wrong types but not unknown keys, so a typo is taken and
does nothing. Known are the keys of the schema and those that only the templates read.

`python -m commands.chart_keys` writes chart_keys.tsv anew from the pinned charts.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stack.problem import Problem

# Dotted key to its types, with | between them; a type in quotes is a literal. `map` takes any keys.
Keys = Mapping[str, str]

UNKNOWN = "is no value of the chart"
DATA = Path(__file__).parent / "chart_keys.tsv"
_HEADER = "# key\ttypes\treleases that have it, where not all do\n"
# Handed to Kubernetes as they are: any key of theirs may stand there.
_KUBERNETES_OWN = {"affinity", "nodeSelector", "resources", "updateStrategy", "securityContext"}
_REFERENCE = re.compile(r"\.Values((?:\.[A-Za-z0-9_]+)+)")
# A template that prints a mapping as a whole, or goes over its keys.
_WHOLE = (
    re.compile(r"toYaml \(?\.Values\.([\w.]+)"),
    re.compile(r"\.Values\.([\w.]+)[^{}]*\| *(?:toYaml|toJson)"),
    re.compile(
        r"with \.Values\.([\w.]+) *-?}}\s*(?:[\w-]+:)?\s*\{\{-? *(?:toYaml|tpl \(toYaml) \."
    ),
    re.compile(r"range \$\w+, \$\w+ := \.Values\.([\w.]+)"),
)
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "map": (dict,),
    "object": (dict,),
}


# --- the keys of a chart --------------------------------------------------------------------


def of_chart(folder: Path) -> Keys:
    """The keys of the chart in `folder`. OSError or ValueError where it can't be read."""
    schema = json.loads((folder / "values.schema.json").read_text())
    whole, references = _templates(folder / "templates")
    found = dict(_of_schema(schema, "", whole))
    branches = {parent for key in found for parent in _parents(key)}
    # In their order no key comes after what is below it.
    for key in sorted(references):
        if key not in branches and not any(found.get(it) == "map" for it in _parents(key)):
            found.setdefault(key, "any")
    return dict(sorted(found.items()))


def _parents(key: str) -> set[str]:
    return {key[:end] for end in range(len(key)) if key[end] == "."}


def of_release(minor: str) -> Keys:
    """The keys of the chart of a supported release such as 1.18."""
    return {key: types for key, types, releases in _rows() if minor in releases}


def has(minor: str, key: str) -> bool:
    """Whether the chart of a release has `key`, as a value or above values."""
    keys = of_release(minor)
    return key in keys or _branch(keys, key)


def _of_schema(schema: Any, path: str, whole: set[str]) -> Iterator[tuple[str, str]]:
    inner = schema.get("properties")
    own = path.rpartition(".")[2] in _KUBERNETES_OWN
    if path and (not inner or own or path in whole):
        yield path, "map" if inner else _types(schema)
        return
    for name, part in inner.items():
        yield from _of_schema(part, f"{path}.{name}" if path else name, whole)


def _types(schema: Any) -> str:
    """`boolean`, `string|null`, `"Local"|"Cluster"`: what a leaf of the schema may be."""
    parts = schema.get("anyOf") or schema.get("oneOf")
    if parts:
        return "|".join(_types(part) for part in parts)
    if "enum" in schema:
        return "|".join(json.dumps(value) for value in schema["enum"])
    types = schema.get("type", "any")
    names = types if isinstance(types, list) else [types]
    return "|".join("map" if name == "object" else name for name in names)


def _templates(folder: Path) -> tuple[set[str], set[str]]:
    """The mappings that templates use as a whole, and every key that they read.

    validate.yaml reads removed keys in order to refuse them: those are not the chart's.
    """
    whole: set[str] = set()
    read: set[str] = set()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "validate.yaml":
            text = path.read_text()
            whole |= {key for pattern in _WHOLE for key in pattern.findall(text)}
            read |= {key[1:] for key in _REFERENCE.findall(text)}
    return whole, read - {"AsMap"}


def _branch(keys: Keys, key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in keys)


# --- the table of the supported releases ----------------------------------------------------


@cache
def _rows() -> tuple[tuple[str, str, frozenset[str]], ...]:
    first, *lines = DATA.read_text().splitlines()
    every = first.removeprefix("# releases: ")
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return tuple((row[0], row[1], frozenset((row[2] or every).split())) for row in rows)


def table(charts: Mapping[str, Keys]) -> str:
    """The text of chart_keys.tsv: release to its keys."""
    lines = [f"# releases: {' '.join(charts)}\n", _HEADER]
    pairs = {(key, types) for keys in charts.values() for key, types in keys.items()}
    for key, types in sorted(pairs):
        having = [release for release, keys in charts.items() if keys.get(key) == types]
        lines.append(f"{key}\t{types}\t{'' if len(having) == len(charts) else ' '.join(having)}\n")
    return "".join(lines)


# --- checking -------------------------------------------------------------------------------


def problems(values: Mapping[str, Any], keys: Keys, place: str) -> Iterator[Problem]:
    """What of `values` the chart does not have, or has with another type; `place` is their key."""
    yield from _below(values, "", keys, place)


def _below(values: Mapping[str, Any], path: str, keys: Keys, place: str) -> Iterator[Problem]:
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        where = f"{place}.{name}"
        if "." in str(name):
            # Looked up as if nested it may be a value; but the chart reads it nested only.
            known = key in keys or _branch(keys, key)
            hint = f"write it nested, as {_nested(key)}" if known else _nearest(key, keys)
            yield Problem(where, UNKNOWN, hint=hint)
        elif value is None:
            # Helm takes null for "without the chart's default"; but not under a wrong name.
            if key not in keys and not _branch(keys, key):
                yield Problem(where, UNKNOWN, hint=_nearest(key, keys))
        elif key in keys:
            yield from _leaf(value, keys[key], where)
        elif not _branch(keys, key):
            yield Problem(where, UNKNOWN, hint=_nearest(key, keys))
        elif isinstance(value, dict):
            yield from _below(value, key, keys, where)
        else:
            yield Problem(where, "must be a mapping", repr(value), f"of {_children(key, keys)}")


def _leaf(value: Any, types: str, where: str) -> Iterator[Problem]:
    allowed = types.split("|")
    if "any" in allowed or any(_is(value, name) for name in allowed):
        return
    names = ["a mapping" if name == "map" else name for name in allowed if name != "null"]
    yield Problem(where, f"must be {' or '.join(names)}", repr(value))


def _is(value: Any, name: str) -> bool:
    if name.startswith('"'):
        return bool(value == json.loads(name))
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _PYTHON_TYPES.get(name, ()))


def _children(key: str, keys: Keys) -> str:
    below = {known[len(key) + 1 :].split(".")[0] for known in keys if known.startswith(f"{key}.")}
    return ", ".join(sorted(below))


def _nearest(key: str, keys: Keys) -> str:
    """A hint: what the key is like, where it stands, or what its neighbours are."""
    parent, _, name = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    siblings = {known[len(prefix) :].split(".")[0] for known in keys if known.startswith(prefix)}
    near = difflib.get_close_matches(name, sorted(siblings), n=1, cutoff=0.7)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    elsewhere = _elsewhere(name, keys)
    if elsewhere:
        return f"the chart has it as {elsewhere}"
    return f"known there are {', '.join(sorted(siblings))}" if prefix and siblings else ""


def _elsewhere(name: str, keys: Keys) -> str:
    """The shortest path under which the chart has a key of this name."""
    found = set()
    for known in keys:
        parts = known.split(".")
        if name in parts:
            found.add(".".join(parts[: parts.index(name) + 1]))
    return min(found, key=lambda path: (path.count("."), path)) if found else ""


def _nested(key: str) -> str:
    *parents, last = key.split(".")
    return "".join(f"{parent}: {{" for parent in parents) + f"{last}: …" + "}" * len(parents)


def chart_version(folder: Path) -> str:
    """The version in the Chart.yaml of `folder`. OSError or ValueError where there is none."""
    try:
        data = yaml.safe_load((folder / "Chart.yaml").read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, dict) or "version" not in data:
        raise ValueError("Chart.yaml has no version")
    return str(data["version"])
