"""The reference page of the configuration: `python -m stack.reference > docs/configuration.md`.

Made from the models, so that it can't tell something else; a test keeps the page current.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stack.models import Lab, inner_model
from stack.problem import NAMESPACE

_INTRODUCTION = """\
# Configuration

Every key of a stack file (`Pulumi.<stack>.yaml`), under `config:`. `make check STACK=x` reports every problem of a file at once. Networks are written without host bits; unknown keys are errors. This page is made from the models in `stack/models.py` by `python -m stack.reference`.
"""  # noqa: E501


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION]
    described: dict[type[BaseModel], str] = {}
    for name, field in Lab.model_fields.items():
        key = f"{NAMESPACE}:{field.alias or name}"
        model = inner_model(field.annotation)
        parts.append(_section(key, model, _shape(field.annotation), described))
    return "\n".join(parts)


def _section(
    key: str, model: type[BaseModel] | None, shape: str, described: dict[type[BaseModel], str]
) -> str:
    """A model's table, and those of the models in it; what is described already is named."""
    assert model is not None, f"{key} holds no model"
    place = {"dict": f"{key}.<name>", "list": f"{key}[]"}.get(shape, key)
    if model in described:
        return f"## {place}\nThe keys of `{described[model]}`.\n"
    described[model] = place
    lines = [f"## {place}", (model.__doc__ or "").strip(), ""]
    lines += ["| key | what it is | example | default |", "|---|---|---|---|"]
    nested = []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        lines.append(_row(alias, field))
        inner = inner_model(field.annotation)
        if inner is not None:
            part = _section(f"{place}.{alias}", inner, _shape(field.annotation), described)
            nested.append(part)
    return "\n".join([*lines, "", *nested])


def _row(name: str, field: FieldInfo) -> str:
    example = field.examples[0] if field.examples else ""
    if field.is_required():
        default = "required"
    elif isinstance(field.default, BaseModel):
        default = "as below"
    else:
        default = "none" if field.default is None else _code(field.default)
    return f"| `{name}` | {field.description} | {_code(example)} | {default} |"


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def _shape(annotation: Any) -> str:
    return next((kind for kind in ("dict", "list") if str(annotation).startswith(kind)), "")


if __name__ == "__main__":
    print(page(), end="")
