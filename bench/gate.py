"""1000 nodes that join at once through the gate, beside as many signatures by CFSSL itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import multiprocessing
import os
import resource
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import BenchError
from bench.table import Row
from tests.unit.components.join_gate.gate_host import Host, TestNode

_NODES = 1000
_PROCESSES = 4
_PATH = "/api/v1/cfssl/authsign"
_GOAL = 0.7
_SLOWEST_SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    """`seconds` from the connection to the certificate."""

    seconds: float
    status: int
    certificate: str


@dataclass(frozen=True)
class Result:
    """`spent` and `raw_spent` are who spent how many seconds of processor time on all of them."""

    joins: list[Answer]
    seconds: float
    spent: dict[str, float]
    raw_seconds: float
    raw_spent: dict[str, float]


def rows(full: bool) -> list[Row]:
    # One alone scatters by a tenth, and the goal is near.
    repetitions = 7 if full else 3
    results = [measure() for _ in range(repetitions)]
    milliseconds = [1000 * answer.seconds for result in results for answer in result.joins]
    ours = [_NODES / result.seconds for result in results]
    raw = [_NODES / result.raw_seconds for result in results]
    note = f"p50 {quantile(milliseconds, 0.5):.0f} ms, p99 {quantile(milliseconds, 0.99):.0f} ms"
    last = results[-1]
    note += f"; CPU a join: {shown(last.spent)}; CPU a raw signature: {shown(last.raw_spent)}"
    return [
        Row(
            f"{_NODES} joins at once through the gate",
            ours,
            "/s",
            "CFSSL authsign over TLS",
            raw,
            goal=_GOAL,
            at_least=True,
            note=f"{note}; none lost, none doubled",
        )
    ]


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def shown(spent: dict[str, float]) -> str:
    return ", ".join(f"{who} {1000 * it / _NODES:.2f} ms" for who, it in spent.items())


def processor_seconds(processes: Sequence[int]) -> float:
    """Processor time of these processes so far, all their threads."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def metered(
    host: Host, port: int, bodies: list[bytes]
) -> tuple[list[Answer], float, dict[str, float]]:
    """What `together` gives, and who spent how much processor time on it."""

    def spent() -> dict[str, float]:
        load = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {"CFSSL": processor_seconds([host.processes["cfssl"].pid])}
        if "gate" in host.processes:
            found["gate"] = processor_seconds(host.workers())
        return {**found, "load generator": load.ru_utime + load.ru_stime}

    before = spent()
    answers, seconds = together(port, host, bodies)
    return answers, seconds, {who: it - before[who] for who, it in spent().items()}


def measure() -> Result:
    """As many raw signatures as joins, then the joins."""
    with tempfile.TemporaryDirectory(prefix="autojoin-bench-") as folder:
        host = Host(Path(folder))
        try:
            host.start_cfssl(tls=True)
            raw, raw_seconds, raw_spent = metered(host, host.cfssl_port, raw_bodies(host))
            check(host, raw, "CFSSL")
            host.stop("cfssl")
            host.start_cfssl()
            host.start_gate()
            nodes = register(host)
            bodies = [json.dumps(node.sealed(node.request())).encode() for node in nodes]
            joined, seconds, spent = metered(host, host.port, bodies)
            check(host, joined, "the gate")
            for node in nodes:
                if host.rows(node.name) != [("good", 0)]:
                    raise BenchError(f"{node.name} has {host.rows(node.name)} in the certdb")
            return Result(joined, seconds, spent, raw_seconds, raw_spent)
        finally:
            for name in list(host.processes):
                host.stop(name)


def raw_bodies(host: Host) -> list[bytes]:
    """What CFSSL itself signs: the request that the gate would build, with the gate's key."""
    key = bytes.fromhex((host.folder / "gate.key").read_text().strip())
    bodies = []
    for number in range(_NODES):
        node = TestNode(f"raw-{number}")
        subject = {"CN": f"system:node:{node.name}", "names": [{"O": "system:nodes"}]}
        data = json.dumps(node.request(subject=subject)).encode()
        token = hmac.new(key, data, hashlib.sha256).digest()
        sealed = {"token": base64.b64encode(token), "request": base64.b64encode(data)}
        bodies.append(json.dumps({name: text.decode() for name, text in sealed.items()}).encode())
    return bodies


def register(host: Host) -> list[TestNode]:
    """As many nodes, told to the gate by its own store: a thousand commands take a minute."""
    return list(host.admit(*(TestNode(f"bench-{number}") for number in range(_NODES))))


def together(port: int, host: Host, bodies: list[bytes]) -> tuple[list[Answer], float]:
    """Send all bodies at once, each on a connection of its own; answers and seconds."""
    processes = multiprocessing.get_context("fork")
    ready, go = processes.Barrier(_PROCESSES + 1), processes.Event()
    results: multiprocessing.Queue[list[Answer]] = processes.Queue()
    workers = [
        processes.Process(
            target=crowd, args=(port, host, bodies[number::_PROCESSES], ready, go, results)
        )
        for number in range(_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait(_SLOWEST_SECONDS)
    started = time.monotonic()
    go.set()
    answers = [answer for _ in workers for answer in results.get(timeout=_SLOWEST_SECONDS)]
    seconds = time.monotonic() - started
    for worker in workers:
        worker.join()
    return answers, seconds


def crowd(port: int, host: Host, bodies: list[bytes], ready: Any, go: Any, results: Any) -> None:
    """A quarter of the nodes, a thread each; they wait for `go`."""
    context = host.context()
    answers: list[Answer] = []

    def join(body: bytes) -> None:
        go.wait()
        started = time.monotonic()
        answers.append(one(port, context, body, started))

    threads = [threading.Thread(target=join, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    ready.wait(_SLOWEST_SECONDS)
    for thread in threads:
        thread.join()
    results.put(answers)


def one(port: int, context: ssl.SSLContext, body: bytes, started: float) -> Answer:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    try:
        connection.request("POST", _PATH, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        result = answer["result"] or {}
        return Answer(time.monotonic() - started, response.status, result.get("certificate", ""))
    except OSError as error:
        return Answer(time.monotonic() - started, 0, str(error))
    finally:
        connection.close()


def check(host: Host, answers: list[Answer], who: str) -> None:
    """None lost, none doubled."""
    lost = [answer for answer in answers if answer.status != 200]
    if lost or len({answer.certificate for answer in answers}) != _NODES:
        raise BenchError(f"{len(lost)} of {_NODES} were lost by {who}: {lost[:1]}")
