"""Local commands, without an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tools.plugins import command
from tools.plugins.base import CheckFailures, Failure, Request
from tools.plugins.command_glob import matching_assets, pattern
from tools.plugins.values import UNKNOWN

LOCAL = command.LocalCommand()


class Lines:
    """An engine that keeps what is logged, with the time."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float]] = []

    def log(self, urn: str, message: str, severity: str, ephemeral: bool) -> None:
        self.lines.append((message, time.monotonic()))


def request(inputs: dict[str, Any], **options: Any) -> Request:
    urn = "urn:pulumi:dev::test::command:local:Command::greet"
    return Request(urn=urn, type="command:local:Command", name="greet", inputs=inputs, **options)


def run(**inputs: Any) -> dict[str, Any]:
    """The outputs of a checked create."""
    return LOCAL.create(request(LOCAL.check(request(inputs)))).outputs


def test_a_command_runs_in_its_folder_with_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "1")
    outputs = run(
        create='pwd; echo "$NAME $INHERITED"; cat; printf err >&2',
        dir=str(tmp_path),
        environment={"NAME": "x y"},
        stdin="input",
    )
    assert outputs["stdout"] == f"{tmp_path}\nx y 1\ninput"
    assert outputs["stderr"] == "err"


def test_another_interpreter_runs_it() -> None:
    assert run(create="print(1 + 1)", interpreter=["python3", "-c"])["stdout"] == "2"


def test_a_failure_tells_the_command_and_all_of_its_output() -> None:
    with pytest.raises(Failure) as error:
        run(create='echo "out"; echo err >&2; exit 3')
    assert str(error.value).startswith(
        'exit status 3: running "echo \\"out\\"; echo err >&2; exit 3":\n'
    )
    assert sorted(str(error.value).splitlines()[1:]) == ["err", "out"]
    with pytest.raises(Failure, match="signal: killed: running"):
        run(create="kill -9 $$")


def test_a_secret_is_not_in_the_error() -> None:
    asked = request({"create": "echo hunter22; false"}, secret_texts=frozenset({"hunter22"}))
    with pytest.raises(Failure) as error:
        LOCAL.create(asked)
    assert str(error.value) == 'exit status 1: running "echo [secret]; false":\n[secret]\n'


def test_only_the_end_of_a_long_output_is_told() -> None:
    with pytest.raises(Failure) as error:
        run(create="seq 1 100000; false")
    assert len(str(error.value)) < command.LONGEST_OUTPUT + 200
    assert "characters left out]" in str(error.value)
    assert str(error.value).endswith("\n100000\n")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"dir": "/nowhere"}, "chdir /nowhere: no such file or directory"),
        ({"interpreter": ["/nowhere/sh"]}, "cannot start '/nowhere/sh': no such file"),
    ],
)
def test_what_cannot_start_says_why(inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(Failure, match=said):
        run(create="true", **inputs)


def test_update_runs_update_or_else_create_and_sees_the_output_before() -> None:
    inputs = {"create": 'echo "after $PULUMI_COMMAND_STDOUT/$PULUMI_COMMAND_STDERR"'}
    old = {"stdout": "one", "stderr": "two"}
    assert LOCAL.update(request(inputs, old_outputs=old))["stdout"] == "after one/two"
    off = {**inputs, "addPreviousOutputInEnv": False}
    assert LOCAL.update(request(off, old_outputs=old))["stdout"] == "after /"
    both = {**inputs, "update": "echo update"}
    assert LOCAL.update(request(both, old_outputs=old))["stdout"] == "update"
    assert LOCAL.update(request({"delete": "false"}, old_outputs=old)) == {**old, "delete": "false"}


def test_a_preview_runs_nothing(tmp_path: Path) -> None:
    inputs = {"create": f"touch {tmp_path / 'ran'}", "environment": {"A": UNKNOWN}}
    created = LOCAL.create(request(inputs, preview=True))
    assert created.identifier[:5] == "greet"
    assert (created.outputs["stdout"], created.outputs["stderr"]) == (UNKNOWN, UNKNOWN)
    old = {"stdout": "x", "stderr": ""}
    updated = LOCAL.update(request(inputs, old_outputs=old, preview=True))
    assert updated["stdout"] is UNKNOWN
    assert not list(tmp_path.iterdir())


def test_delete_runs_with_what_the_state_holds(tmp_path: Path) -> None:
    state = {
        "delete": 'echo "$NAME $PULUMI_COMMAND_STDOUT" > gone',
        "dir": str(tmp_path),
        "environment": {"NAME": "n"},
        "stdout": "made",
    }
    LOCAL.delete(request({}, old_outputs=state))
    assert (tmp_path / "gone").read_text() == "n made\n"


def test_lines_are_shown_while_the_command_runs() -> None:
    engine = Lines()
    LOCAL.create(request({"create": "echo one; sleep 0.5; echo two >&2"}, engine=engine))
    (one, first), (two, second) = engine.lines
    assert (one, two) == ("one", "two")
    assert second - first > 0.3


def test_output_in_no_encoding_is_shown_as_well_as_can_be() -> None:
    assert run(create="printf '\\377ok'")["stdout"] == "\ufffdok"


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(CheckFailures) as error:
        LOCAL.check(request({"create": ["ls"], "directory": "x", "addPreviousOutputInEnv": 1}))
    assert dict(error.value.failures).keys() == {"create", "directory", "addPreviousOutputInEnv"}


def test_files_are_returned_as_assets_and_as_an_archive(tmp_path: Path) -> None:
    outputs = run(
        create="mkdir a; echo 1 > a/x.txt; echo 2 > a/secret.txt; echo 3 > y.txt",
        dir=str(tmp_path),
        assetPaths=["**.txt", "!**secret*"],
        archivePaths=["a/*"],
    )
    assert sorted(outputs["assets"]) == ["a/x.txt", "y.txt"]
    assert outputs["assets"]["y.txt"].path == str(tmp_path / "y.txt")
    assert sorted(outputs["archive"].assets) == ["a/secret.txt", "a/x.txt"]


def test_the_last_matching_rule_decides(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert not matching_assets(str(tmp_path), ["a", "!a"])
    assert matching_assets(str(tmp_path), ["!a", "a"])


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.js", "a.js", True),
        ("*.js", "b/a.js", False),
        ("src/**.js", "src/b/a.js", True),
        ("src/**.js", "srcs/a.js", False),
        ("?.t[xy]t", "a.tyt", True),
        ("?.t[!x]t", "a.txt", False),
        ("{a,b*}.c", "bcd.c", True),
        ("{a,b*}.c", "c.c", False),
        ("a+b(c).d", "a+b(c).d", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
    ],
)
def test_patterns(glob: str, path: str, matches: bool) -> None:
    assert bool(pattern(glob).fullmatch(path)) == matches
