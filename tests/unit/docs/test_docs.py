"""What the documents say is there: commands, modules, files; and their snippets really work."""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.load import examine_content
from tools.pins import CHECKOUT

DOCUMENTS = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
OMNIOS = yaml.safe_load((CHECKOUT / "Pulumi.omnios.yaml").read_text())["config"]
IDS = [str(path.relative_to(CHECKOUT)) for path in DOCUMENTS]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_commands_modules_and_links_are_there(path: Path) -> None:
    text = path.read_text()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *blocks(text, "sh")])
    unknown = set(re.findall(r"\bmake ([a-z-]+)\b", code)) - TARGETS
    assert not unknown, f"no such make target: {unknown}"
    for module in set(re.findall(r"python3? -m ([a-z_.]+)", code)):
        assert importlib.util.find_spec(module), f"no such module: {module}"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link:
            assert (path.parent / link).exists(), f"no such file: {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_shell_snippets_are_shell(path: Path) -> None:
    for block in blocks(path.read_text(), "sh"):
        # A part that the reader is to fill in is no syntax.
        filled = block.replace("…", "x")
        answer = subprocess.run(["sh", "-n"], input=filled, capture_output=True, text=True)
        assert answer.returncode == 0, f"{block}\n{answer.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_configuration_snippets_pass_the_check(path: Path) -> None:
    """A snippet with whole sections replaces those of the example stack."""
    for block in blocks(path.read_text(), "yaml"):
        data: Any = yaml.safe_load(block)
        sections = data.get("config", data) if isinstance(data, dict) else {}
        if not any(str(name).startswith("autojoin:") for name in sections):
            continue
        config = {**copy.deepcopy(OMNIOS), **sections}
        text = yaml.safe_dump({"config": config}, sort_keys=False)
        problems = examine_content(text.encode(), "snippet").problems
        assert not problems, "\n".join([block, *map(str, problems)])


def test_every_command_is_in_the_readme_and_has_help() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    helped = re.findall(r"^([a-z-]+):.*##", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert set(helped) == TARGETS
    missing = {target for target in helped if f"make {target}" not in readme} - {"help"}
    assert not missing, "the README's table of commands lacks them"
