"""A JSON Schema of stack files, for editors: `python -m stack.schema > docs/stack.schema.json`.

Made from the models; a test keeps the file current. Editors with the YAML language server complete
and check a stack file that begins with the line HINT. It knows each key by itself; what is wrong
between keys only `make check` finds.
"""

from __future__ import annotations

import json
from typing import Any

from stack.models import Lab
from stack.problem import NAMESPACE

PLACE = "docs/stack.schema.json"
HINT = f"# yaml-language-server: $schema={PLACE}"

_SECRET = {
    "type": "object",
    "properties": {"secure": {"type": "string", "minLength": 1}},
    "required": ["secure"],
    "additionalProperties": False,
}


def schema() -> dict[str, Any]:
    """The schema of a whole stack file."""
    lab = _tidy(Lab.model_json_schema(by_alias=True, mode="validation"))
    sections = {
        f"{NAMESPACE}:{name}": section if name in lab["required"] else _or_empty(section)
        for name, section in lab["properties"].items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stack file of autojoin",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": sections,
                "required": [f"{NAMESPACE}:{name}" for name in lab["required"]],
                # Other providers' keys may stand beside these; unknown ones of autojoin may not.
                "propertyNames": {
                    "anyOf": [
                        {"enum": list(sections)},
                        {"pattern": f"^(?!{NAMESPACE}:)[^:]+:"},
                    ]
                },
            },
            "encryptionsalt": {"type": "string"},
            "encryptedkey": {"type": "string"},
            "secretsprovider": {"type": "string"},
            "environment": {},
        },
        "required": ["config"],
        "$defs": lab["$defs"],
    }


def _or_empty(section: dict[str, Any]) -> dict[str, Any]:
    """A section that may be left empty, as if it were not there."""
    text = section.get("description")
    either = section.get("anyOf", [section])
    kinds = [kind for kind in either if kind != {"type": "null"}]
    return {"anyOf": [*kinds, {"type": "null"}], **({"description": text} if text else {})}


def _tidy(value: Any) -> Any:
    """Without pydantic's titles, free names bound to their pattern, secrets as files hold them."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("format") == "password":
        return dict(_SECRET)
    if "patternProperties" in value:
        value = {**value, "additionalProperties": False}
    return {
        name: item if name in ("examples", "enum", "default") else _tidy(item)
        for name, item in value.items()
        if not (name == "title" and isinstance(item, str))
        and not (name == "default" and (item is None or isinstance(item, dict)))
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
