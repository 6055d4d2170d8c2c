"""What stands in for wrong values while the rest of a configuration is looked at.

Problems between keys can only be found in a whole lab. Where a file has wrong values too, these are
replaced by right ones of no meaning, twice and more often with other ones each time: a problem that
is found every time, in the same words, does not come from what was put in.
"""

from __future__ import annotations

import copy
import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from stack.models import Lab
from stack.problem import Location, Problem, key_path
from stack.types import STAND_INS
from stack.wording import field_at, fields_of, value_at

# Enough to tell every value of a choice from the next; more rounds only take longer.
MAX_VARIANTS = 6
# A stand-in may bring new errors (a required key beside it); so many times they are mended too.
MAX_ROUNDS = 6


def problems_despite(
    values: dict[str, Any], error: ValidationError, check: Callable[[Lab], list[Problem]]
) -> list[Problem]:
    """The problems between keys of `values`, of which `error` says what is wrong by itself."""
    rounds = []
    for variant in range(_variants(error)):
        mended = _mended(values, error, Filler(variant))
        if mended is None:
            return []
        lab, names = mended
        rounds.append([_renamed(problem, names) for problem in check(lab)])
    first, *others = rounds
    # What is wrong by itself is told already: that it is also there where it may not be is noise.
    told = {key_path(tuple(details["loc"])) for details in error.errors()}
    return [
        problem
        for problem in first
        if problem.key not in told and all(problem in other for other in others)
    ]


def _variants(error: ValidationError) -> int:
    """How many fillings tell what comes from them: at least two, and one for each choice."""
    choices = [2]
    for details in error.errors():
        field = field_at(tuple(details["loc"]))
        if field is not None:
            choices += [
                len(get_args(part)) for part in _parts(field.annotation) if _is_choice(part)
            ]
    return min(max(choices), MAX_VARIANTS)


def _mended(
    values: dict[str, Any], error: ValidationError, filler: Filler
) -> tuple[Lab, dict[str, str]] | None:
    """A lab with every wrong value replaced, and the names that were; None where that fails."""
    values = copy.deepcopy(values)
    names: dict[str, str] = {}
    tried: set[Location] = set()
    for _ in range(MAX_ROUNDS):
        for details in sorted(error.errors(), key=lambda details: -len(details["loc"])):
            location = tuple(details["loc"])
            if location in tried:
                # A stand-in that is itself refused gives way, with the optional key that it is in.
                _remove(values, location)
            else:
                _mend(values, details["type"], location, filler, names)
            tried.add(location)
        try:
            return Lab.model_validate(values, by_alias=True, by_name=False), names
        except ValidationError as next_error:
            error = next_error
    return None


def _mend(
    values: Any, kind: str, location: Location, filler: Filler, names: dict[str, str]
) -> None:
    if location and location[-1] == "[key]":
        parent = value_at(values, location[:-2])
        if isinstance(parent, dict) and location[-2] in parent:
            new = filler.name()
            names[new] = str(location[-2])
            # In its place, so that the order, and with it who is called the other's twin, stays.
            renamed = {new if key == location[-2] else key: value for key, value in parent.items()}
            parent.clear()
            parent.update(renamed)
        return
    parent = value_at(values, location[:-1])
    last = location[-1]
    if isinstance(parent, list):
        if isinstance(last, int) and last < len(parent):
            parent[last] = filler.item(location)
    elif isinstance(parent, dict):
        if kind == "extra_forbidden":
            parent.pop(last, None)
        else:
            parent[last] = filler.at(location)


def _is_optional(location: Location) -> bool:
    field = field_at(location)
    return field is not None and not field.is_required()


def _remove(values: Any, location: Location) -> None:
    """Remove the innermost optional key that holds `location`, or the entry there."""
    for length in range(len(location), 0, -1):
        if _is_optional(location[:length]):
            location = location[:length]
            break
    parent = value_at(values, location[:-1])
    last = location[-1]
    if isinstance(parent, dict):
        parent.pop(last, None)
    elif isinstance(parent, list) and isinstance(last, int) and last < len(parent):
        parent.pop(last)


def _renamed(problem: Problem, names: dict[str, str]) -> Problem:
    words = [problem.key, problem.wrong, problem.found, problem.hint]
    for new, old in names.items():
        words = [text.replace(new, old) for text in words]
    return Problem(*words)


def _parts(annotation: Any) -> Iterator[Any]:
    """The types of `X | Y`, None aside."""
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    elif annotation is not type(None):
        yield annotation


def _maker(metadata: Iterable[Any]) -> Callable[[int], str] | None:
    """What makes stand-ins for a type with this metadata."""
    kinds = (AfterValidator, BeforeValidator)
    validators = (part for part in metadata if isinstance(part, kinds))
    return next((STAND_INS[part] for part in validators if part in STAND_INS), None)


def _is_choice(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


@dataclass
class Filler:
    """Right values without a meaning: never twice the same one, other ones in each variant."""

    variant: int

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1 + self.variant * 100_003)

    def name(self) -> str:
        return f"stand-in-{next(self._numbers)}"

    def at(self, location: Location) -> Any:
        """A value for the key at `location`, or for the entry of a mapping or list there."""
        field = field_at(location)
        return self.item(location) if field is None else self.field(field)

    def item(self, location: Location) -> Any:
        """A value for an entry of the list or mapping that holds `location`."""
        above = list(location[:-1])
        while above and isinstance(above[-1], int):
            above.pop()
        field = field_at(tuple(above))
        if field is None:
            return self.name()
        annotation = next(_parts(field.annotation))
        return self.value(get_args(annotation)[-1] if get_args(annotation) else str)

    def field(self, field: FieldInfo) -> Any:
        bounds = {
            name: getattr(part, name)
            for part in field.metadata
            for name in ("ge", "le")
            if hasattr(part, name)
        }
        maker = _maker(field.metadata)
        if maker is not None:
            return maker(next(self._numbers))
        if bounds and next(_parts(field.annotation)) is int:
            low = bounds.get("ge", 0)
            return low + self.variant % (bounds.get("le", low + 99) - low + 1)
        return self.value(field.annotation)

    def value(self, annotation: Any) -> Any:
        """A value of a type."""
        annotation = next(_parts(annotation))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = fields_of(annotation).items()
            return {name: self.field(field) for name, field in fields if field.is_required()}
        maker = _maker(getattr(annotation, "__metadata__", ()))
        if maker is not None:
            return maker(next(self._numbers))
        if _is_choice(annotation):
            choices = get_args(annotation)
            return choices[self.variant % len(choices)]
        if get_origin(annotation) is list:
            return [self.value(get_args(annotation)[0])]
        if get_origin(annotation) is dict:
            # Empty, or not: what refers to an entry of it is right or wrong by that alone.
            return {} if self.variant % 2 else {self.name(): self.value(get_args(annotation)[1])}
        if annotation is bool:
            return bool(self.variant % 2)
        if annotation is int:
            return next(self._numbers)
        return self.name() if annotation in (str, SecretStr) else {}
