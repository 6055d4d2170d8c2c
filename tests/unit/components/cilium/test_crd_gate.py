"""The gate on CRDs, with a real API server. The tests follow each other on one server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cilium import prerequisites
from components.cilium.versions import VERSIONS
from tests.unit.tools.plugins.kubernetes_server import ApiServer, free_port, running
from tools.pins import Layout

GATE = prerequisites.CRD_GATE
POOL = "ciliumloadbalancerippools.cilium.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("crd-gate")) as server:
        yield server


def command(*words: str) -> list[str]:
    return ["sh", "-c", GATE.read_text(), "crd-gate", *words]


def gate(kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    return subprocess.run(command(*words), env=environment, capture_output=True, text=True)


def definition(release: str, kind: str) -> Path:
    (path,) = Layout().test_file(f"cilium-crds-{release}").rglob(f"{kind}.yaml")
    return path


def test_shellcheck() -> None:
    assert subprocess.run(["shellcheck", str(GATE)]).returncode == 0


def test_what_never_comes_is_named_with_the_reason(server: ApiServer) -> None:
    answer = gate(server.kubeconfig, "-o", "1", f"{POOL}/v2")
    assert answer.returncode == 1
    assert f"waiting for {POOL}: no such CRD (" in answer.stdout
    assert "not ready after 1 s:" in answer.stderr
    assert "No node is there to run it: join a worker." in answer.stderr


def test_it_opens_when_the_last_one_comes(server: ApiServer) -> None:
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
    waiting = subprocess.Popen(
        command("60", f"{POOL}/v2alpha1"), env=environment, stdout=subprocess.PIPE, text=True
    )
    assert waiting.stdout is not None
    assert "no such CRD" in waiting.stdout.readline()
    create = ["kubectl", "create", "-f", str(definition("1.17", "ciliumloadbalancerippools"))]
    subprocess.run(create, env=environment, check=True, capture_output=True)
    rest = waiting.communicate()[0]
    assert waiting.returncode == 0
    assert rest.endswith("1 CRDs Established\n")


def test_a_crd_of_the_release_before_does_not_open_it(server: ApiServer) -> None:
    """After an upgrade they are Established for a while, without the new version."""
    answer = gate(server.kubeconfig, "0", f"{POOL}/v2")
    assert answer.returncode == 1
    assert f"{POOL}: serves v2alpha1, not v2" in answer.stderr


@pytest.mark.parametrize(
    ("minor", "gateway_api"), [("1.18", "1.2"), ("1.19", "1.4"), ("1.20", "1.6")]
)
def test_missing_ones_are_applied_first(minor: str, gateway_api: str, tmp_path: Path) -> None:
    """Each on a server of its own: to take CRDs away again can take one five minutes."""
    wanted = VERSIONS[minor].gateway_definitions()
    source = str(Layout().test_file(f"gateway-api-{gateway_api}-crds"))
    with running(tmp_path) as server:
        answer = gate(server.kubeconfig, "-a", source, "30", *wanted)
        again = gate(server.kubeconfig, "-a", "/nowhere", "0", *wanted)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"applying {source}" in answer.stdout
    assert again.returncode == 0
    assert "applying" not in again.stdout


def test_a_source_that_is_not_there(server: ApiServer) -> None:
    answer = gate(server.kubeconfig, "-a", "/nowhere", "0", "things.example.org/v1")
    assert answer.returncode != 0
    assert "/nowhere" in answer.stderr


def test_a_server_that_does_not_answer(server: ApiServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    port = free_port()
    kubeconfig.write_text(server.kubeconfig.read_text().replace(f":{server.port}", f":{port}"))
    answer = gate(kubeconfig, "0", f"{POOL}/v2")
    assert answer.returncode == 1
    assert "the API server does not answer: " in answer.stderr
    assert "refused" in answer.stderr
