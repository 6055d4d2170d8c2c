"""The gate on BGP sessions, with a real API server that has what agents tell."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from components.bgp import resources as bgp
from components.bgp.component import SESSION_GATE
from tests.unit.components.bgp import bgp_examples
from tests.unit.components.cilium.crds import await_crds
from tests.unit.tools.plugins.kubernetes_server import ApiServer, running
from tools.pins import Layout

CRD = "ciliumbgpnodeconfigs"
WANTED = ("metal-1/router", "metal-1/router-2", "rk1-1/router")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("session-gate")) as server:
        path = Layout().test_file("cilium-crds-1.18") / f"v2/{CRD}.yaml"
        kubectl(server, "create", "-f", str(path))
        await_crds(server.kubeconfig, f"{CRD}.cilium.io/v2")
        yield server


def kubectl(server: ApiServer, *words: str, stdin: Any = None) -> None:
    command = ["kubectl", "--kubeconfig", str(server.kubeconfig), *words]
    subprocess.run(command, input=json.dumps(stdin), text=True, capture_output=True, check=True)


def tell(server: ApiServer, node: str, **states: str) -> None:
    """What the agent of a node says of its sessions."""
    names = {"name": "instance-65010", "localASN": 65010}
    peers = [
        {"name": name.replace("_", "-"), "peerAddress": "192.168.10.1", "peeringState": state}
        for name, state in states.items()
    ]
    item = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumBGPNodeConfig",
        "metadata": {"name": node},
        "spec": {"bgpInstances": [names]},
    }
    kubectl(server, "apply", "-f", "-", stdin=item)
    told = {**item, "status": {"bgpInstances": [{**names, "peers": peers}]}}
    kubectl(server, "replace", "--subresource=status", "-f", "-", stdin=told)


def gate(server: ApiServer, seconds: int) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", SESSION_GATE.read_text(), "session-gate", str(seconds), *WANTED]
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_shellcheck() -> None:
    assert subprocess.run(["shellcheck", str(SESSION_GATE)]).returncode == 0


def test_what_is_not_established_is_named(server: ApiServer) -> None:
    tell(server, "metal-1", router="established", router_2="active")
    answer = gate(server, 1)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[:3] == [
        "not established after 1 s:",
        "metal-1 with router-2: active",
        "rk1-1 with router: the node has no BGP",
    ]


def test_it_opens_when_all_are(server: ApiServer) -> None:
    tell(server, "metal-1", router="established", router_2="established")
    tell(server, "rk1-1", router="established")
    answer = gate(server, 60)
    assert answer.returncode == 0
    assert answer.stdout.splitlines()[-1] == "3 sessions established"


def test_every_session_of_a_stack_is_waited_for() -> None:
    made = bgp.sessions(bgp_examples.full_lab())
    assert "bhyve-1/router" in made
    # By its label this one has the other instance's peers.
    assert [it for it in made if it.startswith("metal-1/")] == ["metal-1/reflector"]
