"""What is decided once, asked of several processes at the same instant."""

from __future__ import annotations

import threading
import time
from typing import Any
from unittest import mock

import pytest
from cryptography import x509

from components.join_gate.program import server, settings, worker
from components.join_gate.program.issued import Authority
from components.join_gate.program.trust import Trust
from tests.unit.components.join_gate.gate_host import Host, TestNode

AT_ONCE = 16


def together(host: Host, envelopes: list[dict[str, str]]) -> list[tuple[int, Any]]:
    """The answers to all of them, sent at once, each on a connection of its own."""
    start = threading.Barrier(len(envelopes))
    answers: list[tuple[int, Any]] = []

    def ask(envelope: dict[str, str]) -> None:
        start.wait()
        answers.append(host.sign(envelope))

    threads = [threading.Thread(target=ask, args=(envelope,)) for envelope in envelopes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_of_many_keys_at_once_one_joins(shared_host: Host, node: TestNode) -> None:
    """Sixteen machines with one join key: one is signed for, and the others are told."""
    thieves = [TestNode(node.name, join_key=node.join_key) for _ in range(AT_ONCE)]
    answers = together(shared_host, [it.sealed(it.request()) for it in thieves])
    assert sorted(status for status, _ in answers) == [200] + [409] * (AT_ONCE - 1)
    assert shared_host.rows(node.name) == [("good", 0)]
    [given] = [answer["result"]["certificate"] for status, answer in answers if status == 200]
    # The one whose key it is gets the same again; no other ever does.
    key = x509.load_pem_x509_certificate(given.encode()).public_key()
    for thief in thieves:
        status, answer = shared_host.sign(thief.sealed(thief.request()))
        if thief.key.public_key() == key:
            assert (status, answer["result"]["certificate"]) == (200, given)
        else:
            assert status == 409


def test_one_key_asked_many_times_at_once_is_signed_for_once(
    shared_host: Host, node: TestNode
) -> None:
    answers = together(shared_host, [node.sealed(node.request()) for _ in range(AT_ONCE)])
    assert {status for status, _ in answers} == {200}
    assert len({answer["result"]["certificate"] for _, answer in answers}) == 1
    assert shared_host.rows(node.name) == [("good", 0)]


def test_a_process_that_can_not_keep_its_promises_ends(
    shared_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what runs beside the clients, deadlines among it, another process must take over."""

    async def fails(it: server.Server) -> None:
        raise RuntimeError("no more deadlines")

    monkeypatch.setattr(server.Server, "sweep", fails)
    monkeypatch.setattr(worker, "gc", mock.Mock())  # this process keeps its own ways
    loaded = settings.load(str(shared_host.folder / "gate.json"))
    context = server.tls_context(loaded.certificate, loaded.key, loaded.minimumTls)
    trust = Trust(shared_host.authority.read_text())
    authority = Authority(x509.load_pem_x509_certificate(trust.bundle.encode()))
    with server.listen("127.0.0.1", 0) as listener, pytest.raises(RuntimeError, match="deadlines"):
        worker.Worker(loaded, listener, context, authority, trust, b"k" * 32, 1.0).run()


def test_who_follows_hears_what_another_process_was_told(shared_host: Host, node: TestNode) -> None:
    heard: list[float] = []

    def follow() -> None:
        path = f"/v1/status/{node.name}?wait=20"
        assert b"runtime" in shared_host.ask("GET", path, headers=node.bearer)[1]
        heard.append(time.monotonic())

    # So many that each process has some.
    followers = [threading.Thread(target=follow) for _ in range(AT_ONCE)]
    for thread in followers:
        thread.start()
    time.sleep(0.5)
    shared_host.post("/v1/progress", node.report("runtime", "done"))
    told = time.monotonic()
    for thread in followers:
        thread.join()
    assert len(heard) == AT_ONCE and max(heard) - told < 5
