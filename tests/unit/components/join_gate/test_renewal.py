"""Renewals at the gate: what a node gets for the certificate that it has, and nobody else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tests.unit.components.join_gate import renewal_attacks
from tests.unit.components.join_gate.gate_host import (
    ADDRESS,
    HOURS,
    Host,
    Shown,
    TestNode,
    pem,
    registered,
    running,
)

RENEWAL = "/v1/renewal"


def key_of(shown: Shown) -> CertificatePublicKeyTypes:
    return x509.load_pem_x509_certificate(shown.certificate.encode()).public_key()


def told(host: Host, node: TestNode) -> dict[str, object]:
    """What the gate tells of the node."""
    found: dict[str, object] = json.loads(host.run("status", node.name).stdout)
    return found


def test_a_node_renews_with_what_it_has_again_and_again(shared_host: Host, node: TestNode) -> None:
    shown = shared_host.join(node)
    for _ in range(3):
        before, shown = shown, shared_host.renew(node, shown)
        old, new = (
            x509.load_pem_x509_certificate(it.certificate.encode()) for it in (before, shown)
        )
        assert new.subject == old.subject and new.serial_number != old.serial_number
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.KeyUsage):
            found = [it.extensions.get_extension_for_class(kind).value for it in (old, new)]
            assert found[0] == found[1]
        assert new.public_key() == node.key.public_key() != old.public_key()
    assert shared_host.rows(node.name) == [("good", 0)] * 4
    about = told(shared_host, node)
    assert about["joined"] and about["trouble"] is None
    assert about["certificateUntil"] == new.not_valid_after_utc.timestamp()
    assert about["certificateFrom"] == new.not_valid_before_utc.timestamp()
    assert about["certificateUntil"] - about["certificateFrom"] == HOURS * 3600


def test_an_answer_that_was_lost_is_given_again(shared_host: Host, node: TestNode) -> None:
    shown = shared_host.join(node)
    node.key = ec.generate_private_key(ec.SECP256R1())
    answers = [shared_host.post(RENEWAL, node.request(), shown) for _ in range(3)]
    assert [status for status, _ in answers] == [200] * 3
    assert len({answer["result"]["certificate"] for _, answer in answers}) == 1
    assert shared_host.rows(node.name) == [("good", 0)] * 2


def test_many_at_once_for_one_key_get_one_certificate(shared_host: Host, node: TestNode) -> None:
    shown = shared_host.join(node)
    node.key = ec.generate_private_key(ec.SECP256R1())
    request = node.request()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared_host.post(RENEWAL, request, shown), range(8)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["result"]["certificate"] for _, answer in answers}) == 1
    assert shared_host.rows(node.name) == [("good", 0)] * 2


def test_many_at_once_for_other_keys_get_one_certificate(shared_host: Host, node: TestNode) -> None:
    shown = shared_host.join(node)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(8)]
    requests = [node.request(certificate_request=node.csr(key=key)) for key in keys]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda it: shared_host.post(RENEWAL, it, shown), requests))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert shared_host.rows(node.name) == [("good", 0)] * 2


def test_a_stolen_key_is_worth_nothing_at_the_gate_after_its_owner_renewed(
    shared_host: Host, node: TestNode
) -> None:
    stolen = shared_host.join(node)
    shown = shared_host.renew(node, stolen)
    thief = TestNode(node.name)
    status, answer = shared_host.post(RENEWAL, thief.request(), stolen)
    assert status == 409
    assert "a copy of it is in use; raise its generation" in answer["errors"][0]["message"]
    assert shared_host.rows(node.name) == [("good", 0)] * 2
    # The owner is told, and goes on.
    assert "renewed for a second key, from 127.0.0.1" in str(told(shared_host, node)["trouble"])
    shared_host.renew(node, shown)
    assert "renewed for a second key" in str(told(shared_host, node)["trouble"])


def test_a_thief_who_renews_first_is_found_out_and_barred(
    shared_host: Host, node: TestNode
) -> None:
    """The owner's next renewal tells of it; a raised generation ends all that came of the key."""
    stolen = shared_host.join(node)
    thief = TestNode(node.name)
    theirs = shared_host.renew(thief, stolen)
    for _ in range(2):
        theirs = shared_host.renew(thief, theirs)
    node.key = ec.generate_private_key(ec.SECP256R1())
    assert shared_host.post(RENEWAL, node.request(), stolen)[0] == 409
    assert "renewed for a second key" in str(told(shared_host, node)["trouble"])
    successor = TestNode(node.name, generation=2)
    assert shared_host.register(successor).returncode == 0
    assert shared_host.rows(node.name) == [("revoked", 4)] * 4
    assert told(shared_host, node)["trouble"] is None
    listed = json.loads(shared_host.run("revoked").stdout)["revoked"]
    assert [it["node"] for it in listed].count(node.name) == 4
    for shown in (stolen, theirs):
        assert shared_host.post(RENEWAL, thief.request(), shown)[0] == 401
    shared_host.renew(successor, shared_host.join(successor))


def test_the_join_key_gives_nothing_after_a_renewal(shared_host: Host, node: TestNode) -> None:
    first = node.sealed(node.request())
    shared_host.renew(node, shared_host.join(node))
    status, answer = shared_host.sign(first)
    assert status == 409 and answer["result"] is None
    assert shared_host.rows(node.name) == [("good", 0)] * 2


def test_a_connection_that_is_kept_shows_what_it_began_with(
    shared_host: Host, node: TestNode
) -> None:
    shown = shared_host.join(node)
    connection = shared_host.connection(shown=shown)
    statuses = []
    for _ in range(3):
        node.key = ec.generate_private_key(ec.SECP256R1())
        connection.request("POST", RENEWAL, json.dumps(node.request()))
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [200, 409, 409]


def test_a_node_tells_why_it_can_not_renew(shared_host: Host, node: TestNode) -> None:
    shown = shared_host.join(node)
    words = f"the disk is full\n\x1b[31m{node.join_key.hex()}"
    assert shared_host.post("/v1/trouble", {"message": words}, shown)[0] == 204
    assert told(shared_host, node)["trouble"] == "the disk is full | [31mREDACTED"
    shared_host.renew(node, shown)
    assert told(shared_host, node)["trouble"] is None
    assert shared_host.post("/v1/trouble", {"message": "mine"}, shown)[0] == 409


def test_openssl_and_curl_renew(shared_host: Host, node: TestNode, tmp_path: Path) -> None:
    shown = shared_host.join(node)
    (tmp_path / "pair.pem").write_text(f"{shown.certificate}\n{pem(shown.key)}")
    node.key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "request.json").write_text(json.dumps(node.request(hosts=[node.name, ADDRESS])))
    words = ["curl", "-sS", "--cacert", str(shared_host.folder / "ca.pem"), "--cert", "pair.pem"]
    words += ["--key", "pair.pem", "-d", "@request.json"]
    words.append(f"https://127.0.0.1:{shared_host.port}{RENEWAL}")
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert key_of(Shown(json.loads(result.stdout)["result"]["certificate"], None))


def test_a_lost_authority_is_named_and_the_renewal_succeeds_later(own_host: Host) -> None:
    node = registered(own_host)
    shown = own_host.join(node)
    own_host.stop("cfssl")
    node.key = ec.generate_private_key(ec.SECP256R1())
    status, answer = own_host.post(RENEWAL, node.request(), shown)
    assert status == 502
    assert "the certificate authority does not answer" in answer["errors"][0]["message"]
    own_host.start_cfssl()
    # Nothing was signed: another key may ask.
    own_host.renew(node, shown)
    assert own_host.rows(node.name) == [("good", 0)] * 2


@pytest.mark.parametrize("books", ["certdb", "gate"])
def test_a_full_disk_of_the_ca_host_is_named_and_burns_no_node(tmp_path: Path, books: str) -> None:
    """Of CFSSL's books, or of the gate's own."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", small], check=True)
    try:
        (tmp_path / f"{books}.sqlite").symlink_to(small / f"{books}.sqlite")
        with running(tmp_path) as host:
            node = registered(host)
            shown = host.join(node)
            filling = small / "filling"
            with filling.open("wb", 0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            first = node.key
            for _ in range(3):
                node.key = ec.generate_private_key(ec.SECP256R1())
                status, answer = host.post(RENEWAL, node.request(), shown)
                assert status == (502 if books == "certdb" else 503), answer
                assert "database or disk is full" in answer["errors"][0]["message"]
            assert host.rows(node.name) == [("good", 0)]
            filling.unlink()
            assert first != node.key
            host.renew(node, host.renew(node, shown))
            assert host.rows(node.name) == [("good", 0)] * 3
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


MOMENTS = [0.0, 0.002, 0.004, 0.006, 0.008, 0.010, 0.013, 0.025]


@pytest.mark.parametrize("victim", ["gate", "worker", "cfssl"])
def test_a_kill_at_any_moment_of_a_renewal_burns_no_node(own_host: Host, victim: str) -> None:
    for moment in MOMENTS:
        node = registered(own_host)
        shown = own_host.join(node)
        node.key = ec.generate_private_key(ec.SECP256R1())
        request = node.request()

        def attempt(request: object = request, shown: Shown = shown) -> None:
            with contextlib.suppress(OSError, ValueError):
                own_host.post(RENEWAL, request, shown)

        thread = threading.Thread(target=attempt)
        thread.start()
        threading.Event().wait(moment)
        own_host.kill(victim)
        if victim != "worker":
            own_host.start_gate() if victim == "gate" else own_host.start_cfssl()
        thread.join()
        own_host.workers()
        status, answer = own_host.post(RENEWAL, request, shown)
        assert status == 200, answer
        found = Shown(answer["result"]["certificate"], node.key)
        assert key_of(found) == node.key.public_key()
        own_host.renew(node, found)
        # Signed and not answered: then there is a row more, of the same key.
        assert 3 <= len(own_host.rows(node.name)) <= 4


def test_state_of_renewals_survives_a_restart(own_host: Host) -> None:
    node = registered(own_host)
    stolen = own_host.join(node)
    shown = own_host.renew(node, stolen)
    assert own_host.stop("gate") == 0
    own_host.start_gate()
    assert own_host.post(RENEWAL, TestNode(node.name).request(), stolen)[0] == 409
    own_host.renew(node, shown)


def test_a_certificate_that_was_revoked_by_hand_is_not_renewed(
    shared_host: Host, node: TestNode
) -> None:
    """Behind the gate, in the certdb alone."""
    shown = shared_host.join(node)
    with sqlite3.connect(shared_host.folder / "certdb.sqlite") as database:
        database.execute(
            "UPDATE certificates SET status = 'revoked' WHERE common_name = ?",
            (f"system:node:{node.name}",),
        )
    deadline = time.monotonic() + 10
    while shared_host.post("/v1/trouble", {"message": "x"}, shown)[0] != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status, answer = shared_host.post(RENEWAL, TestNode(node.name).request(), shown)
    assert status == 401 and "the certificate is revoked" in answer["errors"][0]["message"]
    assert shared_host.rows(node.name) == [("revoked", 0)]


def test_nothing_is_renewed_while_nobody_knows_what_is_revoked(own_host: Host) -> None:
    node = registered(own_host)
    shown = own_host.join(node)
    own_host.stop("responder")
    status, answer = own_host.post(RENEWAL, TestNode(node.name).request(), shown)
    assert status == 503 and "can't be asked" in answer["errors"][0]["message"]
    own_host.start_responder()
    own_host.renew(node, shown)


# --- attacks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cast(shared_host: Host) -> renewal_attacks.Cast:
    host, folder = shared_host, shared_host.folder
    authority = renewal_attacks.Authority(
        x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()),
        serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None),
    )
    cast = renewal_attacks.cast_of(host, authority, lambda: registered(host))
    removed, raised, moved = (it[0] for it in (cast.removed, cast.raised, cast.moved))
    assert host.run("remove", removed.name, removed.identity).returncode == 0
    assert host.register(TestNode(raised.name, generation=2)).returncode == 0
    assert host.register(TestNode(moved.name), identity="edited").returncode == 0
    return cast


@pytest.mark.parametrize("attack", renewal_attacks.ATTACKS)
def test_refused(shared_host: Host, cast: renewal_attacks.Cast, attack: str) -> None:
    renewal_attacks.check(cast, renewal_attacks.ATTACKS[attack], shared_host.count)


def test_there_are_many_attacks() -> None:
    """One name for one attack: a name that stands twice would hide one of them."""
    parts = (renewal_attacks.WHO, renewal_attacks.WHAT, renewal_attacks.WHERE)
    assert len(renewal_attacks.ATTACKS) == sum(len(part) for part in parts) >= 60


def test_the_node_renews_after_all_of_them(shared_host: Host, cast: renewal_attacks.Cast) -> None:
    """Named to run after the attacks, in file order."""
    shared_host.renew(*cast.node)
    assert shared_host.rows(cast.node[0].name) == [("good", 0)] * 2
