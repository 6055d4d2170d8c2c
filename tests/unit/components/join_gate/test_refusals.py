"""Everything that the gate must refuse: nothing of it may leave a row in the certdb."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.components.join_gate import attacks, connection_attacks
from tests.unit.components.join_gate.attacks import ATTACKS, Cast
from tests.unit.components.join_gate.gate_host import ADDRESS, Host, TestNode, registered


@pytest.fixture(scope="module")
def cast(shared_host: Host) -> Cast:
    """Everybody who takes part in the attacks. None of them may use `node`'s join key up."""
    node, other, joined, expired, removed, first = (registered(shared_host) for _ in range(6))
    assert shared_host.sign(joined.sealed(joined.request()))[0] == 200
    shared_host.expire(expired.name)
    assert shared_host.run("remove", removed.name, removed.identity).returncode == 0
    assert shared_host.register(TestNode(first.name, generation=2)).returncode == 0
    unknown = TestNode("nobody", join_key=node.join_key)
    return Cast(shared_host, node, other, joined, expired, removed, first, unknown)


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(shared_host: Host, cast: Cast, attack: str) -> None:
    attacks.check(cast, ATTACKS[attack], shared_host.count)


@pytest.mark.parametrize("attack", connection_attacks.ATTACKS)
def test_nothing_comes_of_an_attack_on_the_connection(shared_host: Host, attack: str) -> None:
    stage = connection_attacks.Stage(shared_host, lambda: registered(shared_host))
    connection_attacks.check(stage, connection_attacks.ATTACKS[attack], shared_host.count)


def test_there_are_many_attacks() -> None:
    """One name for one attack: a name that stands twice would hide one of them."""
    parts = [
        *(attacks.OVERRIDES, attacks.SUBJECTS, attacks.NAMES, attacks.HOSTS, attacks.EXTENSIONS),
        *(attacks.KEYS, attacks.ENCODINGS, attacks.TOKENS, attacks.BODIES, attacks.WIRE),
        attacks.PATHS,
    ]
    assert len(ATTACKS) == sum(len(part) for part in parts) >= 60


def test_the_join_key_is_still_good_after_all_of_them(shared_host: Host, cast: Cast) -> None:
    """A refusal must not burn the node. Named to run after the attacks, in file order."""
    status, answer = shared_host.sign(cast.node.sealed(cast.node.request()))
    assert status == 200, answer


def test_who_is_not_authentic_learns_nothing(shared_host: Host, cast: Cast) -> None:
    """Unknown node, wrong key, another node's key: one and the same answer."""
    names = ("a wrong key", "an unknown node", "another node's key", "a removed node's key")
    answers = {ATTACKS[name].send(cast) for name in names}
    assert len(answers) == 1, answers


def test_a_second_key_is_an_alarm_in_the_log(shared_host: Host, node: TestNode) -> None:
    assert shared_host.sign(node.sealed(node.request()))[0] == 200
    node.key = ec.generate_private_key(ec.SECP256R1())
    status, answer = shared_host.sign(node.sealed(node.request()))
    assert status == 409
    assert answer["errors"][0]["message"] == (
        f"{node.name} has already joined; raise its generation to join it anew"
    )
    assert shared_host.rows(node.name) == [("good", 0)]
    (alarm,) = [
        line
        for line in map(json.loads, re.findall(r"^{.*}$", shared_host.log("gate"), re.MULTILINE))
        if line["event"] == "alarm" and line["node"] == node.name
    ]
    assert (alarm["identity"], alarm["remote"]) == (node.identity, "127.0.0.1")


def test_many_keys_at_once_get_one_certificate(shared_host: Host, node: TestNode) -> None:
    requests = [
        node.sealed(
            node.request(certificate_request=node.csr(key=ec.generate_private_key(ec.SECP256R1())))
        )
        for _ in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(status for status, _ in pool.map(shared_host.sign, requests))
    assert statuses == [200] + [409] * 7
    assert shared_host.rows(node.name) == [("good", 0)]


@pytest.mark.parametrize("endpoint", ["sign", "newcert", "revoke", "init_ca", "gencrl", "ocspsign"])
def test_nothing_else_of_cfssl_is_there(shared_host: Host, endpoint: str) -> None:
    upstream = http.client.HTTPConnection("127.0.0.1", shared_host.cfssl_port, timeout=10)
    upstream.request("POST", f"/api/v1/cfssl/{endpoint}", b"{}")
    assert upstream.getresponse().status == 404
    upstream.close()


@pytest.mark.parametrize("profile", ["intermediate", "www", "client", "ocsp", "", "unknown"])
def test_the_gates_key_is_good_for_kubelet_only(shared_host: Host, profile: str) -> None:
    """Even a holder of the key between the gate and CFSSL gets no other profile."""
    thief = TestNode("thief")
    key = bytes.fromhex((shared_host.folder / "gate.key").read_text().strip())
    request = thief.request(profile=profile, hosts=[ADDRESS])
    upstream = http.client.HTTPConnection("127.0.0.1", shared_host.cfssl_port, timeout=10)
    body = json.dumps(thief.sealed(request, key=key))
    upstream.request("POST", "/api/v1/cfssl/authsign", body)
    response = upstream.getresponse()
    assert response.status == 400
    assert "invalid token" in json.loads(response.read())["errors"][0]["message"]
    upstream.close()
    assert shared_host.rows("thief") == []


def again(host: Host, node: TestNode) -> str:
    """What `register` says when this node is registered once more; empty where it is taken."""
    return host.register(node).stderr


@pytest.mark.parametrize(
    ("before", "allowed"),
    [
        pytest.param(
            lambda host, node: host.run("remove", node.name, node.identity), False, id="removed"
        ),
        pytest.param(
            lambda host, node: host.register(TestNode(node.name, generation=2)),
            False,
            id="lowered",
        ),
        pytest.param(
            lambda host, node: host.register(TestNode(node.name), identity="edited"),
            True,
            id="an edit taken back",
        ),
    ],
)
def test_a_used_generation_is_not_registered_again(
    shared_host: Host, before: Callable[[Host, TestNode], object], allowed: bool
) -> None:
    """Its join key lies on the disk of the machine that used it: it must not come alive again."""
    node = registered(shared_host)
    assert shared_host.sign(node.sealed(node.request()))[0] == 200
    before(shared_host, node)
    said = again(shared_host, node)
    if allowed:
        assert said == ""
        return
    assert f"{node.name}: generation 1 has joined before" in said
    assert "set its generation to 2 or higher, found 1" in said
    assert shared_host.sign(node.sealed(node.request()))[0] == 401


def test_a_removed_node_that_never_joined_may_come_back(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.run("remove", node.name, node.identity)
    assert again(shared_host, node) == ""
