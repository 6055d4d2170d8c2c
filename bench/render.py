"""Rendering and checking labs of many workers: linear, and how long for each."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from bench import labs
from bench.measure import timed
from bench.table import Row
from components.load import from_values
from components.machine_host.provisioning import Provisioning
from components.workers import yaml_text
from components.workers.hardware_types import of
from stack.problem import NAMESPACE
from tests.unit.tools.plugins.kubernetes_server import Authority

_MOST_MILLISECONDS = 10.0
_MOST_CHECK_SECONDS = 2.0
_COUNTS = (100, 1000)
_REPETITIONS = 3


def rows(full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="autojoin-bench-") as folder:
        authority = Authority(Path(folder))
        authority_pem = (authority.folder / "ca.pem").read_text()
        seconds = {
            count: [render_all(count, authority_pem) for _ in range(_REPETITIONS)]
            for count in _COUNTS
        }
        checks = [check(Path(folder), _COUNTS[-1]) for _ in range(_REPETITIONS)]
    fewer, more = _COUNTS
    growth = math.log(min(seconds[more]) / min(seconds[fewer])) / math.log(more / fewer)
    each = [1000 * value / more for value in seconds[more]]
    return [
        Row(f"rendering a node, of {more}", each, "ms", goal=_MOST_MILLISECONDS),
        Row("rendering: exponent of time in N", [growth], "", goal=1.1, note=f"N = {_COUNTS}"),
        Row(f"make check of {more} workers", checks, "s", goal=_MOST_CHECK_SECONDS),
    ]


def render_all(count: int, authority_pem: str) -> float:
    """Seconds to render all that `count` workers emit, their keys included."""
    sections = labs.config(count)
    values = {key.removeprefix(f"{NAMESPACE}:"): value for key, value in sections.items()}
    lab = from_values(values)
    secret = ed25519.Ed25519PrivateKey.generate()
    secret_pem = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    yaml_text.forget()
    started = time.perf_counter()
    nodes = [of(lab, name) for name in lab.workers]
    host = Provisioning(
        lab.provisioning[lab.provisioners()[0]], lab.cluster.name, "bench/bench/host", nodes
    )
    host.install_input(authority_pem)
    for hardware in nodes:
        emission = hardware.emit(secret_pem, authority_pem)
        hardware.register_input(emission, lab.join_gate.join_key_hours)
        hardware.delivery(emission.identity, hardware.marks(emission))
        hardware.delivery_input(emission, host.book(hardware.kind, authority_pem))
    return time.perf_counter() - started


def check(folder: Path, count: int) -> float:
    """Seconds of the whole process that checks a stack file of `count` workers."""
    file = folder / "Pulumi.bench.yaml"
    file.write_text(yaml.safe_dump({"config": labs.config(count)}))
    command = [sys.executable, "-m", "commands.check", str(file)]
    return timed(command, folder=labs.CHECKOUT, environment={}).seconds
