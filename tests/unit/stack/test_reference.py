"""The reference page and the schema for editors are those of the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from stack.reference import page
from stack.schema import PLACE, schema
from tools.pins import CHECKOUT


def test_the_page_is_current() -> None:
    assert (CHECKOUT / "docs/configuration.md").read_text() == page(), (
        "run `python -m stack.reference > docs/configuration.md` and read the diff"
    )


def test_every_key_is_described() -> None:
    assert "| None |" not in page()


# --- the schema for editors -------------------------------------------------------------------

SCHEMA = json.loads((CHECKOUT / PLACE).read_text())
CONFIG = Path(__file__).parent


def refused(file: Path) -> list[str]:
    validator = Draft202012Validator(SCHEMA)
    return [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))]


def test_the_schema_is_current_and_is_one() -> None:
    assert schema() == SCHEMA, "run `python -m stack.schema > docs/stack.schema.json`"
    Draft202012Validator.check_schema(SCHEMA)


def test_editors_are_content_with_what_passes_the_check() -> None:
    assert refused(CONFIG / "valid.yaml") == []


@pytest.mark.parametrize(
    "name",
    [
        *("misspelt-key", "misspelt-section", "unknown-hardware", "plain-password", "list-as-text"),
        *("mac-malformed", "port-out-of-range", "unquoted-version", "upper-case-node-name"),
        *("section-missing", "service-kind-unknown", "encrypted-where-no-secret-belongs"),
        *("api-server-without-scheme", "worker-as-text", "generation-zero", "namespace-missing"),
    ],
)
def test_editors_show_what_is_wrong_with_one_key(name: str) -> None:
    assert refused(CONFIG / f"invalid/{name}.yaml")
