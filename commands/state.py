"""What a stack's state holds, read through the Pulumi CLI."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from components.load import from_values
from lab import place, stack
from stack.models import Lab
from stack.problem import NAMESPACE
from tools.errors import LabError
from tools.pins import CHECKOUT


class StateError(LabError):
    """Why the state can't be had, as a line for a person."""


def environment(name: str) -> dict[str, str]:
    """The engine's environment for a stack: the lab's own backend for `dev`."""
    if name == stack.STACK:
        where = place.find(CHECKOUT)
        if where is None:
            raise StateError("stack dev has no state: the lab was never up; run `make up`")
        return {**os.environ, **stack.environment(where)}
    return {**os.environ, **stack.engine_environment(), "PULUMI_STACK": name}


def resources(name: str) -> list[dict[str, Any]]:
    """The resources of the stack's state, secrets decrypted; StateError where it can't be had."""
    deployment = _pulumi(name, "stack", "export", "--show-secrets")["deployment"]
    return list(deployment.get("resources", []))


def configuration(name: str, file: Path) -> dict[str, Any]:
    """The sections of a stack's configuration by full key, secrets decrypted."""
    values = _pulumi(name, "config", "--show-secrets", "--json", "--config-file", str(file))
    return {key: entry.get("objectValue", entry.get("value")) for key, entry in values.items()}


def lab(name: str, file: Path) -> Lab:
    """The stack's lab, secrets decrypted; StateError, or ConfigError, where it can't be had."""
    prefix = f"{NAMESPACE}:"
    sections = configuration(name, file)
    return from_values(
        {key.removeprefix(prefix): it for key, it in sections.items() if prefix in key}
    )


def _pulumi(name: str, *words: str) -> dict[str, Any]:
    command = ["pulumi", *words, "--stack", name, "--non-interactive"]
    try:
        answer = subprocess.run(
            command, cwd=CHECKOUT, env=environment(name), capture_output=True, text=True
        )
    except OSError as error:
        raise StateError(f"pulumi can't be run ({error.strerror}); `make tools`") from None
    if answer.returncode:
        said = " ".join((answer.stderr.strip() or answer.stdout.strip()).split())
        raise StateError(f"`pulumi {words[0]}` of stack {name}: {said}")
    return dict(json.loads(answer.stdout))
