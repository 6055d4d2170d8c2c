"""Attacks on the connection rather than by a request, each by name: what comes half, twice, behind
something else, too early, or is never read.

Used twice, as attacks.py is: on the loopback, and over the network of a lab.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.join_gate.program import server
from tests.unit.components.join_gate.attacks import AUTHSIGN, NOT_AUTHENTIC
from tests.unit.components.join_gate.gate_host import (
    Gate,
    TestNode,
    answers,
    free_port,
    make_authority,
)

AT_ONCE = server.CONNECTIONS + 40
QUICKLY = 5.0
LONG = 200_000


@dataclass(frozen=True)
class Stage:
    """`admit` registers a new node of its own name, and gives it."""

    gate: Gate
    admit: Callable[[], TestNode]


# What happened, and how many certificates it may have cost: never more than one.
Attack = Callable[[Stage], int]


def request(path: str, value: object, *, last: bool = False) -> bytes:
    """A POST; `last` asks for the end of the connection."""
    body = json.dumps(value).encode()
    close = "Connection: close\r\n" if last else ""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def join(node: TestNode, *, last: bool = False) -> bytes:
    return request(AUTHSIGN, node.sealed(node.request()), last=last)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


def joins(gate: Gate, node: TestNode) -> None:
    """The node gets its certificate, and soon."""
    started = time.monotonic()
    status, answer = gate.sign(node.sealed(node.request()))
    assert status == 200, answer
    assert time.monotonic() - started < QUICKLY


def half_a_handshake(gate: Gate) -> bytes:
    """The first half of a ClientHello."""
    outgoing = ssl.MemoryBIO()
    tls = gate.context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=gate.address)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


def long_answer(stage: Stage) -> bytes:
    """A request whose answer has LONG bytes or more: all that a node with much to tell has told."""
    chatty = stage.admit()
    said = [{"phase": "node", "state": "started", "message": "x" * 2000}] * 5
    for _ in range(LONG // 10_000):
        told = chatty.sealed({"node": chatty.name, "events": said})
        assert stage.gate.post("/v1/progress", told)[0] == 204
    token = chatty.bearer["Authorization"]
    asking = f"GET /v1/status/{chatty.name} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n"
    return asking.encode()


@contextlib.contextmanager
def connected(gate: Gate, count: int) -> Iterator[list[socket.socket]]:
    connections = [gate.connect() for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def reset(connection: socket.socket) -> None:
    """Close so that the other side gets a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- the attacks ------------------------------------------------------------------------------


def half_done_handshakes_everywhere(stage: Stage) -> int:
    hello = half_a_handshake(stage.gate)
    with connected(stage.gate, AT_ONCE) as connections:
        for connection in connections:
            connection.sendall(hello)
        joins(stage.gate, stage.admit())
    return 1


def slow_bodies_everywhere(stage: Stage) -> int:
    """In more numbers than the gate has connections, over all its processes."""
    node, thief = stage.admit(), stage.admit()
    half = join(thief)[:-100]
    context = stage.gate.context()
    with connected(stage.gate, AT_ONCE) as connections:
        for number, plain in enumerate(connections):
            # Those behind the last free place wait in the kernel, with nobody to shake hands with.
            plain.settimeout(QUICKLY if number < server.CONNECTIONS // 2 else 0.01)
            with contextlib.suppress(OSError):
                tls = context.wrap_socket(plain, server_hostname=stage.gate.address)
                connections[number] = tls
                tls.sendall(half)
        joins(stage.gate, node)
    return 1


def a_fin_half_way(stage: Stage) -> int:
    data = join(stage.admit())
    for cut in (10, data.index(b"\r\n\r\n") + 4, len(data) - 1):
        with stage.gate.connect() as plain:
            tls = stage.gate.secured(plain)
            tls.sendall(data[:cut])
            socket.socket.shutdown(tls, socket.SHUT_WR)
            with contextlib.suppress(ssl.SSLEOFError):
                assert tls.recv(1) == b""
            tls.close()
    return 0


def a_fin_behind_a_join(stage: Stage) -> int:
    """Who says that it has no more to say is answered all the same."""
    with stage.gate.connect() as plain:
        tls = stage.gate.secured(plain)
        tls.sendall(join(stage.admit()))
        socket.socket.shutdown(tls, socket.SHUT_WR)
        assert statuses(tls.recv(65536)) == [200]
        tls.close()
    return 1


def resets_at_every_step(stage: Stage) -> int:
    node = stage.admit()
    hello = half_a_handshake(stage.gate)
    context = stage.gate.context()
    for number in range(120):
        connection = stage.gate.connect()
        if number % 4 == 1:
            connection.sendall(hello)
        elif number % 4 > 1:
            connection = context.wrap_socket(connection, server_hostname=stage.gate.address)
            # A whole request in the end, whose answer nobody waits for.
            connection.sendall(join(node)[: -100 if number % 4 == 2 else None])
        reset(connection)
    joins(stage.gate, node)
    return 1


def answers_that_are_never_read(stage: Stage) -> int:
    """Until the gate has no more room for them."""
    node, asking = stage.admit(), long_answer(stage)
    with connected(stage.gate, 20) as connections:
        for number, plain in enumerate(connections):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            tls = stage.gate.secured(plain)
            connections[number] = tls
            tls.sendall(asking * 90)
        joins(stage.gate, node)
    return 1


def a_join_whose_answer_is_not_read(stage: Stage) -> int:
    """It is signed for once; whoever asks again with the same key gets the same."""
    node = stage.admit()
    with stage.gate.connect() as plain:
        tls = stage.gate.secured(plain)
        tls.sendall(join(node))
        tls.close()
    joins(stage.gate, node)
    return 1


def two_joins_the_second_for_another_node(stage: Stage) -> int:
    node, other = stage.admit(), stage.admit()
    stolen = TestNode(other.name, join_key=node.join_key)
    answer = stage.gate.raw(join(node) + join(stolen, last=True))
    assert statuses(answer) == [200, 401]
    assert answer.count(NOT_AUTHENTIC.encode()) == 1
    return 1


def two_joins_the_second_with_another_key(stage: Stage) -> int:
    node = stage.admit()
    twin = TestNode(node.name, join_key=node.join_key)
    answer = stage.gate.raw(join(node) + join(twin, last=True))
    assert statuses(answer) == [200, 409]
    assert answer.count(b"has already joined; raise its generation to join it anew") == 1
    return 1


def a_join_behind_a_report(stage: Stage) -> int:
    """What stands behind a complete request is a request of its own, with no trust of the first."""
    node, other = stage.admit(), stage.admit()
    stolen = TestNode(other.name, join_key=node.join_key)
    report = request("/v1/progress", node.report("clock", "done"))
    answer = stage.gate.raw(report + join(stolen, last=True))
    assert statuses(answer) == [204, 401]
    assert answer.count(NOT_AUTHENTIC.encode()) == 1
    return 0


def a_join_in_the_body_of_another_request(stage: Stage) -> int:
    """A length that is refused ends the connection: nothing behind it is read as a request."""
    smuggled = join(stage.admit())
    for framing in (b"Content-Length: 0x0", b"Content-Length: 0\r\nTransfer-Encoding: chunked"):
        head = b"POST /v1/progress HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n"
        answer = stage.gate.raw(head + smuggled)
        assert statuses(answer) in ([400], [411])
        assert b"Connection: close" in answer
    return 0


def a_session_that_is_resumed(stage: Stage) -> int:
    context = stage.gate.context()
    session = None
    for _ in range(2):
        with (
            stage.gate.connect() as plain,
            context.wrap_socket(plain, server_hostname=stage.gate.address, session=session) as tls,
        ):
            tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert statuses(tls.recv(1000)) == [200]
            assert not tls.session_reused
            session = tls.session
            assert session is None or not session.has_ticket
    return 0


def a_join_in_early_data(stage: Stage) -> int:
    """With the session of another server, as the gate gives none: a join could be replayed."""
    early = join(stage.admit(), last=True)
    with tempfile.TemporaryDirectory() as folder, another_server(Path(folder)) as port:
        (Path(folder) / "early").write_bytes(early)
        openssl(folder, f"127.0.0.1:{port}", "-sess_out", "session")
        words = ("-sess_in", "session", "-early_data", "early")
        said = openssl(folder, f"{stage.gate.address}:{stage.gate.port}", *words)
    assert "Early data was rejected" in said and "HTTP/1.1" not in said, said
    return 0


@contextlib.contextmanager
def another_server(folder: Path) -> Iterator[int]:
    """A server that takes early data."""
    make_authority(folder)
    port = free_port()
    words = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-early_data", "-quiet"]
    words += ["-cert", str(folder / "ca.pem"), "-key", str(folder / "ca-key.pem")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + QUICKLY
        while time.monotonic() < deadline and not answers(port):
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.communicate()


def openssl(folder: str, address: str, *words: str) -> str:
    """What `openssl s_client` says, who has a second to read."""
    client = ["openssl", "s_client", "-connect", address, "-tls1_3", *words]
    process = subprocess.Popen(
        client, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    time.sleep(1)
    return process.communicate("Q\n", timeout=QUICKLY)[0]


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        half_done_handshakes_everywhere,
        slow_bodies_everywhere,
        a_fin_half_way,
        a_fin_behind_a_join,
        resets_at_every_step,
        answers_that_are_never_read,
        a_join_whose_answer_is_not_read,
        two_joins_the_second_for_another_node,
        two_joins_the_second_with_another_key,
        a_join_behind_a_report,
        a_join_in_the_body_of_another_request,
        a_session_that_is_resumed,
        a_join_in_early_data,
    )
}


def check(stage: Stage, attack: Attack, count: Callable[[], int]) -> None:
    """It went as it must, and cost what it may, once all that is on its way has ended."""
    before = count()
    allowed = attack(stage)
    assert allowed <= 1
    assert count() - before == allowed
