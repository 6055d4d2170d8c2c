"""Secrets of a stack file: encrypted where they belong, nowhere else, and never in the clear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stack.problem import Location, Problem, key_path
from stack.wording import ENCRYPTED, field_at, is_secret

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def decrypted(value: Any) -> Any:
    """`value` with each `{secure: …}` replaced by a placeholder."""
    if _is_encrypted(value):
        return ENCRYPTED
    if isinstance(value, dict):
        return {name: decrypted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [decrypted(item) for item in value]
    return value


def secret_problems(values: dict[str, Any]) -> list[Problem]:
    """Secrets in the clear, and encrypted values where none belongs; `values` by section."""
    return list(_problems(values, ()))


def _is_encrypted(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"secure"}


def _problems(value: Any, place: Location) -> Iterator[Problem]:
    field = field_at(place) if place else None
    path = key_path(place)
    if field is not None and is_secret(field):
        if _is_encrypted(value):
            if not isinstance(value["secure"], str) or not value["secure"]:
                yield Problem(path, "holds no encrypted value", hint=_set_command(path))
        elif isinstance(value, str):
            yield Problem(path, "is a secret and stands in the clear", hint=_set_command(path))
    elif _is_encrypted(value):
        hint = "only passwords and private keys are"
        yield Problem(path, "is encrypted, but is no secret to autojoin", hint=hint)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _problems(item, (*place, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, (*place, index))
    elif isinstance(value, str) and _PRIVATE_KEY.search(value):
        yield Problem(path, "holds a private key in the clear", hint="keep it out of this file")


def _set_command(path: str) -> str:
    return f"pulumi config set --secret --path '{path}' < FILE"
