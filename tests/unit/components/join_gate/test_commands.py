"""The gate's commands, and revocation in the real certdb."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.components.join_gate.gate_host import ADDRESS, Host, TestNode, registered

SUPERSEDED, CESSATION = 4, 5


def test_register_prints_no_secret_and_no_time(shared_host: Host) -> None:
    node = TestNode("printed")
    first, again = shared_host.register(node), shared_host.register(node)
    assert first.stdout == again.stdout
    assert json.loads(first.stdout) == {
        "node": "printed",
        "generation": 1,
        "identity": "printed-g1",
    }
    assert first.stderr == ""


def test_registering_the_same_identity_again_keeps_the_join(shared_host: Host) -> None:
    node = registered(shared_host)
    _, before = shared_host.sign(node.sealed(node.request()))
    shared_host.register(node)
    assert shared_host.sign(node.sealed(node.request())) == (200, before)
    assert shared_host.rows(node.name) == [("good", 0)]


def test_a_new_generation_revokes_the_old_certificate_and_joins_anew(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request()))
    shared_host.post("/v1/progress", node.report("ready", "done"))
    anew = TestNode(node.name, generation=2)
    assert shared_host.register(anew).returncode == 0
    assert shared_host.rows(node.name) == [("revoked", SUPERSEDED)]
    assert shared_host.sign(node.sealed(node.request()))[0] == 401
    assert shared_host.sign(anew.sealed(anew.request()))[0] == 200
    assert shared_host.rows(node.name) == [("revoked", SUPERSEDED), ("good", 0)]
    _, body = shared_host.ask("GET", f"/v1/status/{node.name}", headers=anew.bearer)
    assert json.loads(body)["events"] == []


def test_removing_revokes_and_repeats_safely(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request()))
    first, again = (shared_host.run("remove", node.name, node.identity) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0)
    assert json.loads(first.stdout)["revoked"] == 1 and json.loads(again.stdout)["revoked"] == 0
    assert shared_host.rows(node.name) == [("revoked", CESSATION)]
    assert shared_host.sign(node.sealed(node.request()))[0] == 401


def test_what_is_another_identitys_is_not_removed(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request()))
    result = shared_host.run("remove", node.name, "an-older-one")
    assert result.returncode == 0
    assert f"{node.name} is {node.identity} here, not an-older-one: it stays" in result.stderr
    assert shared_host.rows(node.name) == [("good", 0)]
    assert shared_host.run("status", node.name).returncode == 0


def test_another_secret_of_the_stack_revokes_nothing_that_runs(shared_host: Host) -> None:
    """Lost state, say: the same identities, with other keys."""
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request()))
    other = "ab" * 32
    assert shared_host.register(node, joinKey=other).returncode == 0
    assert shared_host.rows(node.name) == [("good", 0)]
    assert json.loads(shared_host.run("status", node.name).stdout)["joined"] is True


def test_what_is_revoked_is_told_by_the_fingerprint_that_the_api_server_knows(
    shared_host: Host,
) -> None:
    node = registered(shared_host)
    _, answer = shared_host.sign(node.sealed(node.request()))
    certificate = x509.load_pem_x509_certificate(answer["result"]["certificate"].encode())
    assert node.name not in shared_host.run("revoked").stdout
    shared_host.register(TestNode(node.name, generation=2))
    (entry,) = [
        entry
        for entry in json.loads(shared_host.run("revoked").stdout)["revoked"]
        if entry["node"] == node.name
    ]
    assert entry["sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert entry["notAfter"] == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_certificate_that_the_gate_never_recorded_is_revoked_too(own_host: Host) -> None:
    """The gate died between CFSSL's answer and its own record: the row is in the certdb only."""
    import sqlite3

    node = registered(own_host)
    own_host.sign(node.sealed(node.request()))
    with sqlite3.connect(own_host.folder / "gate.sqlite") as database:
        database.execute("DELETE FROM certificates")
    assert own_host.run("remove", node.name, node.identity).returncode == 0
    assert own_host.rows(node.name) == [("revoked", CESSATION)]


def test_a_revocation_that_failed_is_done_by_the_next_command(own_host: Host) -> None:
    node = registered(own_host)
    own_host.sign(node.sealed(node.request()))
    settings = own_host.folder / "gate.json"
    good = settings.read_text()
    settings.write_text(json.dumps({**json.loads(good), "cfssl": "/bin/false"}))
    failed = own_host.run("remove", node.name, node.identity)
    assert failed.returncode == 1
    assert "cannot be revoked" in failed.stderr and len(failed.stderr.splitlines()) == 1
    settings.write_text(good)
    assert own_host.run("remove", node.name, node.identity).returncode == 0
    assert own_host.rows(node.name) == [("revoked", CESSATION)]


def test_status_shows_nodes_without_their_secrets(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request()))
    shared_host.post("/v1/progress", node.report("kubelet", "started", "waiting"))
    shown = json.loads(shared_host.run("status", node.name).stdout)
    assert shown["joined"] is True and shown["addresses"] == [ADDRESS]
    assert (shown["phase"], shown["state"], shown["message"]) == ("kubelet", "started", "waiting")
    everything = shared_host.run("status").stdout
    assert node.name in [entry["node"] for entry in json.loads(everything)["nodes"]]
    assert node.join_key.hex() not in everything and node.status_token.hex() not in everything
    unknown = shared_host.run("status", "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "gate status: nobody: not registered\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node": "other"}, "node: must be"),
        ({"addresses": []}, "addresses: must be a list"),
        ({"addresses": ["worker.example"]}, "addresses: not an address of a node"),
        ({"addresses": ["::ffff:10.9.8.7"]}, "addresses: not an address of a node"),
        ({"addresses": ["fe80::1%eth0"]}, "addresses: not an address of a node"),
        ({"addresses": ["127.0.0.1"]}, "addresses: not an address of a node"),
        ({"generation": 0}, "generation: 1 or more"),
        ({"generation": True}, "generation: 1 or more"),
        ({"identity": "a b"}, "identity:"),
        ({"joinKey": "11"}, "joinKey: must be 32 bytes in hex"),
        ({"statusToken": None}, "statusToken: must be 32 bytes in hex"),
        ({"lifeHours": 0}, "lifeHours: 1 to"),
        ({"extra": 1}, "must be an object with"),
    ],
)
def test_wrong_registrations_are_refused(
    shared_host: Host, changes: dict[str, object], message: str
) -> None:
    node = TestNode("wrong")
    result = shared_host.register(node, **changes)
    assert result.returncode == 1 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert node.join_key.hex() not in result.stderr
    assert shared_host.run("status", "wrong").returncode == 1


@pytest.mark.parametrize("name", ["Upper", "-x", "a" * 53, "a b", "../x", "a..b", "", "10.9.8.7"])
def test_wrong_names_are_refused(shared_host: Host, name: str) -> None:
    result = shared_host.run("register", name, stdin="{}")
    assert result.returncode == 1 and "not a node's name" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["register"], ["serve", "x"]])
def test_wrong_usage(shared_host: Host, arguments: list[str]) -> None:
    result = shared_host.run(*arguments)
    assert result.returncode == 2 and result.stderr.startswith("usage: gate")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"prot": 1}', "authority: missing"),
    ],
)
def test_wrong_settings_are_named(own_host: Host, content: str, message: str) -> None:
    settings = own_host.folder / "gate.json"
    settings.write_text(content)
    result = own_host.run("status")
    assert result.returncode == 1
    assert str(settings) in result.stderr and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_serving_without_a_key_to_cfssl_is_refused(own_host: Host) -> None:
    """An empty key would fail open."""
    own_host.stop("gate")
    (own_host.folder / "gate.key").write_text("\n")
    result = own_host.run("serve")
    assert result.returncode == 1 and "must hold 32 bytes" in result.stderr


def test_a_join_under_load_of_commands(shared_host: Host) -> None:
    """Commands and the service share one database without getting in each other's way."""
    from concurrent.futures import ThreadPoolExecutor

    def join(number: int) -> int:
        node = TestNode(f"crowd-{number}", key=ec.generate_private_key(ec.SECP256R1()))
        assert shared_host.register(node).returncode == 0
        return shared_host.sign(node.sealed(node.request()))[0]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(join, range(12))) == [200] * 12
