"""Progress reports and those who follow them."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.join_gate.program import progress
from tests.unit.components.join_gate.gate_host import Host, TestNode, registered


def events(host: Host, node: TestNode, query: str = "") -> list[Any]:
    status, body = host.ask("GET", f"/v1/status/{node.name}{query}", headers=node.bearer)
    assert status == 200, body
    data = json.loads(body)
    assert data["node"] == node.name
    result: list[Any] = data["events"]
    return result


def test_reports_come_back_in_order(shared_host: Host, node: TestNode) -> None:
    before = time.time()
    for phase, state in (("clock", "started"), ("clock", "done"), ("authority", "failed")):
        assert shared_host.post("/v1/progress", node.report(phase, state, "why")) == (204, None)
    found = events(shared_host, node)
    assert [(event["number"], event["phase"], event["state"]) for event in found] == [
        (1, "clock", "started"),
        (2, "clock", "done"),
        (3, "authority", "failed"),
    ]
    assert all(before <= event["at"] <= time.time() for event in found)
    assert [event["number"] for event in events(shared_host, node, "?after=2")] == [3]


def test_several_reports_at_once_tell_when_each_happened(shared_host: Host, node: TestNode) -> None:
    ages = {"clock": 30, "certificate": 1.5, "kubelet": 0}
    told = [{"phase": phase, "state": "done", "age": age} for phase, age in ages.items()]
    sealed = node.sealed({"node": node.name, "events": told})
    assert shared_host.post("/v1/progress", sealed) == (204, None)
    now = time.time()
    found = events(shared_host, node)
    assert [event["phase"] for event in found] == list(ages)
    for event, age in zip(found, ages.values(), strict=True):
        assert now - age - 5 < event["at"] <= now - age


def test_lines_for_shells(shared_host: Host, node: TestNode) -> None:
    shared_host.post("/v1/progress", node.report("runtime", "failed", "no\tsocket\n\x1b[31mred"))
    status, body = shared_host.ask(
        "GET", f"/v1/status/{node.name}?format=lines", headers=node.bearer
    )
    assert status == 200
    number, at, phase, state, message = body.decode().rstrip("\n").split("\t")
    assert (number, phase, state, message) == ("1", "runtime", "failed", "no socket | [31mred")
    assert float(at) > 0


def test_no_secret_comes_along_with_the_last_lines(shared_host: Host, node: TestNode) -> None:
    """A log may hold anything; what a node says ends up in terminals and in Pulumi's state."""
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"
    for secret in (
        node.join_key.hex(),
        node.join_key.hex().upper(),
        base64.b64encode(node.join_key).decode(),
        node.status_token.hex(),
        key,
        key[:50],
    ):
        shared_host.post("/v1/progress", node.report("kubelet", "failed", f"x {secret} failed"))
    said = [event["message"] for event in events(shared_host, node)]
    assert said == ["x REDACTED failed"] * 5 + ["x REDACTED"]
    assert "MHcCAQEE" not in shared_host.log("gate")


def test_following_ends_with_the_report(shared_host: Host, node: TestNode) -> None:
    found: list[Any] = []

    def follow() -> None:
        found.extend(events(shared_host, node, "?after=0&wait=20"))

    follower = threading.Thread(target=follow)
    started = time.monotonic()
    follower.start()
    time.sleep(0.3)
    assert follower.is_alive()
    shared_host.post("/v1/progress", node.report("ready", "done"))
    follower.join(5)
    assert time.monotonic() - started < 3
    assert [event["phase"] for event in found] == ["ready"]


def test_following_gives_up_in_time(shared_host: Host, node: TestNode) -> None:
    started = time.monotonic()
    assert events(shared_host, node, "?wait=0.4") == []
    assert 0.35 <= time.monotonic() - started < 2


@pytest.mark.parametrize(
    "report",
    [
        {"phase": "coffee", "state": "done"},
        {"phase": "ready", "state": "maybe"},
        {"phase": "ready", "state": "done", "message": 5},
        {"phase": "ready", "state": "done", "more": "x"},
        {"phase": ["ready"], "state": "done"},
        {"phase": "ready", "state": "done", "age": -1},
        {"phase": "ready", "state": "done", "age": 3601},
        {"phase": "ready", "state": "done", "age": True},
        {"phase": "ready", "state": "done", "age": "1"},
        {"events": []},
        {"events": [{"phase": "ready", "state": "done"}] * 17},
        {"events": ["ready"]},
        {"events": [{"phase": "ready", "state": "done"}, {"phase": "coffee", "state": "done"}]},
        {"events": [{"phase": "ready", "state": "done", "node": "other"}]},
        {"events": [{"phase": "ready", "state": "done"}], "phase": "ready"},
    ],
)
def test_wrong_reports_are_refused(
    shared_host: Host, node: TestNode, report: dict[str, object]
) -> None:
    status, answer = shared_host.post("/v1/progress", node.sealed({"node": node.name, **report}))
    assert status == 400 and answer["success"] is False
    assert events(shared_host, node) == []


def test_a_node_reports_for_itself_only(shared_host: Host) -> None:
    node, other = registered(shared_host), registered(shared_host)
    report = {"node": node.name, "phase": "ready", "state": "done"}
    assert shared_host.post("/v1/progress", other.sealed(report))[0] == 401
    assert events(shared_host, node) == []


def test_status_needs_the_nodes_own_token(shared_host: Host) -> None:
    node, other = registered(shared_host), registered(shared_host)
    path = f"/v1/status/{node.name}"
    zeros = {"Authorization": "Bearer " + "0" * 64}
    answers = [
        shared_host.ask("GET", path, headers=other.bearer),
        shared_host.ask("GET", path),
        shared_host.ask("GET", path, headers={"Authorization": "Bearer "}),
        shared_host.ask("GET", "/v1/status/nobody", headers=node.bearer),
        shared_host.ask("GET", "/v1/status/", headers=node.bearer),
        shared_host.ask("GET", "/v1/status/nobody", headers=zeros),
    ]
    assert {status for status, _ in answers} == {401}
    assert len({body for _, body in answers}) == 1


@pytest.mark.parametrize("query", ["after=-1", "after=x", "wait=31", "wait=nan", "wait=inf"])
def test_wrong_queries_are_refused(shared_host: Host, node: TestNode, query: str) -> None:
    status, _ = shared_host.ask("GET", f"/v1/status/{node.name}?{query}", headers=node.bearer)
    assert status == 400


def test_the_number_of_events_is_bounded(own_host: Host) -> None:
    node = registered(own_host)
    connection = own_host.connection()
    body = json.dumps(node.report("node", "started")).encode()
    for _ in range(95):  # a connection serves a bounded number of requests, too
        connection.request("POST", "/v1/progress", body)
        response = connection.getresponse()
        assert response.read() == b"" and response.status == 204
    connection.close()
    found = events(own_host, node)
    assert [event["number"] for event in found] == list(range(1, 96))


def test_of_a_long_log_the_end_comes_along() -> None:
    log = "".join(f"line {number}\r\n\n" for number in range(1000)) + "no space left\n"
    shown = progress.one_line(log)
    assert shown.startswith("…") and shown.endswith("line 998 | line 999 | no space left")
    assert len(shown) == progress.MESSAGE_LIMIT


@given(st.text(max_size=2000))
def test_messages_stay_on_one_line_and_short(message: str) -> None:
    line = progress.one_line(message)
    assert len(line) <= progress.MESSAGE_LIMIT
    assert all(character.isprintable() for character in line)
    assert "\t" not in line and "\n" not in line
