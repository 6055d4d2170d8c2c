"""From a stack's values, or a stack file, to a checked Lab. Every problem is reported at once."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from config import checks
from config.models import Lab, inner_model
from config.problem import Problem

NAMESPACE = "autojoin"


class ConfigError(Exception):
    """A configuration that can't be used; `problems` holds every one that was found."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def from_values(values: dict[str, Any]) -> Lab:
    """The lab of `values`: section name (`cluster`, …) to plain data. ConfigError otherwise."""
    try:
        lab = Lab.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_problem(details, values) for details in error.errors()]) from None
    problems = checks.problems(lab)
    if problems:
        raise ConfigError(problems)
    return lab


def from_stack_file(path: Path) -> Lab:
    """The lab of a Pulumi stack file, secrets left encrypted. ConfigError otherwise."""
    return from_values(stack_file_values(path))


def stack_file_values(path: Path) -> dict[str, Any]:
    """The sections of a stack file, each encrypted value as a placeholder."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError([Problem(str(path), "can't be read", reason)]) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())
        raise ConfigError([Problem(str(path), "is no YAML", found)]) from error
    config = data.get("config") if isinstance(data, dict) else None
    if not isinstance(config, dict):
        hint = "its keys stand under `config:`, as in Pulumi.omnios.yaml"
        raise ConfigError([Problem(str(path), "has no `config:` mapping", hint=hint)])
    prefix = f"{NAMESPACE}:"
    problems = _plain_secrets(config)
    if problems:
        raise ConfigError(problems)
    return {
        name.removeprefix(prefix): _decrypted(value)
        for name, value in config.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _decrypted(value: Any) -> Any:
    """`value` with each `{secure: …}` replaced by a placeholder."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return "<encrypted>"
        return {name: _decrypted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decrypted(item) for item in value]
    return value


def _plain_secrets(value: Any, path: str = "") -> list[Problem]:
    """A problem for each secret that stands in the clear."""
    if isinstance(value, list):
        return [
            problem
            for index, item in enumerate(value)
            for problem in _plain_secrets(item, f"{path}[{index}]")
        ]
    if not isinstance(value, dict):
        return []
    found = []
    for name, item in value.items():
        place = f"{path}.{name}" if path else str(name)
        if name in ("privateKey", "password") and isinstance(item, str):
            hint = f"pulumi config set --secret --path '{place}' < FILE"
            found.append(Problem(place, "is a secret and stands in the clear", hint=hint))
        else:
            found += _plain_secrets(item, place)
    return found


# --- errors for a person --------------------------------------------------------------------


def _problem(details: ErrorDetails, values: dict[str, Any]) -> Problem:
    """One of pydantic's errors in this project's words."""
    location = list(details["loc"])
    wrong, _, hint = _reason(details).partition("; ")
    if location and location[-1] == "[key]":
        return Problem(_key_path(location[:-1]), wrong, _found(location[-2]), hint)
    kind = details["type"]
    place = _key_path(location)
    if kind == "missing":
        return Problem(place, "is required", hint=_example(location))
    if kind == "extra_forbidden":
        return Problem(place, "is no known key", hint=_nearest(location))
    return Problem(place, wrong, _found(_value_at(values, location)), hint)


def _reason(details: ErrorDetails) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "literal_error":
        return f"must be {details['ctx']['expected']}"
    message = details["msg"]
    return message.replace("Input should be", "must be").replace("valid ", "")


def _key_path(location: list[int | str]) -> str:
    if not location:
        return NAMESPACE
    path = f"{NAMESPACE}:{location[0]}"
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def _value_at(values: Any, location: list[int | str]) -> Any:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _found(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return "nothing" if value is None else text if len(text) <= 60 else text[:57] + "…"


def _section(location: list[int | str]) -> type[BaseModel] | None:
    """The model in which the last part of `location` is a key."""
    model: Any = Lab
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            model = inner_model(fields[str(part)].annotation)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _nearest(location: list[int | str]) -> str:
    model = _section(location)
    if model is None:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _example(location: list[int | str]) -> str:
    model = _section(location)
    if model is None:
        return ""
    for name, field in model.model_fields.items():
        if (field.alias or name) == location[-1] and field.examples:
            return f"for example {field.examples[0]!r}"
    return ""
