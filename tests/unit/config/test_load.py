"""Wrong configurations, one mistake a file in invalid/, each with the lines that it must give."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.load import ConfigError, from_stack_file

HERE = Path(__file__).parent
INVALID = sorted((HERE / "invalid").glob("*.yaml"))


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """valid.yaml with the values at the dotted paths of `changes` set; None removes."""
    data = copy.deepcopy(yaml.safe_load((HERE / "valid.yaml").read_text()))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = data["config"]
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return dict(data)


def test_the_valid_file_is_a_lab() -> None:
    lab = from_stack_file(HERE / "valid.yaml")
    assert list(lab.workers) == ["guest", "module", "metal", "machine"]
    assert lab.cluster.api_port == 6443
    assert lab.provisioner(lab.workers["machine"]) == lab.provisioning["hypervisor"]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid(path: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    file = tmp_path / "Pulumi.wrong.yaml"
    file.write_text(yaml.safe_dump(changed(case["set"])))
    with pytest.raises(ConfigError) as caught:
        from_stack_file(file)
    assert str(caught.value).splitlines() == case["problems"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config: [", "is no YAML"),
        ("[]", "has no `config:` mapping"),
        ("config: 3", "has no `config:` mapping"),
        ("", "has no `config:` mapping"),
    ],
)
def test_a_file_that_is_no_stack_file(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        from_stack_file(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read \(No such file"):
        from_stack_file(tmp_path / "none.yaml")


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    """pydantic shows its input in errors unless told otherwise; so would a traceback."""
    lab = from_stack_file(HERE / "valid.yaml")
    assert "encrypted" not in repr(lab.certificate_authority.host)
