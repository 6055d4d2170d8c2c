"""The lab of the stack that the engine runs."""

from __future__ import annotations

import sys
from typing import Any

import pulumi

from config.load import NAMESPACE, ConfigError, from_values
from config.models import Lab


def load() -> Lab:
    """The current stack's lab. On a bad configuration: every problem, then the program ends."""
    values: dict[str, Any] = {}
    config = pulumi.Config(NAMESPACE)
    for name, field in Lab.model_fields.items():
        section = field.alias or name
        # Plain, so that names and addresses are known in preview; what is secret in it is a
        # SecretStr in the models and marked where it enters a resource.
        value = config.get_object(section)
        if value is not None:
            values[section] = value
    try:
        return from_values(values)
    except ConfigError as error:
        pulumi.log.error(str(error))
        sys.exit(1)
