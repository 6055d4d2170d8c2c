"""The server under rude and numerous clients."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time

import pytest

from tests.unit.gate.gate_host import Host, registered


def raw(host: Host, data: bytes, *, wait: float = 5) -> bytes:
    """What the gate answers to these bytes until it closes or `wait` seconds are over."""
    with (
        socket.create_connection(("127.0.0.1", host.port), timeout=wait) as plain,
        host.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(data)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except (TimeoutError, ssl.SSLError, ConnectionError):
            pass
        return answer


def test_health(shared_host: Host) -> None:
    assert shared_host.ask("GET", "/healthz") == (200, b'{"status":"ok"}')


def test_unknown_paths_and_methods(shared_host: Host) -> None:
    assert shared_host.ask("GET", "/")[0] == 404
    assert shared_host.ask("GET", "/v1/progress")[0] == 405
    assert shared_host.ask("POST", "/v1/status/x", b"{}")[0] == 405


def test_an_oversized_body_is_answered_not_read(shared_host: Host) -> None:
    status, body = shared_host.ask("POST", "/api/v1/cfssl/authsign", b"x" * 16385)
    assert status == 413
    assert "16384" in json.loads(body)["errors"][0]["message"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/2.0\r\n\r\n", b"400"),
        (b"GET http://x/healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nx: \xff\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nx: a\r\n b\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 3000, b"431"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_requests_that_are_not_http(shared_host: Host, data: bytes, status: bytes) -> None:
    answer = raw(shared_host, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert b"Connection: close" in answer


def test_keep_alive_and_pipelining(shared_host: Host) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = raw(shared_host, request * 3 + last)
    assert answer.count(b'{"status":"ok"}') == 4


def test_expect_continue(shared_host: Host) -> None:
    head = b"POST /api/v1/cfssl/info HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    answer = raw(shared_host, head, wait=0.5)
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_plain_http_and_old_tls_are_turned_away(shared_host: Host) -> None:
    with socket.create_connection(("127.0.0.1", shared_host.port), timeout=5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        try:
            answer = plain.recv(1024)
        except ConnectionResetError:
            answer = b""
        assert b"HTTP" not in answer
    context = shared_host.context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", shared_host.port), timeout=5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


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
        while threads_of(own_host) < 200 and time.monotonic() < deadline:
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


def threads_of(host: Host) -> int:
    from pathlib import Path

    return len(list(Path(f"/proc/{host.processes['gate'].pid}/task").iterdir()))


def test_a_trickling_client_is_cut_off(own_host: Host) -> None:
    """Bytes that come one by one do not stretch the time that a request may take."""
    started = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", own_host.port), timeout=30) as plain,
        own_host.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"POST /v1/progress HTTP/1.1\r\n")
        with pytest.raises(OSError):
            while time.monotonic() - started < 25:
                connection.sendall(b"a")
                time.sleep(0.25)
    assert time.monotonic() - started < 14


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
