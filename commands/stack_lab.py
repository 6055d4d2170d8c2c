"""The lab of a stack file, with what it takes to log in to the CA's host."""

from __future__ import annotations

from pathlib import Path

from components.load import from_stack_file
from stack.models import Lab


def open_lab(file: Path, stack: str = "") -> Lab:
    """The lab of `stack`, by default that of the file's name.

    ConfigError where the file is wrong, StateError where its secrets can't be had. Only an
    encrypted private key takes the engine.
    """
    lab = from_stack_file(file)
    if lab.certificate_authority.host.private_key is None:
        return lab
    from commands import state  # needs the engine

    return state.lab(stack or file.name.removeprefix("Pulumi.").removesuffix(".yaml"), file)
