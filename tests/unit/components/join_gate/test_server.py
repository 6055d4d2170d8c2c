"""The server under rude and numerous clients."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.join_gate.program import server
from tests.unit.components.join_gate import connection_attacks
from tests.unit.components.join_gate.gate_host import Host, gone, registered


def test_health(shared_host: Host) -> None:
    assert shared_host.ask("GET", "/healthz") == (200, b'{"status":"ok"}')


def test_keep_alive_and_pipelining(shared_host: Host) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = shared_host.raw(request * 3 + last)
    assert answer.count(b'{"status":"ok"}') == 4


def test_expect_continue(shared_host: Host) -> None:
    head = b"POST /api/v1/cfssl/info HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    answer = shared_host.raw(head + b"expect: 100-continue\r\n\r\n", wait=0.5)
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"


def handshake(host: Host, version: ssl.TLSVersion) -> str | None:
    """The version that was agreed on when the client offers `version` and nothing else."""
    context = host.context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        host.connect() as plain,
        context.wrap_socket(plain, server_hostname=host.address) as connection,
    ):
        return connection.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2"])
def test_tls_is_not_talked_down(shared_host: Host, version: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(shared_host, ssl.TLSVersion[version])
    assert handshake(shared_host, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


@pytest.fixture
def older_host(tmp_path: Path) -> Iterator[Host]:
    """A gate with `allowTls12`."""
    host = Host(tmp_path, minimum_tls="1.2")
    try:
        host.start_gate()
        yield host
    finally:
        host.stop_all()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_where_it_is_allowed_and_nothing_older(older_host: Host) -> None:
    assert handshake(older_host, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(older_host, ssl.TLSVersion.TLSv1_1)


def test_tls_1_2_is_not_negotiated_anew(older_host: Host) -> None:
    """A client that asks for it again and again would have the gate compute for nothing."""
    words = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{older_host.port}"]
    said = subprocess.run(words, input="R\n", capture_output=True, text=True, timeout=10)
    assert "RENEGOTIATING" in said.stderr
    assert "no renegotiation" in said.stderr
    assert older_host.ask("GET", "/healthz")[0] == 200


def test_plain_http_is_turned_away(shared_host: Host) -> None:
    with shared_host.connect() as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            answer = plain.recv(1024)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer


def test_a_client_that_trusts_another_authority_sends_nothing(shared_host: Host) -> None:
    with shared_host.connect() as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("speaking", [False, True], ids=["silent", "in TLS"])
def test_more_slow_clients_than_workers_do_not_keep_joins_out(
    own_host: Host, speaking: bool
) -> None:
    """Slow-loris: when nobody is free, those who keep workers waiting have to go."""
    node = registered(own_host)
    slow: list[socket.socket] = [own_host.connect() for _ in range(server.CONNECTIONS + 40)]
    try:
        if speaking:
            slow[:40] = [own_host.secured(plain) for plain in slow[:40]]
            for connection in slow[:40]:
                connection.sendall(b"POST /api/v1/cfssl/authsign HTTP/1.1\r\n")
        started = time.monotonic()
        assert own_host.sign(node.sealed(node.request()))[0] == 200
        assert time.monotonic() - started < 5
        assert '"event":"full"' in own_host.log("gate")
    finally:
        for connection in slow:
            connection.close()


def test_idle_connections_do_not_keep_joins_out(own_host: Host) -> None:
    """100 long-polls and 100 silent connections at once, and a node still joins at once."""
    node = registered(own_host)
    follower = registered(own_host)
    silent = [socket.create_connection(("127.0.0.1", own_host.port), timeout=5) for _ in range(100)]
    answered: list[int] = []

    def follow() -> None:
        path = f"/v1/status/{follower.name}?after=0&wait=25"
        answered.append(own_host.ask("GET", path, headers=follower.bearer)[0])

    followers = [threading.Thread(target=follow) for _ in range(100)]
    try:
        for thread in followers:
            thread.start()
        deadline = time.monotonic() + 10
        while sockets_of(own_host) < 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        started = time.monotonic()
        assert own_host.sign(node.sealed(node.request()))[0] == 200
        assert time.monotonic() - started < 2
        own_host.post("/v1/progress", follower.report("ready", "done"))
        for thread in followers:
            thread.join(15)
        assert answered == [200] * 100
    finally:
        for connection in silent:
            connection.close()


def sockets_of(host: Host) -> int:
    """How many sockets the gate's workers have open."""
    found = 0
    for worker in host.workers():
        for file in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found += str(file.readlink()).startswith("socket:")
    return found


def test_a_worker_that_dies_is_replaced(own_host: Host) -> None:
    deadline = time.monotonic() + 10
    while len(before := own_host.workers()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)  # the port is there before those who answer
    assert len(before) >= 2
    os.kill(before[0], signal.SIGKILL)
    while len(set(own_host.workers()) - set(before)) < 1 and time.monotonic() < deadline:
        assert own_host.ask("GET", "/healthz")[0] == 200
    assert len(own_host.workers()) == len(before)
    assert '"event":"worker-ended"' in own_host.log("gate")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_gate(own_host: Host, number: signal.Signals) -> None:
    workers = own_host.workers()
    process = own_host.processes.pop("gate")
    process.send_signal(number)
    process.wait(10)
    gone(workers)
    own_host.start_gate()


def test_clients_that_trickle_or_never_read_are_cut_off(own_host: Host) -> None:
    """Neither bytes that come one by one nor answers that nobody takes stretch a step's time."""
    stage = connection_attacks.Stage(own_host, lambda: registered(own_host))
    asking = connection_attacks.long_answer(stage)
    before = -1
    while before != (before := sockets_of(own_host)):
        time.sleep(0.2)  # the last of those that have told are about to go
    started = time.monotonic()
    with own_host.connect() as plain, own_host.connect() as other:
        deaf = own_host.secured(plain)
        deaf.sendall(asking * 90)
        trickling = own_host.secured(other)
        trickling.sendall(b"POST /v1/progress HTTP/1.1\r\n")
        with contextlib.closing(deaf), contextlib.closing(trickling):
            assert sockets_of(own_host) == before + 2
            while sockets_of(own_host) > before and time.monotonic() - started < 14:
                with contextlib.suppress(OSError):
                    trickling.sendall(b"a")
                time.sleep(0.25)
            assert 9 < time.monotonic() - started < 14


def test_stop_is_graceful_and_quick(own_host: Host) -> None:
    node = registered(own_host)
    answers: list[tuple[int, bytes]] = []

    def follow() -> None:
        path = f"/v1/status/{node.name}?wait=25"
        answers.append(own_host.ask("GET", path, headers=node.bearer))

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.4)
    started = time.monotonic()
    assert own_host.stop("gate") == 0
    follower.join(5)
    assert time.monotonic() - started < 4
    assert [status for status, _ in answers] == [200]
    assert '"event":"stopped"' in own_host.log("gate")


def test_a_port_in_use_is_one_clear_line(own_host: Host) -> None:
    result = own_host.run("serve")
    assert result.returncode == 1
    assert f"port {own_host.port}: cannot listen: Address already in use" in result.stderr
