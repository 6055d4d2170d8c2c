"""The arrows between the rooms: one deliberate violation of each contract is told, and only it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.pins import CHECKOUT

SETTINGS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]
# Contract, by how its name begins, to the file that breaks it and by which import.
VIOLATIONS = {
    "Commands stand": ("lab/facts.py", "import bench.table"),
    "The stack imports": ("stack/models.py", "import tools.pins"),
    "Tools import": ("tools/pins.py", "import stack.models"),
    "Components need": ("components/archive.py", "import tools.pins"),
    "Commands are": ("bench/table.py", "import commands.graph"),
    "Components alone import Pulumi": ("components/bgp/resources.py", "import pulumi"),
    "Components alone import components": (
        "components/checks.py",
        "import components.bgp.component",
    ),
    "The shell": ("components/cilium/values.py", "import subprocess"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache", str(folder / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files of every room, and the contracts."""
    folder = tmp_path_factory.mktemp("house")
    for room in SETTINGS["root_packages"]:
        python_only = shutil.ignore_patterns("*.tsv", "go", "files", "__pycache__")
        shutil.copytree(CHECKOUT / room, folder / room, ignore=python_only)
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("contract", [each["name"] for each in SETTINGS["contracts"]])
def test_a_violation_of_each_contract_is_told(house: Path, contract: str) -> None:
    (begun,) = [name for name in VIOLATIONS if contract.startswith(name)]
    name, line = VIOLATIONS[begun]
    file = house / name
    before = file.read_text()
    file.write_text(f"{before}\n{line}\n")
    answer = lint(house)
    file.write_text(before)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    broken = [row.split(" BROKEN")[0] for row in answer.stdout.splitlines() if " BROKEN" in row]
    assert broken == [contract], answer.stdout


def test_as_it_is_nothing_is_broken(house: Path) -> None:
    answer = lint(house)
    assert answer.returncode == 0, answer.stdout + answer.stderr
