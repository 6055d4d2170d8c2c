"""`gate await`: the wait for many nodes, at the real gate."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.components.join_gate.gate_host import Host, TestNode, registered

Result = subprocess.CompletedProcess[str]
PHASES = ("clock", "authority", "certificate", "runtime", "kubelet", "node", "ready")


def wait(
    host: Host,
    *nodes: TestNode,
    seconds: float = 20,
    identity: str = "",
    meanwhile: Callable[[], None] | None = None,
) -> Result:
    """What waiting for `nodes` ended with; once it has said a line, `meanwhile` happens."""
    wanted = {
        node.name: {"identity": identity or node.identity, "seconds": seconds} for node in nodes
    }
    command = [*host.command(), "await"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"nodes": wanted}))
        process.stdin.close()
        process.stdin = None
        first = ""
        if meanwhile:
            first = process.stdout.readline()
            meanwhile()
        output, errors = process.communicate(timeout=30)
    return Result(command, process.returncode, first + output, errors)


def say(host: Host, node: TestNode, phase: str, state: str, message: str = "") -> None:
    assert host.post("/v1/progress", node.report(phase, state, message))[0] == 204


def start(host: Host, node: TestNode) -> None:
    """What the machine's host tells, with the status token alone."""
    body = json.dumps({"phase": "start", "state": "started", "message": "", "age": 0}).encode()
    status, _ = host.ask("POST", f"/v1/status/{node.name}", body, headers=node.bearer)
    assert status == 204


def summary(result: Result) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_it_streams_all_and_ends_with_their_times(shared_host: Host) -> None:
    one, two = registered(shared_host), registered(shared_host)

    def join() -> None:
        for phase in PHASES:
            for node in (one, two):
                say(shared_host, node, phase, "done", "soon" if phase == "node" else "")

    for node in (one, two):
        start(shared_host, node)
    result = wait(shared_host, one, two, meanwhile=join)
    found = summary(result)
    assert set(found) == {one.name, two.name}
    assert list(found[one.name]["phases"]) == list(PHASES)
    assert found[one.name]["readySeconds"] == found[one.name]["phases"]["ready"] > 0
    assert f"{two.name}: clock done (" in result.stdout
    assert " s): soon\n" in result.stdout
    # Ready is ready: at once, and without all that was told before.
    began = time.monotonic()
    again = wait(shared_host, one, two)
    assert summary(again) == found and len(again.stdout.splitlines()) == 1
    assert time.monotonic() - began < 5


def test_every_failure_is_told_with_its_phase_and_what_to_do(shared_host: Host) -> None:
    good, bad, worse = (registered(shared_host) for _ in range(3))
    for node in (good, bad, worse):
        start(shared_host, node)
    say(shared_host, bad, "certificate", "failed", "already joined")

    def later() -> None:
        say(shared_host, worse, "clock", "failed", "a year behind")
        say(shared_host, good, "ready", "done")

    result = wait(shared_host, good, bad, worse, meanwhile=later)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "gate await: 2 of 3 nodes failed",
        f"{bad.name} did not join: phase certificate: already joined; "
        "do what the join gate's message says, then run this again",
        f"{worse.name} did not join: phase clock: a year behind; "
        "set the clock of the machine or its host, then run this again",
    ]


def test_a_failure_that_was_told_does_not_decide_the_next_wait(shared_host: Host) -> None:
    node = registered(shared_host)
    start(shared_host, node)
    say(shared_host, node, "node", "failed", "no route")
    assert wait(shared_host, node).returncode == 1
    result = wait(shared_host, node, meanwhile=lambda: say(shared_host, node, "ready", "done"))
    assert summary(result)[node.name]["readySeconds"] > 0


def test_one_that_is_not_ready_in_its_own_time_is_waited_for_in_ours(shared_host: Host) -> None:
    """Its images took longer than the 300 seconds of its script, and joinTimeout was more."""
    node, other = registered(shared_host), registered(shared_host)

    def later() -> None:
        for each in (node, other):
            say(shared_host, each, "ready", "failed", "no network plugin")
        say(shared_host, node, "ready", "done")

    for each in (node, other):
        start(shared_host, each)
    result = wait(shared_host, node, other, meanwhile=later, seconds=3)
    assert result.stderr.splitlines() == [
        "gate await: 1 of 2 nodes failed",
        f"{other.name} did not join: phase ready: nothing more was heard within 3 s; what it said "
        "before: phase ready: no network plugin; check the CNI configuration on the machine and "
        "the conditions of its Node",
    ]


def test_a_failure_of_an_attempt_before_the_last_start_counts_no_more(shared_host: Host) -> None:
    node = registered(shared_host)
    say(shared_host, node, "certificate", "failed", "yesterday")
    start(shared_host, node)
    say(shared_host, node, "ready", "done")
    assert summary(wait(shared_host, node))[node.name]["phases"].keys() == {"ready"}


def test_where_nobody_tells_of_a_start_only_what_is_heard_during_the_wait_fails_it(
    shared_host: Host,
) -> None:
    node = registered(shared_host)
    say(shared_host, node, "certificate", "failed", "yesterday")
    result = wait(shared_host, node, meanwhile=lambda: say(shared_host, node, "ready", "done"))
    assert node.name in summary(result)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (None, "phase start: nothing more was heard within 1 s; look at the machine's console"),
        (("clock", "done", ""), "phase clock: nothing more was heard within 1 s; set the clock"),
        (
            ("node", "failed", "no route"),
            "nothing more was heard within 1 s; what it said before: phase node: no route; check",
        ),
    ],
)
def test_silence_ends_with_what_was_heard_last(
    shared_host: Host, before: tuple[str, str, str] | None, told: str
) -> None:
    node = registered(shared_host)
    if before:
        say(shared_host, node, *before)
    result = wait(shared_host, node, seconds=1)
    assert result.returncode == 1
    assert f"{node.name} did not join: " in result.stderr and told in result.stderr


def test_another_identity_is_told_at_once(shared_host: Host) -> None:
    node, nobody = registered(shared_host), TestNode("nobody-here")
    result = wait(shared_host, node, nobody, identity="another")
    assert result.returncode == 1
    assert f"the join gate knows {node.identity} of that name, not another" in result.stderr
    assert "the join gate knows nothing of that name" in result.stderr


def test_a_hosts_word_needs_the_status_token_and_is_checked(shared_host: Host) -> None:
    node, other = registered(shared_host), registered(shared_host)
    path = f"/v1/status/{node.name}"
    event = {"phase": "start", "state": "started"}
    body = json.dumps(event).encode()
    assert shared_host.ask("POST", path, body, headers=other.bearer)[0] == 401
    assert shared_host.ask("POST", path, body)[0] == 401
    wrong = json.dumps({**event, "phase": "lunch"}).encode()
    assert shared_host.ask("POST", path, wrong, headers=node.bearer)[0] == 400
    elses = json.dumps({**event, "node": other.name}).encode()
    assert shared_host.ask("POST", path, elses, headers=node.bearer)[0] == 400


@pytest.mark.parametrize("text", ["", "[]", '{"nodes": {"a": {}}}', '{"nodes": {"a": 1}}'])
def test_wrong_input_is_told(shared_host: Host, text: str) -> None:
    result = shared_host.run("await", stdin=text)
    assert result.returncode == 1
    assert result.stderr == "gate await: standard input: must be nodes with identity and seconds\n"
