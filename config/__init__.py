"""The only room that reads configuration: models, loading, cross-checks."""

from config.load import ConfigError, from_stack_file, from_values
from config.models import Lab

__all__ = ["ConfigError", "Lab", "from_stack_file", "from_values"]
