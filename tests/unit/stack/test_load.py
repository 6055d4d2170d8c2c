"""Wrong configurations: invalid/NAME.yaml holds one mistake, NAME.txt the line that it gives."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from commands.check import main
from components.load import examine, examine_content, examine_values, from_stack_file, from_values
from stack.models import Lab, inner_model, is_mapping
from stack.problem import ConfigError, Location
from stack.stand_in import Filler
from stack.wording import fields_of
from tools.pins import CHECKOUT

HERE = Path(__file__).parent
INVALID = sorted((HERE / "invalid").glob("*.yaml"))
SECTIONS = yaml.safe_load((HERE / "valid.yaml").read_text())["config"]
VALUES = {name.removeprefix("autojoin:"): copy.deepcopy(SECTIONS[name]) for name in SECTIONS}
VALUES["certificateAuthority"]["host"]["privateKey"] = "…"


def test_the_valid_file_is_a_lab() -> None:
    lab = from_stack_file(HERE / "valid.yaml")
    assert list(lab.workers) == ["guest", "module", "metal", "machine"]
    assert lab.cluster.api_port == 6443
    assert lab.provisioner(lab.workers["machine"]) == lab.provisioning["hypervisor"]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    shown = [str(problem).replace(str(path), "FILE") for problem in examine(path).problems]
    assert shown == path.with_suffix(".txt").read_text().splitlines()


def test_there_are_many_wrong_files_and_each_is_wrong() -> None:
    assert len(INVALID) >= 40
    assert all(path.with_suffix(".txt").read_text().strip() for path in INVALID)
    once = [path for path in INVALID if path.stem != "worst"]
    assert all(len(path.with_suffix(".txt").read_text().splitlines()) == 1 for path in once)


def test_the_worst_file_in_one_run_without_the_engine() -> None:
    """As `make check` runs it, on a machine that has no engine."""
    command = [sys.executable, "-m", "commands.check", str(HERE / "invalid/worst.yaml")]
    answer = subprocess.run(
        command, cwd=CHECKOUT, env={"PATH": "/nowhere"}, capture_output=True, text=True
    )
    assert answer.returncode == 1, answer.stderr
    lines = (HERE / "invalid/worst.txt").read_text().splitlines()
    assert answer.stdout.splitlines()[:-1] == lines and not answer.stderr


def test_a_missing_file_a_folder_and_an_unreadable_one(tmp_path: Path) -> None:
    (missing,) = examine(tmp_path / "none.yaml").problems
    assert str(missing).endswith(
        "can't be read (No such file or directory); `make new STACK=x` makes one"
    )
    (folder,) = examine(tmp_path).problems
    assert str(folder).endswith("can't be read (it is a folder)")
    (long,) = examine(tmp_path / ("x" * 300)).problems
    assert "File name too long" in str(long)
    (zero,) = examine(tmp_path / "a\0b").problems
    assert "can't be read" in str(zero)


_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no `config:` mapping"),
        (b"# nothing yet\n", "has no `config:` mapping"),
        (b"- 1", "has no `config:` mapping"),
        (b"config: 3", "has no `config:` mapping"),
        (b"config: [", "is no YAML (line 2, column 1: did not find expected node content)"),
        (b"config:\n\tx: 1", "is no YAML (line 2, column 1: a tab)"),
        (b"config: \x01", "is no YAML (line 1: control characters are not allowed)"),
        (b"config: \0", "is not text (a zero byte at 8)"),
        ("config: å".encode("latin-1"), "is not UTF-8 (byte 0xe5 in line 1)"),
        ("config: {}".encode("utf-16"), "is not UTF-8 (it begins as UTF-16 does)"),
        (b"[" * 100_000, "is nested too deeply (line 1)"),
        (b"{a: " * 100_000, "is nested too deeply (line 1)"),
        (_BOMB.encode(), "holds too many values (more than 400000)"),
        (b"config: &a [*a]", "has an alias whose anchor does not stand before it (line 1: *a)"),
        (b"config: *a", "has an alias whose anchor does not stand before it (line 1: *a)"),
        (b"#" * (9 * 1024 * 1024), "is too large for a stack file (9 MiB)"),
        (b"config: !!python/object/apply:os.system [ls]", "has no `config:` mapping"),
    ],
    ids=range(17),
)
def test_a_file_that_is_no_stack_file(content: bytes, problem: str) -> None:
    problems = examine_content(content, "Pulumi.x.yaml").problems
    assert f"Pulumi.x.yaml: {problem}" in str(problems[-1])


def test_windows_line_ends_a_byte_order_mark_and_anchors_are_fine() -> None:
    text = (HERE / "valid.yaml").read_text().replace("\n", "\r\n")
    assert examine_content(b"\xef\xbb\xbf" + text.encode(), "x").problems == []
    text = text.replace('{address: 192.168.10.3, hostKey: "', '{<<: *host, hostKey: "')
    text = "x-host: &host {address: 192.168.10.3}\r\n" + text
    (problem,) = examine_content(text.encode(), "x").problems
    assert str(problem).startswith("x-host: is no key of a stack file")


def test_a_section_set_as_json_is_read_as_pulumi_reads_it() -> None:
    config = {**SECTIONS, "autojoin:cluster": json.dumps(SECTIONS["autojoin:cluster"])}
    text = yaml.safe_dump({"config": config})
    assert examine_content(text.encode(), "x").problems == []


def test_an_empty_section_is_one_that_is_not_there() -> None:
    assert from_values({**VALUES, "workers": None, "bgp": None}).bgp is None


def test_a_secret_is_not_shown() -> None:
    """pydantic shows its input in errors unless told otherwise; so would a traceback."""
    lab = from_values(VALUES)
    assert "…" not in repr(lab.certificate_authority.host)
    changed = copy.deepcopy(VALUES)
    changed["certificateAuthority"]["host"]["privateKey"] = 31337
    with pytest.raises(ConfigError) as caught:
        from_values(changed)
    assert str(caught.value) == (
        "autojoin:certificateAuthority.host.privateKey: must be text; write it in quotes"
    )


# --- one mistake never hides another ----------------------------------------------------------


def leaves(value: Any, place: tuple[int | str, ...] = ()) -> list[tuple[int | str, ...]]:
    """Every place of VALUES at which something stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[int | str, ...]] = []
    for name, item in items:
        found.append((*place, name))
        if isinstance(item, (dict, list)):
            found += leaves(item, (*place, name))
    return found


def shown_place(place: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "autojoin:" + "".join(parts)[1:]


@pytest.mark.parametrize("place", leaves(VALUES), ids=shown_place)
def test_a_wrong_value_hides_no_other_mistake(place: tuple[int | str, ...]) -> None:
    """Whatever is wrong, the pool that overlaps the Services' network is found as well."""
    changed = copy.deepcopy(VALUES)
    changed["bgp"]["loadBalancerPools"].append({"name": "other", "cidrs": ["10.30.8.0/24"]})
    overlap = "autojoin:bgp.loadBalancerPools[1].cidrs[0]: overlaps"
    parent: Any = changed
    for part in place[:-1]:
        parent = parent[part]
    if isinstance(parent[place[-1]], dict) and place[0] == "bgp" and len(place) == 1:
        return
    parent[place[-1]] = 3.5
    problems = [str(problem) for problem in examine_values(changed).problems]
    wrong = [line for line in problems if line.startswith(f"{shown_place(place)}: ")]
    assert len(wrong) == 1, problems
    gone = place[:2] in (("bgp", "loadBalancerPools"), ("cluster", "serviceCidrs"))
    if not gone and place != ("cluster",):
        assert any(line.startswith(overlap) for line in problems)
        assert len(problems) == 2, problems


def places(model: type[BaseModel], above: Location = ()) -> Iterator[Location]:
    """Every key that there is; entries of mappings are called `machine`, those of lists 0."""
    for name, field in fields_of(model).items():
        yield (*above, name)
        inner = inner_model(field.annotation)
        if inner is not None:
            entry: Location = (0,) if "list[" in str(field.annotation) else ()
            entry = ("machine",) if is_mapping(field.annotation) else entry
            yield from places(inner, (*above, name, *entry))


def put(values: Any, place: Location, value: Any) -> None:
    """Set the value at a place, with stand-ins for what has to be above it."""
    for index, part in enumerate(place[:-1]):
        if isinstance(part, int):
            if not values:
                values.append(Filler(0).item(place[: index + 1]))
        elif values.get(part) is None:
            values[part] = [] if isinstance(place[index + 1], int) else {}
        values = values[part]
    values[place[-1]] = value


def test_no_key_that_there_is_hides_another_mistake() -> None:
    """Also those that no file here uses: their types' stand-ins, or their absence, will do."""
    overlap = "autojoin:bgp.loadBalancerPools[1].cidrs[0]: overlaps"
    for place in places(Lab):
        if place[:2] in (("bgp", "loadBalancerPools"), ("cluster", "serviceCidrs")):
            continue
        changed = copy.deepcopy(VALUES)
        changed["bgp"]["loadBalancerPools"].append({"name": "other", "cidrs": ["10.30.8.0/24"]})
        put(changed, place, 3.75)
        problems = [str(problem) for problem in examine_values(changed).problems]
        assert any(": must be" in line for line in problems), place
        found = any(line.startswith(overlap) for line in problems)
        assert found or place in (("cluster",), ("bgp",)), (place, problems)


# --- no traceback, ever -------------------------------------------------------------------------

_YAML_MARKS = "ab:-[]{}&*!|>'\"%@`#,? \n\t<~0"
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("secure")
)
_KEYS = st.one_of(
    st.sampled_from(sorted({name for model in [Lab] for name in fields_of(model)})),
    st.sampled_from(["address", "hardware", "slot", "peers", "host", "hostKey", "secure", "mac"]),
    st.text(max_size=6),
)


def _deeper(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4))


_TREES = st.recursive(_SCALARS, _deeper, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(leaves(VALUES)), _TREES, _KEYS)
def test_no_value_anywhere_is_a_traceback(
    place: tuple[int | str, ...], value: Any, name: str
) -> None:
    changed = copy.deepcopy(VALUES)
    parent: Any = changed
    for part in place[:-1]:
        parent = parent[part]
    parent[place[-1]] = value
    if isinstance(parent, dict):
        parent.setdefault(name, value)
    report = examine_values(changed)
    assert (report.lab is None) == bool(report.problems)
    text = yaml.safe_dump({"config": {f"autojoin:{key}": item for key, item in changed.items()}})
    report = examine_content(text.encode(), "x")
    assert all("\n" not in str(problem) for problem in report.problems)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t<~0", max_size=60).map(str.encode)
)
@example(b"config: {? : x}")
@example(b"%YAML 3.0\n---\nconfig: {}")
@example(b"config: {<<: 3, <<: [a], autojoin:cluster: {<<: {name: x}}}")
def test_no_bytes_are_a_traceback(content: bytes) -> None:
    for whole in (content, b"config:\n  autojoin:cluster:\n    name: " + content):
        report = examine_content(whole, "x")
        assert report.problems and report.lab is None


# --- the command ---------------------------------------------------------------------------------


def test_the_command_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    valid, wrong = HERE / "valid.yaml", HERE / "invalid/asn-out-of-range.yaml"
    assert main(["--json", str(valid), str(wrong)]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["fine"], first["problems"]) == (True, [])
    assert second["problems"] == [
        {
            "key": "autojoin:bgp.localAsn",
            "wrong": "must be at least 1",
            "found": "0",
            "hint": "",
            "line": 22,
        }
    ]


def test_warnings_are_apart_and_pass_unless_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    config = copy.deepcopy(SECTIONS)
    config["autojoin:cilium"] = {"version": "1.20.2"}
    config["autojoin:cluster"]["kubernetesVersion"] = "1.30.1"
    file.write_text(yaml.safe_dump({"config": config}))
    warning = (
        "warning: autojoin:cilium.version: is not tested with this Kubernetes (Kubernetes 1.30.1); "
        "Cilium 1.20 is tested with 1.33 to 1.36"
    )
    assert examine(file).problems == []
    assert main([str(file)]) == 0
    assert warning in capsys.readouterr().out.splitlines()
    assert main([str(file), "--strict"]) == 1
    assert "\033" not in capsys.readouterr().out
