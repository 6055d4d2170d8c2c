"""The service that runs Cilium's operator and stands in for the agents."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lab

SCRIPT = Path(lab.__file__ or "").parent / "files/hypervisor/usr/local/lib/autojoin/cilium-operator"


@pytest.fixture(scope="module")
def service() -> ModuleType:
    loader = SourceFileLoader("cilium_operator_service", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


class Cluster:
    """An API server's collections in memory, with its answers to the calls that are made."""

    def __init__(self, nodes: list[dict[str, Any]], cilium: list[dict[str, Any]] | None) -> None:
        self.nodes = nodes
        self.cilium = (
            None if cilium is None else {item["metadata"]["name"]: item for item in cilium}
        )
        self.calls: list[str] = []

    def read(self, path: str) -> dict[str, Any] | None:
        if path.endswith("/nodes"):
            return {"items": self.nodes}
        return None if self.cilium is None else {"items": list(self.cilium.values())}

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        assert self.cilium is not None
        name = path.rsplit("/", 1)[1]
        self.calls.append(f"{method} {name}")
        if method == "POST":
            self.cilium[body["metadata"]["name"]] = body
        elif method == "DELETE":
            del self.cilium[name]
        else:
            labels = self.cilium[name]["metadata"]["labels"] | body["metadata"]["labels"]
            kept = {key: value for key, value in labels.items() if value is not None}
            self.cilium[name]["metadata"]["labels"] = kept
            self.cilium[name]["spec"] |= body["spec"]
        return 200, {}


def node(name: str, address: str, **labels: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}}


def test_each_node_gets_its_cilium_node(service: ModuleType) -> None:
    cluster = Cluster([node("w1", "10.0.0.11", bgp="worker")], [])
    service.follow_nodes(cluster)
    assert cluster.cilium is not None
    made = cluster.cilium["w1"]
    assert made["metadata"]["labels"] == {"bgp": "worker"}
    assert made["metadata"]["annotations"] == {"cilium.io/do-not-gc": "true"}
    assert made["spec"]["addresses"] == [{"type": "InternalIP", "ip": "10.0.0.11"}]
    service.follow_nodes(cluster)
    assert cluster.calls == ["POST ciliumnodes"]


def test_labels_follow_and_the_operators_part_stays(service: ModuleType) -> None:
    cluster = Cluster([node("w1", "10.0.0.11", old="1")], [])
    service.follow_nodes(cluster)
    assert cluster.cilium is not None
    cluster.cilium["w1"]["spec"]["ipam"] = {"podCIDRs": ["10.20.0.0/24"]}
    cluster.nodes = [node("w1", "10.0.0.12", new="2")]
    service.follow_nodes(cluster)
    assert cluster.cilium["w1"]["metadata"]["labels"] == {"new": "2"}
    assert cluster.cilium["w1"]["spec"]["addresses"][0]["ip"] == "10.0.0.12"
    assert cluster.cilium["w1"]["spec"]["ipam"] == {"podCIDRs": ["10.20.0.0/24"]}


def test_only_our_own_go_with_their_node(service: ModuleType) -> None:
    agents = {"metadata": {"name": "agents", "labels": {}}, "spec": {}}
    cluster = Cluster([node("w1", "10.0.0.11")], [agents])
    service.follow_nodes(cluster)
    cluster.nodes = []
    service.follow_nodes(cluster)
    assert cluster.cilium is not None
    assert list(cluster.cilium) == ["agents"]


def test_without_the_kind_nothing_is_done(service: ModuleType) -> None:
    cluster = Cluster([node("w1", "10.0.0.11")], None)
    service.follow_nodes(cluster)
    assert cluster.calls == []


@pytest.fixture
def operator(service: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An Operator whose program notes its config's keys and then waits, or ends at once."""
    program = tmp_path / "operator"
    program.write_text(
        f'#!/bin/sh\nfolder=${{1#--config-dir=}}\nls "$folder" >>{tmp_path}/starts\n'
        f'[ ! -e "$folder/end" ] || exit 3\nexec sleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(service, "OPERATOR", str(program))
    monkeypatch.setattr(service, "RESTART_SECONDS", 0.1)
    made = service.Operator(tmp_path)
    yield made
    made.stop()


def starts(folder: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 5
    while True:
        lines = (folder / "starts").read_text().split() if (folder / "starts").exists() else []
        if len(lines) >= count or time.monotonic() > deadline:
            return lines
        time.sleep(0.02)


def test_the_operator_follows_its_configuration(operator: Any, tmp_path: Path) -> None:
    operator.follow({"debug": "false"})
    first: subprocess.Popen[bytes] = operator.process
    assert starts(tmp_path, 1) == ["debug"]
    operator.follow({"debug": "false"})
    assert operator.process is first
    operator.follow({"bgp": "true"})
    assert first.poll() is not None
    assert starts(tmp_path, 2) == ["debug", "bgp"]
    assert (tmp_path / "config/bgp").read_text() == "true"
    second: subprocess.Popen[bytes] = operator.process
    operator.follow(None)
    assert operator.process is None
    assert second.poll() is not None


def test_an_operator_that_ends_is_started_again(operator: Any, tmp_path: Path) -> None:
    deadline = time.monotonic() + 5
    while len(starts(tmp_path, 0)) < 2 and time.monotonic() < deadline:
        operator.follow({"end": "1"})
        time.sleep(0.02)
    assert starts(tmp_path, 2)[:2] == ["end", "end"]
