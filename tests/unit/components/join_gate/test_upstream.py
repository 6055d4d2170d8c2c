"""What the gate makes of CFSSL's answers, right ones and broken ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from components.join_gate.program import rules, upstream
from components.join_gate.program.errors import AuthorityError
from components.join_gate.program.upstream import Upstream
from tests.unit.components.join_gate.gate_host import ADDRESS, TestNode

GOOD = json.dumps({"success": True, "result": {"certificate": "PEM"}, "errors": []}).encode()
BAD = json.dumps({"success": False, "result": None, "errors": [{"message": "no key"}]}).encode()
HEAD = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"


def with_length(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Authority:
    """Answers request after request, on whichever connection, with what it was given; then hangs
    up if that says so, and counts connections."""

    def __init__(self, *answers: bytes, hang_up: bool = False) -> None:
        self.answers = list(answers)
        self.hang_up = hang_up
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            writer.write(self.answers.pop(0))
            if self.hang_up:
                break
        writer.close()


def asked(authority: Authority, what: Callable[[Upstream], Awaitable[None]]) -> None:
    async def run() -> None:
        server = await asyncio.start_server(authority.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await what(Upstream("127.0.0.1", port, b"k" * 32))
        server.close()

    asyncio.run(run())


def signable() -> rules.Signable:
    node = TestNode("worker-1")
    request = rules.read_request(node.request())
    return rules.check(node.request(), request, "worker-1", [ADDRESS])


def test_a_connection_is_kept() -> None:
    authority = Authority(*[with_length(GOOD)] * 3)

    async def what(it: Upstream) -> None:
        assert [await it.sign(signable()) for _ in range(3)] == ["PEM"] * 3

    asked(authority, what)
    assert authority.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    authority = Authority(*[with_length(GOOD)] * 3, hang_up=True)

    async def what(it: Upstream) -> None:
        assert [await it.sign(signable()) for _ in range(3)] == ["PEM"] * 3

    asked(authority, what)
    assert authority.connections == 3


def test_no_more_than_a_few_at_once() -> None:
    count = 40
    authority = Authority(*[with_length(GOOD)] * count)

    async def what(it: Upstream) -> None:
        answers = await asyncio.gather(*(it.sign(signable()) for _ in range(count)))
        assert answers == ["PEM"] * count

    asked(authority, what)
    assert authority.connections <= 8


@pytest.mark.parametrize(
    ("answer", "definite", "reason"),
    [
        (with_length(BAD), True, "refused: no key"),
        (with_length(BAD, HEAD.replace(b"200 OK", b"400 Bad Request")), True, "refused: no key"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", True, "refused: HTTP 404"),
        # Something may have been signed: the claim of the join key must stay.
        (with_length(GOOD)[:-1], False, "the connection ended"),
        (HEAD + b"\r\n" + GOOD[:-1], False, "refused: HTTP 200"),
        (HEAD[:20], False, "the connection ended"),
        (b"", False, "the connection ended"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "the connection ended"),
        (with_length(GOOD) + b"x", False, "the connection ended"),
        (with_length(GOOD, HEAD + b"Content-Length: 3\r\n"), False, "the connection ended"),
        (with_length(b"x" * 70000), False, "the connection ended"),
        (HEAD + b"\r\n" + b"x" * 70000, False, "refused: HTTP 200"),
        (with_length(b"[]"), False, "refused: HTTP 200"),
        (with_length(b'{"success": true, "result": {}}'), False, "refused: HTTP 200"),
    ],
)
def test_broken_answers(answer: bytes, definite: bool, reason: str) -> None:
    async def what(it: Upstream) -> None:
        with pytest.raises(AuthorityError, match=reason) as raised:
            await it.sign(signable())
        assert raised.value.definite is definite

    asked(Authority(answer, hang_up=True), what)


def test_an_answer_may_end_with_its_connection() -> None:
    async def what(it: Upstream) -> None:
        assert await it.sign(signable()) == "PEM"

    asked(Authority(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD, hang_up=True), what)


def test_an_authority_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are told in time, also those who never had their turn; and the next finds it alive."""
    monkeypatch.setattr(upstream, "_TIMEOUT_SECONDS", 0.2)

    async def what(it: Upstream) -> None:
        asking = (it.sign(signable()) for _ in range(20))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(answer) for answer in answers} == {AuthorityError}
        hanging.answers[:] = [with_length(GOOD)] * 2
        assert await it.sign(signable()) == "PEM"

    hanging = Authority(*[b""] * 100)
    asked(hanging, what)
