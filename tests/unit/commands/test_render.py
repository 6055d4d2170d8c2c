"""`make render` by its command: what it writes, and what it refuses to touch."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from commands import render
from tests.unit.components.examples import AUTHORITY_PEM
from tests.unit.components.test_situations import DATA, changed

VALID = Path(__file__).parents[1] / "stack" / "valid.yaml"


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    """A stack of one machine. Written to tmp_path/Pulumi.home.yaml."""
    data = yaml.safe_load(VALID.read_text())
    workers = data["config"]["autojoin:workers"]
    data["config"]["autojoin:workers"] = {"machine": workers["machine"]}
    return save(tmp_path / "Pulumi.home.yaml", data)


def save(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(*arguments: object) -> int:
    return render.main([str(argument) for argument in arguments])


def test_a_cluster_without_ipv4(tmp_path: Path) -> None:
    """From the stack file to seed, chart's values and BGP; no such cluster has run yet."""
    (six,) = (each for each in DATA["situations"] if each["name"] == "ipv6-only-with-bgp")
    out = tmp_path / "out"
    assert run(save(tmp_path / "Pulumi.six.yaml", changed(six["change"])), out) == 0
    found = contents(out)
    seed = found["w1/user-data"].decode()
    assert "--node-ip=fd00:10::21 " in seed and "GATE_URL='https://[fd00:10::2]:8443'" in seed
    (interface,) = yaml.safe_load(found["w1/network-config"])["ethernets"].values()
    assert interface["addresses"] == ["fd00:10::21/64"] and interface["gateway6"] == "fd00:10::1"
    values = yaml.safe_load(found["cilium/values.yaml"])
    assert (values["ipv4"], values["ipv6"]) == ({"enabled": False}, {"enabled": True})
    assert (values["k8sServiceHost"], values["underlayProtocol"]) == ("fd00:10::5", "ipv6")
    resources = list(yaml.safe_load_all(found["cilium/resources.yaml"]))
    (override,) = (it for it in resources if it["kind"] == "CiliumBGPNodeConfigOverride")
    assert override["spec"]["bgpInstances"][0]["routerID"] == "192.0.2.21"
    every = b"".join(text for name, text in found.items() if not name.startswith("ca/"))
    networks = (b"192.168.", b"10.20.", b"10.30.")
    assert not [network for network in networks if network in every]


def test_every_file_of_node_authority_and_cilium(
    stack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(stack_file, out) == 0
    found = contents(out)
    seed = {"user-data", "meta-data", "network-config", "vendor-data", "seed.iso"}
    assert {f"machine/{name}" for name in seed} <= set(found)
    assert {"ca/config.json", "ca/cfssl.service", "ca/join-gate.service", "ca/gate"} <= set(found)
    values = yaml.safe_load(found["cilium/values.yaml"])
    assert values["k8sServiceHost"] == "192.168.10.5"
    kinds = {item["kind"] for item in yaml.safe_load_all(found["cilium/resources.yaml"])}
    assert {"CiliumBGPClusterConfig", "CiliumLoadBalancerIPPool"} <= kinds
    shown = capsys.readouterr().out
    assert "REDACTED" in shown and "PLACEHOLDER" in shown
    assert b"REDACTED" in found["machine/user-data"]
    assert b"PLACEHOLDER" in found["machine/user-data"]
    assert stat.S_IMODE((out / "machine/user-data").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "machine").stat().st_mode) == 0o700


def test_the_image_is_a_nocloud_volume_with_the_same_files(
    stack_file: Path, tmp_path: Path
) -> None:
    assert run(stack_file, tmp_path / "out") == 0
    node = tmp_path / "out" / "machine"
    label = ["/sbin/blkid", "-o", "value", "-s", "LABEL", str(node / "seed.iso")]
    assert subprocess.check_output(label, text=True).strip() == "cidata"
    disc = pycdlib.PyCdlib()
    disc.open(str(node / "seed.iso"))
    for name in ("user-data", "meta-data", "network-config", "vendor-data"):
        for kind in ("rr_path", "joliet_path"):
            with disc.open_file_from_iso(**{kind: f"/{name}"}) as file:
                assert file.read() == (node / name).read_bytes()
    disc.close()


def test_same_input_gives_the_same_bytes_anywhere(
    stack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(stack_file, tmp_path / "one") == 0
    command = [sys.executable, "-m", "commands.render", str(stack_file), str(tmp_path / "two")]
    subprocess.run(
        command, check=True, env={**os.environ, "TZ": "Asia/Tokyo"}, cwd=VALID.parents[3]
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_given_certificate_is_pinned(
    stack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY_PEM)
    assert run(stack_file, tmp_path / "out", "--certificate", tmp_path / "ca.pem") == 0
    files = yaml.safe_load((tmp_path / "out/machine/user-data").read_text())["write_files"]
    assert AUTHORITY_PEM in [file["content"] for file in files]
    assert "PLACEHOLDER" not in capsys.readouterr().out


def test_a_second_run_replaces_its_own_and_keeps_what_is_not(
    stack_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(stack_file, out) == 0
    (out / "notes.txt").write_text("mine")
    data = yaml.safe_load(stack_file.read_text())
    data["config"]["autojoin:workers"]["other"] = data["config"]["autojoin:workers"].pop("machine")
    save(stack_file, data)
    assert run(stack_file, out) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"other", "ca", "cilium", "dns", "notes.txt", render.RECORD}


def foreign_file(out: Path) -> None:
    out.mkdir()
    (out / "letter").write_text("mine")


def foreign_node(out: Path) -> None:
    out.mkdir()
    (out / render.RECORD).write_text('{"folders": []}')
    (out / "machine").mkdir()
    (out / "machine" / "letter").write_text("mine")


def record_that_points_outside(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    (out.parent / "elsewhere" / "letter").write_text("mine")
    out.mkdir()
    (out / render.RECORD).write_text('{"folders": ["../elsewhere", "machine"]}')
    (out / "machine").symlink_to(out.parent / "elsewhere")


def a_file(out: Path) -> None:
    out.write_text("mine")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (foreign_file, "is not empty (it holds letter)"),
        (foreign_node, "holds machine, not written by this command"),
        (record_that_points_outside, "holds machine, not written by this command"),
        (a_file, "can't be used as a folder"),
    ],
)
def test_what_it_did_not_make_it_does_not_touch(
    stack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Any, message: str
) -> None:
    prepare(tmp_path / "out")
    before = contents(tmp_path)
    assert run(stack_file, tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--certificate", "/nowhere.pem"], "CERTIFICATE: /nowhere.pem can't be read"),
        (["--certificate", str(VALID)], "holds no certificate in PEM"),
    ],
)
def test_bad_arguments_write_nothing(
    stack_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    assert run(stack_file, tmp_path / "out", *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_secrets_without_a_state_are_a_clear_error(
    stack_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "words")
    assert run(stack_file, tmp_path / "out", "--secrets", "show") == 1
    shown = capsys.readouterr().err
    assert "SECRETS=show needs the state of stack home" in shown
    assert not (tmp_path / "out").exists()
