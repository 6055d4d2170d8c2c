"""Whom nodes are told to trust: who may ask and tell, and who keeps another CA from following."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.unit.components.join_gate.gate_host import (
    Host,
    Shown,
    TestNode,
    make_authority,
    registered,
)

TRUST = "/v1/trust"
DIGEST = "a" * 64


def told(host: Host, node: TestNode) -> bool:
    return bool(json.loads(host.run("status", node.name).stdout)["trusts"])


def test_who_shows_no_certificate_is_told_nothing(shared_host: Host) -> None:
    status, answer = shared_host.post(TRUST, {"trusts": DIGEST})
    assert status == 401 and "by mutual TLS" in answer["errors"][0]["message"]


@pytest.mark.parametrize(
    "body",
    [{}, {"trusts": ""}, {"trusts": DIGEST.upper()}, {"trusts": [DIGEST]},
     {"trusts": DIGEST, "node": "worker-1"}, {"trusts": f"{DIGEST}\n"}],
)  # fmt: skip
def test_what_is_told_is_a_digest(shared_host: Host, node: TestNode, body: object) -> None:
    shown = shared_host.join(node)
    assert shared_host.post(TRUST, body, shown)[0] == 400
    assert told(shared_host, node)  # one CA, and nothing said yet


def test_a_superseded_certificate_tells_nothing_of_its_node(
    shared_host: Host, node: TestNode
) -> None:
    """A thief of an old key could hold up, or bring about, a CA that the node can't follow."""
    stolen = shared_host.join(node)
    shared_host.renew(node, stolen)
    assert shared_host.post(TRUST, {"trusts": DIGEST}, stolen)[0] == 204
    assert told(shared_host, node)


def test_what_a_node_told_goes_with_its_identity(shared_host: Host, node: TestNode) -> None:
    shared_host.post(TRUST, {"trusts": DIGEST}, shared_host.join(node))
    assert not told(shared_host, node)
    assert shared_host.register(TestNode(node.name, generation=2)).returncode == 0
    assert told(shared_host, node)


def test_who_is_in_the_way_is_named(own_host: Host, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_authority(tmp_path / "other")
    old, new = own_host.authority.read_text(), (tmp_path / "other" / "ca.pem").read_text()
    assert own_host.run("replace", stdin=new + old).returncode == 1  # nobody could trust it
    assert own_host.run("replace", stdin=old + new).returncode == 0
    own_host.stop("gate")
    own_host.authority.write_text(old + new)
    own_host.start_gate()
    never, joined = registered(own_host), [registered(own_host) for _ in range(10)]
    shown: list[Shown] = [own_host.join(node) for node in joined]
    refused = own_host.run("replace", stdin=new + old)
    lines = refused.stderr.splitlines()
    assert refused.returncode == 1 and len(lines) == 10 and lines[-1] == "and 2 more"
    assert all(line.endswith("does not trust the CA yet that is to sign") for line in lines[1:9])
    assert never.name not in refused.stderr  # it has no certificate, and joins with both
    own = hashlib.sha256((old + new).encode()).hexdigest()
    for node, certificate in zip(joined, shown, strict=True):
        assert own_host.post(TRUST, {"trusts": own}, certificate)[0] == 204, node
    assert own_host.run("replace", stdin=new + old).returncode == 0
    # And one that goes must have no certificate in use.
    refused = own_host.run("replace", stdin=new)
    assert f"{joined[0].name} has a certificate of the CA that is to go" in refused.stderr
    assert own_host.run("replace", stdin=old).returncode == 0
    for wrong in ("", "PEM", old.replace("MII", "XXX")):
        refused = own_host.run("replace", stdin=wrong)
        assert refused.returncode == 1 and "not a certificate" in refused.stderr
