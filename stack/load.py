"""From a stack's values, or a stack file, to a checked Lab. Every problem is reported at once."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from stack import document, spelling, wording
from stack.models import Lab
from stack.problem import NAMESPACE, ConfigError, Problem, key_path
from stack.secrets import decrypted, secret_problems
from stack.stand_in import problems_despite

__all__ = [
    "Checks",
    "Report",
    "examine",
    "examine_content",
    "examine_values",
    "from_stack_file",
    "from_values",
]

# What a stack file may hold besides `config` (Pulumi's ProjectStack).
_STACK_FILE_KEYS = ("config", "encryptionsalt", "secretsprovider", "encryptedkey", "environment")


class Checks(Protocol):
    """What is asked of a whole lab; handed in, for it is the subjects' that know it."""

    def problems(self, lab: Lab) -> list[Problem]: ...

    def warnings(self, lab: Lab) -> list[Problem]: ...


@dataclass
class Report:
    """What was found in a configuration: a lab if nothing is wrong, warnings in any case."""

    lab: Lab | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    # The line of the file at which a key stands, where it came from a file.
    lines: dict[str, int] = field(default_factory=dict)

    def line(self, key: str) -> int:
        """The line of a key, or of what it would stand in; 0 where there is none."""
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), key.rfind("]"), 0)]
        return self.lines.get(key, 0)

    def checked(self) -> Lab:
        """The lab; ConfigError with every problem where there are any."""
        if self.lab is None:
            raise ConfigError(self.problems)
        return self.lab


def from_values(values: dict[str, Any], checks: Checks) -> Lab:
    """The lab of `values`: section name (`cluster`, …) to plain data. ConfigError otherwise."""
    return examine_values(values, checks).checked()


def from_stack_file(path: Path, checks: Checks) -> Lab:
    """The lab of a Pulumi stack file, secrets left encrypted. ConfigError otherwise."""
    return examine(path, checks).checked()


def examine_values(values: dict[str, Any], checks: Checks) -> Report:
    """All that is wrong with `values`: each key by itself, then the keys with each other."""
    # A section of which nothing is left but its name is one that is not there.
    values = {name: value for name, value in values.items() if value is not None}
    problems, values, spelt = spelling.mended(values)
    try:
        lab = Lab.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        problems += [wording.problem(details, values) for details in error.errors()]
        problems += problems_despite(values, error, checks.problems)
        return Report(problems=[spelling.as_written(problem, spelt) for problem in problems])
    problems += [spelling.as_written(problem, spelt) for problem in checks.problems(lab)]
    return Report(None if problems else lab, problems, checks.warnings(lab))


def examine(path: Path, checks: Checks) -> Report:
    """All that is wrong with a stack file, as a file and as a configuration."""
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with path.open("rb") as file:
            content = file.read(document.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "`make new STACK=x` makes one" if isinstance(error, FileNotFoundError) else ""
        return Report(problems=[Problem(str(path), "can't be read", reason, hint)])
    return examine_content(content, str(path), checks)


def examine_content(content: bytes, name: str, checks: Checks) -> Report:
    """All that is wrong with the content of a stack file that is called `name`."""
    read = document.read(content, name)
    problems = list(read.problems)
    if read.data is None and problems:
        return Report(problems=problems)
    config, found = _config(read.data)
    problems += found
    if not isinstance(config, dict):
        hint = "its keys stand under `config:`, as in Pulumi.omnios.yaml"
        return Report(problems=[*problems, Problem(name, "has no `config:` mapping", hint=hint)])
    values, found = _sections(config)
    problems += found
    _, right, spelt = spelling.mended(values)
    problems += [spelling.as_written(problem, spelt) for problem in secret_problems(right)]
    report = examine_values({name: decrypted(value) for name, value in values.items()}, checks)
    # One mistake is one line: what is wrong as text is not also wrong as a value.
    known = {problem.key for problem in problems if problem.wrong != document.TWICE}
    problems += [problem for problem in report.problems if problem.key not in known]
    report.lines = {document.shown(place): line for place, line in read.lines.items()}
    report.problems = sorted(dict.fromkeys(problems), key=lambda problem: report.line(problem.key))
    if problems:
        report.lab = None
    return report


def _sections(config: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The sections of autojoin in a stack's configuration, by name, and keys that are none."""
    values: dict[str, Any] = {}
    problems = []
    for name, value in config.items():
        namespace, separator, section = name.partition(":")
        place = document.shown(("config", name))
        if not separator:
            problems.append(Problem(place, "has no namespace", hint=f"write {key_path((name,))}"))
            values.setdefault(name, _unpacked(value))
        elif namespace == NAMESPACE:
            values[section] = _unpacked(value)
        elif difflib.get_close_matches(namespace, [NAMESPACE], cutoff=0.75):
            hint = f"did you mean {key_path((section,))}?"
            problems.append(Problem(place, "is no known key", hint=hint))
            values.setdefault(section, _unpacked(value))
    return values, problems


def _unpacked(value: Any) -> Any:
    """A section that was set as JSON in one string, as `pulumi config set` does without --path."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _config(data: Any) -> tuple[Any, list[Problem]]:
    """What stands under `config:`, and keys beside it that Pulumi would pass over in silence."""
    problems = []
    config = data.get("config") if isinstance(data, dict) else None
    for name in data if isinstance(data, dict) else ():
        if name in _STACK_FILE_KEYS:
            continue
        near = difflib.get_close_matches(name, _STACK_FILE_KEYS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_STACK_FILE_KEYS)}"
        if near == ["config"] and config is None:
            config = data[name]
        if name.startswith(f"{NAMESPACE}:"):
            hint = "it belongs under `config:`; indent it"
        problems.append(Problem(document.shown((name,)), "is no key of a stack file", hint=hint))
    return config, problems
