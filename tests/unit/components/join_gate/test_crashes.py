"""kill -9 of the gate, a worker of it or CFSSL at any moment of a join: nothing is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography import x509

from tests.unit.components.join_gate.gate_host import Host, TestNode, running

pytestmark = pytest.mark.full

# A join takes about 10 ms here; the last ones hit a gate that has answered.
MOMENTS = [0.0, 0.002, 0.004, 0.006, 0.008, 0.010, 0.013, 0.025]
AT_ONCE = 4
VICTIMS = ["gate", "worker", "cfssl"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running(tmp_path_factory.mktemp("crashes")) as host:
        yield host


def start(host: Host, victim: str) -> None:
    """A worker needs nobody: the gate starts another one."""
    if victim == "gate":
        host.start_gate()
    elif victim == "cfssl":
        host.start_cfssl()


def attempt(host: Host, node: TestNode) -> None:
    """A join that may break off anywhere."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        host.sign(node.sealed(node.request()))


def certificates(host: Host, node: TestNode) -> list[tuple[str, x509.Certificate]]:
    """Status and certificate of every row that the certdb has of the node."""
    database = sqlite3.connect(host.folder / "certdb.sqlite")
    try:
        rows = database.execute(
            "SELECT status, pem FROM certificates WHERE common_name = ?",
            (f"system:node:{node.name}",),
        ).fetchall()
    finally:
        database.close()
    return [(status, x509.load_pem_x509_certificate(pem.encode())) for status, pem in rows]


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_at_any_moment_burns_no_node(host: Host, victim: str) -> None:
    nodes: list[TestNode] = []
    for moment in MOMENTS:
        joining = host.admit(*(TestNode(f"{victim}-{moment}-{one}") for one in range(AT_ONCE)))
        threads = [threading.Thread(target=attempt, args=(host, node)) for node in joining]
        for thread in threads:
            thread.start()
        time.sleep(moment)
        host.kill(victim)
        for thread in threads:
            thread.join()
        start(host, victim)
        nodes += joining
    for node in nodes:
        status, answer = host.sign(node.sealed(node.request()))
        assert status == 200, answer
        given = x509.load_pem_x509_certificate(answer["result"]["certificate"].encode())
        rows = certificates(host, node)
        assert given in [certificate for _, certificate in rows]
        # One that was signed and never answered is of the same key: nobody else can use it.
        for state, certificate in rows:
            assert state == "good" and certificate.public_key() == node.key.public_key()


def test_every_certificate_is_accounted_for(host: Host) -> None:
    """Whatever was signed in all those breaks is revoked with its node."""
    nodes = json.loads(host.run("status").stdout)["nodes"]
    names = [node["node"] for node in nodes]
    assert len(names) == len(VICTIMS) * AT_ONCE * len(MOMENTS)
    for node in nodes[::AT_ONCE]:
        name = node["node"]
        assert host.run("remove", name, node["identity"]).returncode == 0
        assert {status for status, _ in host.rows(name)} == {"revoked"}


@pytest.mark.parametrize("cut", range(0, 200, 20))
def test_half_a_registration_registers_nothing(host: Host, cut: int) -> None:
    """The connection that carried it broke off."""
    node = TestNode(f"half-{cut}")
    value = {
        "node": node.name,
        "addresses": ["10.9.8.7"],
        "generation": 1,
        "identity": node.identity,
        "joinKey": node.join_key.hex(),
        "statusToken": node.status_token.hex(),
    }
    text = json.dumps(value)
    assert host.run("register", node.name, stdin=text[:cut]).returncode == 1
    assert host.run("status", node.name).returncode == 1
