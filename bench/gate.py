"""1000 nodes that join at once through the gate, or renew, beside as many signatures by CFSSL."""

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

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.measure import BenchError
from bench.table import Row
from tests.unit.components.join_gate.gate_host import Host, Shown, TestNode

_NODES = 1000
_PROCESSES = 4
_AUTHSIGN, _RENEWAL = "/api/v1/cfssl/authsign", "/v1/renewal"
_GOAL = 0.7
_SLOWEST_SECONDS = 120.0
# What is posted, and by whom.
Asked = tuple[ssl.SSLContext, bytes]


@dataclass(frozen=True)
class Answer:
    """`seconds` from the connection to the certificate."""

    seconds: float
    status: int
    certificate: str


@dataclass(frozen=True)
class Result:
    """`spent` is who spent how many seconds of processor time on all of them."""

    answers: list[Answer]
    seconds: float
    spent: dict[str, float]


@dataclass(frozen=True)
class Run:
    """CFSSL alone; joins through the gate; CFSSL alone by mutual TLS; renewals through the gate."""

    raw: Result
    joins: Result
    raw_mutual: Result
    renewals: Result


def rows(full: bool) -> list[Row]:
    # One alone scatters by a tenth, and the goal is near.
    repetitions = 7 if full else 3
    runs = [measure() for _ in range(repetitions)]
    return [
        row("joins", [run.joins for run in runs], "TLS", [run.raw for run in runs]),
        row("renewals", [it.renewals for it in runs], "mutual TLS", [it.raw_mutual for it in runs]),
    ]


def row(what: str, ours: list[Result], over: str, raw: list[Result]) -> Row:
    milliseconds = [1000 * answer.seconds for result in ours for answer in result.answers]
    note = f"p50 {quantile(milliseconds, 0.5):.0f} ms, p99 {quantile(milliseconds, 0.99):.0f} ms"
    note += f"; CPU each: {shown(ours[-1].spent)}; CPU a raw signature: {shown(raw[-1].spent)}"
    return Row(
        f"{_NODES} {what} at once through the gate",
        [_NODES / result.seconds for result in ours],
        "/s",
        f"CFSSL authsign over {over}",
        [_NODES / result.seconds for result in raw],
        goal=_GOAL,
        at_least=True,
        note=f"{note}; none lost, none doubled",
    )


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


def metered(host: Host, port: int, path: str, requests: list[Asked]) -> Result:
    """What `together` gives, and who spent how much processor time on it; none lost or doubled."""

    def spent() -> dict[str, float]:
        load = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {"CFSSL": processor_seconds([host.processes["cfssl"].pid])}
        if "gate" in host.processes:
            found["gate"] = processor_seconds(host.workers())
        return {**found, "load generator": load.ru_utime + load.ru_stime}

    before = spent()
    answers, seconds = together(port, path, requests)
    check(answers, "the gate" if "gate" in host.processes else "CFSSL")
    return Result(answers, seconds, {who: it - before[who] for who, it in spent().items()})


def measure() -> Run:
    """As many raw signatures as joins, then the joins; and the same with client certificates."""
    with tempfile.TemporaryDirectory(prefix="autojoin-bench-") as folder:
        host = Host(Path(folder))
        try:
            host.start_cfssl(tls=True)
            plain = host.context()
            raw = metered(
                host, host.cfssl_port, _AUTHSIGN, [(plain, it) for it in raw_bodies(host)]
            )
            host.stop("cfssl")
            host.start_cfssl()
            host.start_gate()
            nodes = register(host)
            bodies = [json.dumps(node.sealed(node.request())).encode() for node in nodes]
            joins = metered(host, host.port, _AUTHSIGN, [(plain, body) for body in bodies])
            contexts = certified(host, nodes, joins.answers)
            renewals = metered(host, host.port, _RENEWAL, renewal_requests(nodes, contexts))
            for node in nodes:
                if host.rows(node.name) != [("good", 0)] * 2:
                    raise BenchError(f"{node.name} has {host.rows(node.name)} in the certdb")
            host.stop("gate")
            host.stop("cfssl")
            host.start_cfssl(tls=True, mutual=True)
            bodies = raw_bodies(host)
            asked = list(zip(contexts, bodies, strict=True))
            mutual = metered(host, host.cfssl_port, _AUTHSIGN, asked)
            return Run(raw, joins, mutual, renewals)
        finally:
            host.stop_all()


def certified(host: Host, nodes: list[TestNode], answers: list[Answer]) -> list[ssl.SSLContext]:
    """What each node shows: which certificate is whose says its key."""
    found = {}
    for answer in answers:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        found[public(certificate)] = answer.certificate
    return [host.context(Shown(found[public(node.key)], node.key)) for node in nodes]


def public(holder: Any) -> bytes:
    """The public key of a certificate or a key pair."""
    key: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key


def renewal_requests(nodes: list[TestNode], contexts: list[ssl.SSLContext]) -> list[Asked]:
    for node in nodes:
        node.key = ec.generate_private_key(ec.SECP256R1())
    bodies = [json.dumps(node.request()).encode() for node in nodes]
    return list(zip(contexts, bodies, strict=True))


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


def together(port: int, path: str, requests: list[Asked]) -> tuple[list[Answer], float]:
    """Send all at once, each on a connection of its own; answers and seconds."""
    processes = multiprocessing.get_context("fork")
    ready, go = processes.Barrier(_PROCESSES + 1), processes.Event()
    results: multiprocessing.Queue[list[Answer]] = processes.Queue()
    workers = [
        processes.Process(
            target=crowd, args=(port, path, requests[number::_PROCESSES], ready, go, results)
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


def crowd(port: int, path: str, requests: list[Asked], ready: Any, go: Any, results: Any) -> None:
    """A quarter of the nodes, a thread each; they wait for `go`."""
    answers: list[Answer] = []

    def ask(context: ssl.SSLContext, body: bytes) -> None:
        go.wait()
        started = time.monotonic()
        answers.append(one(port, path, context, body, started))

    threads = [threading.Thread(target=ask, args=request) for request in requests]
    for thread in threads:
        thread.start()
    ready.wait(_SLOWEST_SECONDS)
    for thread in threads:
        thread.join()
    results.put(answers)


def one(port: int, path: str, context: ssl.SSLContext, body: bytes, started: float) -> Answer:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        result = answer["result"] or {}
        return Answer(time.monotonic() - started, response.status, result.get("certificate", ""))
    except OSError as error:
        return Answer(time.monotonic() - started, 0, str(error))
    finally:
        connection.close()


def check(answers: list[Answer], who: str) -> None:
    """None lost, none doubled."""
    lost = [answer for answer in answers if answer.status != 200]
    if lost or len({answer.certificate for answer in answers}) != _NODES:
        raise BenchError(f"{len(lost)} of {_NODES} were lost by {who}: {lost[:1]}")
