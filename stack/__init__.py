"""The only room that reads configuration: models, loading, cross-checks."""

from stack.load import from_stack_file, from_values
from stack.models import Lab
from stack.problem import ConfigError

__all__ = ["ConfigError", "Lab", "from_stack_file", "from_values"]
