"""Stack files with the checks of every subject: what `stack.load` does, bound to them."""

from __future__ import annotations

from functools import partial

from components import checks
from stack import load

from_values = partial(load.from_values, checks=checks)
from_stack_file = partial(load.from_stack_file, checks=checks)
examine = partial(load.examine, checks=checks)
examine_values = partial(load.examine_values, checks=checks)
examine_content = partial(load.examine_content, checks=checks)
