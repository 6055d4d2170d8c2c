"""YAML in pieces is the YAML of one dump."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.workers.yaml_text import dump, to_yaml

KEY = st.sampled_from(["a", "write_files", "yes", "x" * 70, "a b", "ä", "1", "", "- ", "~"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCRIPT = st.sampled_from(["#!/bin/sh\n" * 80, "  indented\n\nlast", "word " * 400, "\n\n", "1"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | SCRIPT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY | st.integers(), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEY, VALUE, max_size=4))
def test_pieces_are_the_whole(data: dict[Any, Any]) -> None:
    text = to_yaml(data)
    assert text == dump(data)
    assert to_yaml(data) == text  # what is remembered is the same
    assert yaml.safe_load(text) == data


def test_what_python_finds_equal_is_not_taken_for_each_other() -> None:
    for value in (1, True, 1.0, "1"):
        filled = {"a": [value], "long": "x" * 1000}
        assert to_yaml(filled) == dump(filled)
