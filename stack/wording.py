"""The models' errors in this project's words, each with what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stack.models import Lab, inner_model, is_mapping
from stack.problem import Location, Problem, key_path, shortened

# What takes the place of `{secure: …}`: its value is known to the engine only.
ENCRYPTED = "<encrypted>"


def problem(details: ErrorDetails, values: dict[str, Any]) -> Problem:
    """One of pydantic's errors, about `values`."""
    location = tuple(details["loc"])
    if location and location[-1] == "[key]":
        wrong, _, hint = _reason(details).partition("; ")
        return Problem(key_path(location[:-1]), wrong, found(location[-2]), hint)
    place = key_path(location)
    if details["type"] == "missing":
        return Problem(place, "is required", hint=_example(location))
    if details["type"] == "extra_forbidden":
        return Problem(place, "is no known key", hint=_nearest(location))
    value = value_at(values, location)
    field = field_at(location)
    shown = "" if field is not None and is_secret(field) else found(value)
    if value is None:
        return Problem(place, "is empty", hint=_example(location))
    wrong, hint = _words(details, value)
    return Problem(place, wrong, shown, hint)


def _reason(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    return str(context["error"]) if "error" in context else details["msg"]


def _words(details: ErrorDetails, value: Any) -> tuple[str, str]:
    """What is wrong with a value, and what to do about it."""
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "value_error":
        wrong, _, hint = _reason(details).partition("; ")
        return wrong, hint
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        near = _near(str(value), known)
        return "must be " + _one_of(known), f"did you mean {near}?" if near else ""
    if kind == "string_type":
        scalar = isinstance(value, (int, float, bool))
        return "must be text", "write it in quotes" if scalar else ""
    if kind == "list_type":
        scalar = not isinstance(value, dict)
        return "must be a list", f"write [{shortened(str(value))}]" if scalar else ""
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "must be a mapping", "`key: value` lines below it"
    if kind == "int_type":
        digits = isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value)
        return "must be a whole number", f"write {value}, without quotes" if digits else ""
    if kind == "bool_type":
        return "must be true or false", "without quotes"
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for name, words in bounds.items():
        if name in context:
            return f"must be {words} {context[name]}", ""
    if kind in ("too_short", "string_too_short"):
        return "must not be empty", ""
    return _reason(details).replace("Input should be", "must be").replace("valid ", ""), ""


def _one_of(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def found(value: Any) -> str:
    """A wrong value, as a person sees it: text in quotes, never more than a line."""
    if isinstance(value, (dict, list)):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        return kind if value else f"an empty {kind.split()[1]}"
    if value is None:
        return "nothing"
    if value == ENCRYPTED:
        return "an encrypted value"
    if isinstance(value, bool):
        return str(value).lower()
    return shortened(repr(value) if isinstance(value, str) else _number(value))


def _number(value: Any) -> str:
    # Python refuses to write integers of more than 4300 digits.
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    return str(value)


def value_at(values: Any, location: Location) -> Any:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


# --- the models as places --------------------------------------------------------------------


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a model, as they are written."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def field_at(location: Location) -> FieldInfo | None:
    """The key at a place; None in mappings whose names are free, and where no key is known."""
    section = section_at(location)
    return None if section is None else fields_of(section).get(str(location[-1]))


def section_at(location: Location) -> type[BaseModel] | None:
    """The model in which the last part of `location` is a key; None where names are free."""
    model: type[BaseModel] | None = Lab
    free = False
    for part in location[:-1]:
        if free:
            free = False
        elif isinstance(part, str):
            field = fields_of(model).get(part) if model else None
            model = inner_model(field.annotation) if field else None
            free = field is not None and is_mapping(field.annotation)
    return None if free else model


def is_secret(field: FieldInfo) -> bool:
    """Whether a key takes a secret."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def known_places(model: type[BaseModel] = Lab, above: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the configuration and where it belongs."""
    for name, field in fields_of(model).items():
        place = f"{above}.{name}" if above else key_path((name,))
        if above:
            yield name, above
        inner = inner_model(field.annotation)
        if inner is not None:
            yield from known_places(
                inner, f"{place}.NAME" if is_mapping(field.annotation) else place
            )


def _near(word: str, known: list[str]) -> str:
    plain = {name.lower().replace("-", "").replace("_", ""): name for name in known}
    asked = word[:80].lower().replace("-", "").replace("_", "")
    near = difflib.get_close_matches(asked, plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else ""


def nearest_key(location: Location) -> str:
    """The known key that an unknown one at `location` probably is; "" where none is near."""
    model = section_at(location)
    return _near(str(location[-1]), list(fields_of(model))) if model else ""


def _nearest(location: Location) -> str:
    model = section_at(location)
    if model is None:
        return ""
    known = list(fields_of(model))
    word = str(location[-1])
    near = nearest_key(location)
    if near:
        return f"did you mean {near}?"
    elsewhere = [place for name, place in known_places() if name == word]
    if elsewhere:
        return f"it belongs in {elsewhere[0]}"
    return f"known are {', '.join(known)}"


def _example(location: Location) -> str:
    field = field_at(location)
    if len(location) == 1:
        return "docs/configuration.md lists its keys"
    if field is None or not field.examples:
        return ""
    return f"for example {dotted_example(field.examples[0])}"


def dotted_example(value: Any) -> str:
    """An example as one writes it in YAML on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{name}: {dotted_example(item)}" for name, item in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(dotted_example(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    needs_quotes = isinstance(value, str) and re.search(r"^[0-9.:]+$|[:#] |^\S*:\d", text)
    return f'"{text}"' if needs_quotes else text
