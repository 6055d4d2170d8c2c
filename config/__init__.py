"""The only room that reads configuration: models, loading, cross-checks."""

from config.load import from_stack_file, from_values
from config.models import Lab
from config.problem import ConfigError

__all__ = ["ConfigError", "Lab", "from_stack_file", "from_values"]
