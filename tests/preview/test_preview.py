"""The program under the real engine, with nothing to reach: no CA host, no API server, no state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import stack
from tools.pins import CHECKOUT, Layout

VALID = CHECKOUT / "tests/unit/stack/valid.yaml"
Change = Callable[[dict[str, Any]], None]


@dataclass
class Engine:
    """A throw-away backend and stack. Nothing answers at the addresses of its configuration."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **stack.engine_environment(),
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_STACK": "off",
            **self.environment,
        }
        command = ["pulumi", *words, "--non-interactive"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def preview(self, change: Change) -> subprocess.CompletedProcess[str]:
        """Preview valid.yaml, left with its nspawn worker alone, after `change`."""
        config = yaml.safe_load(VALID.read_text())["config"]
        for section in ("cluster", "certificateAuthority", "provisioning", "bgp"):
            move(config[f"autojoin:{section}"])
        del config["autojoin:certificateAuthority"]["host"]["privateKey"]
        workers = config["autojoin:workers"]
        config["autojoin:workers"] = {"machine": workers["machine"]}
        move(config["autojoin:workers"])
        config["autojoin:cluster"]["kubeconfig"] = str(self.folder / "none")
        change(config)
        # The plugin reads the chart, and a repository may be out of reach.
        config.setdefault("autojoin:cilium", {}).setdefault("chart", str(Layout().chart))
        file = self.folder / "Pulumi.off.yaml"
        file.write_text(yaml.safe_dump({"config": config}))
        shutil.copy(CHECKOUT / "Pulumi.yaml", self.folder)
        created = self.run("stack", "init", "off", folder=self.folder)
        assert created.returncode == 0, created.stderr
        return self.run("preview", "--json", "--config-file", str(file))


def move(value: Any) -> None:
    """Put every address of the home network into TEST-NET-3, where nobody answers."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, str):
            value[key] = item.replace("192.168.10.", "203.0.113.")
        elif isinstance(item, (dict, list)):
            move(item)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def nothing(config: dict[str, Any]) -> None:
    """No change."""


def steps(answer: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return list(json.loads(answer.stdout)["steps"])


def names(found: list[dict[str, Any]]) -> set[str]:
    return {step["urn"].rpartition("::")[2] for step in found}


def test_everything_is_to_be_created(engine: Engine) -> None:
    found = steps(engine.preview(nothing))
    assert {step["op"] for step in found} == {"create"}
    assert not any(step["newState"].get("protect") for step in found)
    assert {"ca-cfssl", "ca-ocsp-key", "ca-ocsp-request"} <= names(found)
    assert {"gate-service", "cilium-release", "bgp-crd-gate"} <= names(found)
    assert {"machine", "machine-registration", "machine-machine"} <= names(found)


def test_children_belong_to_their_components(engine: Engine) -> None:
    found = steps(engine.preview(nothing))
    parents = {
        step["urn"].rpartition("::")[2]: step["newState"]["parent"].rpartition("::")[2]
        for step in found
        if "parent" in step["newState"]
    }
    assert parents["ca-cfssl"] == "ca"
    assert parents["gate-key"] == "gate"
    assert parents["cilium-release"] == "cilium"
    assert parents["bgp-crd-gate"] == parents["bgp-ippool"] == "bgp"
    assert parents["machine-machine"] == "machine"
    assert parents["machine-registration"] == "gate"


@pytest.mark.parametrize("count", [1, 8])
def test_a_worker_is_three_resources(engine: Engine, count: int) -> None:
    def workers(config: dict[str, Any]) -> None:
        one = config["autojoin:workers"]["machine"]
        config["autojoin:workers"] = {
            f"node-{number}": {**one, "address": f"203.0.113.{100 + number}"}
            for number in range(count)
        }

    found = steps(engine.preview(workers))
    of_workers = [name for name in names(found) if name.startswith("node-")]
    assert len(of_workers) == 3 * count


def test_without_bgp_there_is_none(engine: Engine) -> None:
    def remove(config: dict[str, Any]) -> None:
        del config["autojoin:bgp"]

    found = steps(engine.preview(remove))
    assert not {"bgp", "bgp-crd-gate", "bgp-ippool"} & names(found)
    assert "cilium-release" in names(found)


def test_what_the_chart_needs_is_off_with_a_warning_where_nobody_answers(engine: Engine) -> None:
    answer = engine.preview(nothing)
    (release,) = [step for step in steps(answer) if step["urn"].endswith("cilium-release")]
    values = release["newState"]["inputs"]["values"]
    assert values["gatewayAPI"] == {"enabled": False}
    assert values["prometheus"]["serviceMonitor"] == {"enabled": False}
    sections = "gatewayApi, serviceMonitors, dashboards"
    told = f"autojoin:cilium: {sections} stay as they are: the cluster can't be asked"
    assert told in answer.stdout + answer.stderr


def test_what_the_chart_needs_is_put_there_first(engine: Engine) -> None:
    def install(config: dict[str, Any]) -> None:
        config["autojoin:cilium"] = {
            "gatewayApi": {"mode": "install"},
            "serviceMonitors": {"mode": "present"},
            "dashboards": {"mode": "install", "namespace": "boards"},
        }

    answer = engine.preview(install)
    made = {step["urn"].rpartition("::")[2]: step["newState"] for step in steps(answer)}
    release = made["cilium-release"]
    needs = [urn.rpartition("::")[2] for urn in release["dependencies"]]
    assert sorted(needs) == ["cilium-dashboards", "cilium-gateway-api", "cilium-service-monitors"]
    assert release["inputs"]["values"]["gatewayAPI"]["enabled"] is True
    assert "-a https://" in made["cilium-gateway-api"]["inputs"]["create"]
    assert "standard-install.yaml" in made["cilium-gateway-api"]["inputs"]["create"]
    assert made["cilium-dashboards"]["retainOnDelete"] is True


def test_a_password_is_a_secret_of_the_cluster_and_is_not_shown(engine: Engine) -> None:
    def lock(config: dict[str, Any]) -> None:
        config["autojoin:bgp"]["peers"][0]["password"] = "s3cret-of-9"

    found = steps(engine.preview(lock))
    assert "bgp-cilium-peer-router-password" in names(found)
    assert "s3cret-of-9" not in json.dumps(found)


def test_bgp_is_made_in_the_order_in_which_it_is_read(engine: Engine) -> None:
    made = {
        step["urn"].rpartition("::")[2]: step["newState"] for step in steps(engine.preview(nothing))
    }
    needs = {
        name: {urn.rpartition("::")[2] for urn in state.get("dependencies", [])}
        for name, state in made.items()
    }
    assert needs["bgp-cilium-peer"] == needs["bgp-bgp-advertisements"] == {"bgp-crd-gate"}
    assert needs["bgp-ippool"] == {"bgp-cilium-peer", "bgp-bgp-advertisements"}
    assert needs["bgp-cilium-bgp"] == {"bgp-ippool"}


def test_without_workers_a_cluster_with_none(engine: Engine) -> None:
    def remove(config: dict[str, Any]) -> None:
        del config["autojoin:workers"]

    assert {"ca-cfssl", "gate-service", "cilium-release"} <= names(steps(engine.preview(remove)))


def test_nothing_secret_is_shown(engine: Engine, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a very private key\n")

    def add_key(config: dict[str, Any]) -> None:
        config["autojoin:certificateAuthority"]["host"]["privateKeyFile"] = str(key)

    answer = engine.preview(add_key)
    steps(answer)
    assert "a very private key" not in answer.stdout + answer.stderr


def test_a_missing_key_file_is_a_warning(engine: Engine) -> None:
    def name_file(config: dict[str, Any]) -> None:
        config["autojoin:certificateAuthority"]["host"]["privateKeyFile"] = "/nowhere/key"

    answer = engine.preview(name_file)
    steps(answer)
    assert "/nowhere/key can't be read" in answer.stdout + answer.stderr


def misspelt(config: dict[str, Any]) -> None:
    config["autojoin:wrokers"] = {}


def without_section(config: dict[str, Any]) -> None:
    del config["autojoin:cluster"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (misspelt, "autojoin:wrokers: is no known key; did you mean workers?"),
        (without_section, "autojoin:cluster: is required"),
    ],
)
def test_a_bad_configuration_is_a_clear_error(engine: Engine, change: Change, line: str) -> None:
    answer = engine.preview(change)
    assert answer.returncode != 0
    shown = answer.stdout + answer.stderr
    assert line in shown
    assert "Traceback" not in shown


def test_a_generated_authority_is_protected(engine: Engine) -> None:
    def generate(config: dict[str, Any]) -> None:
        authority = config["autojoin:certificateAuthority"]
        for name in ("certificate", "key"):
            authority.pop(name, None)
        authority["source"] = "generate"

    found = {step["urn"].rpartition("::")[2]: step for step in steps(engine.preview(generate))}
    assert found["ca-pair"]["newState"]["protect"] is True
    assert "delete" not in found["ca-pair"]["newState"]["inputs"]
