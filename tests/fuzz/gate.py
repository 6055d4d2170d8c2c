"""Fuzzing of the gate's request path: bytes on a connection → HTTP → envelope → rules.

    python -m tests.fuzz.gate [-max_total_time=SECONDS] [-runs=N] [CORPUS…]

Guided by coverage through atheris (libFuzzer's flags), where it has a wheel for this Python;
without it, the corpus is played back once. Any exception but the gate's own is a finding, and so
is a request that passes with another identity than the registered one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
GUIDED = importlib.util.find_spec("atheris") is not None

if GUIDED:
    import atheris

    instrumented = atheris.instrument_imports()
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    from components.join_gate.program import api, envelope, http1, names, rules, stream
    from components.join_gate.program.errors import Refusal

NAME, ADDRESSES, KEY = "worker-1", ("10.9.8.7", "fd00::7"), b"k" * 32


class Wire:
    """A client that has sent these bytes and closed its side."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def allow(self, seconds: float | None) -> None:
        """It takes no time."""

    async def receive(self) -> bytes:
        data, self._data = self._data[:512], self._data[512:]
        if not data:
            raise stream.Closed
        return data

    async def send(self, data: bytes) -> None:
        """Nobody reads it."""


def one_input(data: bytes) -> None:
    """The first byte chooses where the rest enters."""
    entry = {b"h": connection, b"b": body, b"r": sealed}.get(data[:1])
    if entry is not None:
        with contextlib.suppress(Refusal, stream.Closed):
            entry(data[1:])


def connection(data: bytes) -> None:
    # Nothing here waits, so there is no need of a loop.
    with contextlib.suppress(StopIteration):
        requests(http1.Connection(Wire(data))).send(None)


async def requests(wire: http1.Connection) -> None:
    while True:
        request = await wire.read_request()
        if request.path == "/api/v1/cfssl/authsign":
            body(request.body)


def body(data: bytes) -> None:
    signed = envelope.parse_envelope(data)
    request(signed.request)


def sealed(data: bytes) -> None:
    """A request that was signed with the node's key: what a thief of the key can try."""
    token = hmac.new(KEY, data, hashlib.sha256).digest()
    assert envelope.Envelope(token, data).authentic(KEY)
    request(data)


def request(data: bytes) -> None:
    value = envelope.parse_object(data, "the request")
    certificate_request = rules.read_request(value)
    name = rules.claimed_name(certificate_request)
    assert names.is_name(name)
    signable = rules.check(value, certificate_request, name, ADDRESSES)
    assert set(signable.hosts) <= {name, *ADDRESSES} and signable.hosts
    assert signable.request.parsed.subject.public_bytes() in names.subjects(name)
    assert api.json_response(200, {"certificate": signable.pem}).status == 200


def seeds() -> dict[str, bytes]:
    """The corpus, made anew: `python -m tests.fuzz.gate --seeds`."""
    import json

    from tests.unit.components.join_gate import attacks
    from tests.unit.components.join_gate.gate_host import ADDRESS, TestNode

    node = TestNode(NAME)
    right = json.dumps(node.request()).encode()
    alternative = attacks.handmade(
        node, attacks.requested(attacks.extension(attacks.der(attacks.DNS, NAME.encode())))
    )
    envelope_ = json.dumps(node.sealed(right)).encode()
    head = b"POST /api/v1/cfssl/authsign HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    overridden = node.request(subject={"CN": "x"}, hosts=[ADDRESS], certificate_request="x")
    return {
        "http": b"h" + head % len(envelope_) + envelope_,
        "http-query": b"hGET /v1/status/x?wait=1&after=2 HTTP/1.0\r\n\r\n",
        "http-chunked": b"h" + attacks.POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "envelope": b"b" + envelope_,
        "request": b"r" + right,
        "request-names": b"r"
        + json.dumps({"certificate_request": attacks.armoured(alternative)}).encode(),
        "request-override": b"r" + json.dumps(overridden).encode(),
        "request-panic": b"r" + json.dumps({"certificate_request": attacks.armoured(
            attacks.handmade(node, attacks.der(attacks.SEQUENCE, attacks.EXTENSION_REQUEST,
                                               attacks.der(attacks.SET)))
        )}).encode(),
    }  # fmt: skip


def mutated(data: bytes, size: int, seed: int) -> bytes:
    """Mutations behind the base64 of a certificate request: else libFuzzer finds no way in."""
    import json
    import random

    chance = random.Random(seed)
    if data[:1] == b"r" and chance.random() < 0.7:
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            value = json.loads(data[1:])
            text = value["certificate_request"]
            der = base64.b64decode("".join(text.split("-----")[2].split()))
            changed = atheris.Mutate(der, len(der) + 16)
            lines = base64.encodebytes(changed).decode()
            value["certificate_request"] = (
                f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n"
            )
            return (b"r" + json.dumps(value).encode())[:size]
    result: bytes = atheris.Mutate(data, size)
    return result


def main() -> None:
    if sys.argv[1:] == ["--seeds"]:
        CORPUS.mkdir(exist_ok=True)
        for name, data in seeds().items():
            (CORPUS / name).write_bytes(data)
        return
    if not GUIDED:
        files = sorted(CORPUS.iterdir())
        for file in files:
            one_input(file.read_bytes())
        print(f"no atheris for this Python: {len(files)} inputs of the corpus played back")
        return
    atheris.Setup(sys.argv, one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
