"""A stack file with comments, from values: each key under what it is, as the models describe it.

Values are written by PyYAML, a key at a time; only the comments between are put in here.
"""

from __future__ import annotations

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from stack.models import Lab, inner_model
from stack.problem import NAMESPACE
from stack.schema import HINT
from stack.wording import dotted_example, fields_of, is_secret

_EXAMPLE = "  # an example: put your own"
# Sections whose unset keys are shown too, as comments to be uncommented.
_SHOW_UNSET = ("cluster", "certificateAuthority", "bgp")
# Not among them: as it stands, its file is not there.
_NEED_A_FILE = {"apiServerCertificateAuthority"}


def render(stack: str, values: dict[str, Any], examples: set[str]) -> str:
    """The stack file of `values` (section name to data); `examples` are places to be marked."""
    lines = [
        HINT,
        f"# The lab of stack {stack}. `make check STACK={stack}` finds every mistake at once;",
        "# docs/configuration.md has every key. Secrets are set encrypted:",
        f"#   pulumi config set --stack {stack} --secret --path \\",
        "#     'autojoin:certificateAuthority.host.privateKey' < ~/.ssh/id_ed25519",
        "config:",
    ]
    for name, field in fields_of(Lab).items():
        model = inner_model(field.annotation)
        if name in values and model is not None:
            lines += ["", f"  # {_first_line(model)}", f"  {NAMESPACE}:{name}:"]
            lines += _section(name, model, values[name], examples)
    return "\n".join(lines) + "\n"


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _section(
    name: str, model: type[BaseModel], values: dict[str, Any], examples: set[str]
) -> list[str]:
    if name in ("workers", "provisioning", "boards"):
        mark = _EXAMPLE if name in examples else ""
        lines = [f"    # {line}" for line in _keys(model)]
        return lines + [f"    {_dumped({key: value})}{mark}" for key, value in values.items()]
    lines = []
    for key, field in fields_of(model).items():
        place = f"{name}.{key}"
        if key in values and key == "host":
            lines += [f"    # {field.description}", f"    {key}:"]
            inner = inner_model(field.annotation)
            assert inner is not None
            lines += _host(place, inner, values[key], examples)
        elif key in values:
            mark = _EXAMPLE if place in examples else ""
            lines += [f"    # {field.description}", f"    {_dumped({key: values[key]})}{mark}"]
        elif (
            name in _SHOW_UNSET
            and key not in _NEED_A_FILE
            and not is_secret(field)
            and field.examples
        ):
            lines += [
                f"    # {field.description}",
                f"    #{key}: {dotted_example(field.examples[0])}",
            ]
    return lines


def _host(
    place: str, model: type[BaseModel], values: dict[str, Any], examples: set[str]
) -> list[str]:
    lines = []
    for key, field in fields_of(model).items():
        if key in values:
            mark = _EXAMPLE if f"{place}.{key}" in examples else ""
            lines += [f"      # {field.description}", f"      {_dumped({key: values[key]})}{mark}"]
        elif not is_secret(field) and field.examples:
            lines += [f"      # {field.description}"]
            lines += [f"      #{key}: {dotted_example(field.examples[0])}"]
    return lines


def _keys(model: type[BaseModel]) -> list[str]:
    """The keys of an entry and what they are, a line each."""
    fields = fields_of(model)
    width = max(len(key) for key in fields)
    found = []
    for key, field in fields.items():
        text = f"{key.ljust(width)}  {field.description}"
        found += textwrap.wrap(text, 92, subsequent_indent=" " * (width + 2))
    return found


def _dumped(data: dict[str, Any]) -> str:
    """`key: value` on one line."""
    ((key, value),) = data.items()
    whole = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    text = whole.removesuffix("\n").removesuffix("...").strip()
    name = yaml.safe_dump(key, width=10_000).removesuffix("\n").removesuffix("...").strip()
    return f"{name}: {text}"
