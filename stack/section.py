"""What every section of the configuration is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def key(description: str, example: Any, **rest: Any) -> Any:
    """A configuration key, described for a person."""
    return Field(description=description, examples=[example], **rest)


class Section(BaseModel):
    """A mapping of the stack file: camelCase keys, no unknown ones, no guessing at types."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )
