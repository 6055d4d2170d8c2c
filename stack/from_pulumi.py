"""The lab of the stack that the engine runs."""

from __future__ import annotations

import sys
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

from stack.load import Checks, from_values
from stack.models import Lab
from stack.problem import NAMESPACE, ConfigError


def load(checks: Checks) -> Lab:
    """The current stack's lab. On a bad configuration: every problem, then the program ends."""
    values: dict[str, Any] = {}
    config = pulumi.Config(NAMESPACE)
    # Every section that the stack has, so that a misspelt one is an error too. Plain, so that names
    # and addresses are known in preview; what is secret in it is a SecretStr in the models and is
    # marked where it enters a resource.
    for key in runtime_config.CONFIG.get():
        section = key.removeprefix(f"{NAMESPACE}:")
        if section != key:
            values[section] = config.get_object(section)
    try:
        lab = from_values(values, checks)
        if lab.missing_files:
            raise ConfigError(lab.missing_files)
        return lab
    except ConfigError as error:
        pulumi.log.error(str(error))
        sys.exit(1)
