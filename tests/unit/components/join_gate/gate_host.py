"""A real CFSSL on the loopback and the real gate before it, as the host runs them."""

from __future__ import annotations

import base64
import contextlib
import datetime
import getpass
import hashlib
import hmac
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.certificate_authority import cfssl
from components.certificate_authority import installation as responder
from components.join_gate import installation as join_gate
from components.join_gate.program.store import Registration, Store
from tools.pins import TEST_PACKAGES

ADDRESS = "10.9.8.7"
RESPONDER = Path(responder.__file__).parent / "on_host" / "responder.py"
PLATFORM_PYTHON = "/usr/bin/python3"
HOURS = 48


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody listens on this port of the loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def pem(key: Any) -> str:
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return data.decode()


def make_authority(folder: Path) -> None:
    """An existing CA, as a person who built the control plane has: ca.pem and ca-key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca-key.pem").write_text(pem(key))


@dataclass(frozen=True)
class Shown:
    """A certificate that a client shows, its key, and what stands above it (PEM)."""

    certificate: str
    key: Any
    chain: str = ""


@dataclass
class Gate:
    """A gate as nodes see it, wherever it is: `authority` is the file of the CA's certificate."""

    address: str
    port: int
    authority: Path

    def context(self, shown: Shown | None = None) -> ssl.SSLContext:
        """For a client that shows a certificate, or none."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if shown is not None:
            with tempfile.NamedTemporaryFile("w") as pair:
                pair.write(f"{shown.certificate}\n{pem(shown.key)}{shown.chain}")
                pair.flush()
                context.load_cert_chain(pair.name)
        return context

    def connection(
        self, timeout: float = 35, shown: Shown | None = None
    ) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self.address, self.port, timeout=timeout, context=self.context(shown)
        )

    def connect(self, timeout: float = 5) -> socket.socket:
        return socket.create_connection((self.address, self.port), timeout=timeout)

    def secured(self, plain: socket.socket) -> ssl.SSLSocket:
        """A connection with its handshake done."""
        return self.context().wrap_socket(plain, server_hostname=self.address)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        shown: Shown | None = None,
    ) -> tuple[int, bytes]:
        connection = self.connection(shown=shown)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, value: object, shown: Shown | None = None) -> tuple[int, Any]:
        status, body = self.ask("POST", path, json.dumps(value).encode(), shown=shown)
        return status, json.loads(body) if body else None

    def sign(self, value: object) -> tuple[int, Any]:
        return self.post("/api/v1/cfssl/authsign", value)

    def join(self, node: TestNode) -> Shown:
        """Have the node join; what it may show from then on."""
        status, answer = self.sign(node.sealed(node.request()))
        assert status == 200, answer
        return Shown(answer["result"]["certificate"], node.key)

    def renew(self, node: TestNode, shown: Shown) -> Shown:
        """Renew with a key of its own, which becomes the node's; what it may show from then on."""
        node.key = ec.generate_private_key(ec.SECP256R1())
        status, answer = self.post("/v1/renewal", node.request(), shown)
        assert status == 200, answer
        return Shown(answer["result"]["certificate"], node.key)

    def raw(self, data: bytes, *, wait: float = 5) -> bytes:
        """What the gate answers to these bytes until it closes or `wait` seconds are over."""
        with self.connect(wait) as plain, self.secured(plain) as connection:
            connection.sendall(data)
            answer = b""
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
            except (TimeoutError, ssl.SSLError, ConnectionError):
                pass
            return answer


@dataclass
class Clock:
    """A clock that is wrong by what `file` says, for the processes that get `environment`.

    By libfaketime, which Go's programs don't heed: CFSSL's is always right.
    """

    file: Path

    def set(self, ahead: float) -> None:
        """For processes that begin from now on."""
        self.file.write_text(f"{ahead:+.0f}s")

    @property
    def environment(self) -> dict[str, str]:
        if not self.file.exists():
            return {}
        library = TEST_PACKAGES["libfaketime"]
        return {
            "LD_PRELOAD": library,
            "FAKETIME": self.file.read_text(),
            "DONT_FAKE_MONOTONIC": "1",
        }


class Host(Gate):
    """The certificate authority's host in one folder: CFSSL, its certdb, and the gate."""

    def __init__(self, folder: Path, *, minimum_tls: str = "1.3") -> None:
        self.folder = folder
        self.minimum_tls = minimum_tls
        super().__init__("127.0.0.1", free_port(), folder / "ca.pem")
        self.cfssl_port, self.responder_port = free_port(), free_port()
        self.cfssl = shutil.which("cfssl")
        assert self.cfssl, "cfssl is not on PATH; make tools puts it there"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clock = Clock(folder / "clock")
        self._prepare()

    def _prepare(self) -> None:
        make_authority(self.folder)
        for name in ("gate.key", "operator.key"):
            (self.folder / name).write_text(os.urandom(32).hex() + "\n")
        self._write_json(
            "config.json",
            cfssl.configuration(
                gate_key=str(self.folder / "gate.key"),
                operator_key=str(self.folder / "operator.key"),
                node_certificate_hours=HOURS,
                status_url="http://192.0.2.2:8889",
            ),
        )
        certdb = self.folder / "certdb.sqlite"
        self._write_json("db.json", cfssl.database(str(certdb)))
        with sqlite3.connect(certdb) as database:
            database.executescript(cfssl.SCHEMA)
        (self.folder / "gate").write_bytes(join_gate.program("/usr/bin/python3"))
        self._make_listener()
        self._write_json(
            "gate.json",
            {
                "listen": "127.0.0.1",
                "port": self.port,
                "minimumTls": self.minimum_tls,
                "certificate": str(self.folder / "tls.pem"),
                "key": str(self.folder / "tls-key.pem"),
                "authority": str(self.folder / "ca.pem"),
                "database": str(self.folder / "gate.sqlite"),
                "user": getpass.getuser(),
                "upstreamHost": "127.0.0.1",
                "upstreamPort": self.cfssl_port,
                "upstreamKey": str(self.folder / "gate.key"),
                "nodeCertificateHours": HOURS,
                "authorityUser": getpass.getuser(),
                "certificateDatabase": str(self.folder / "db.json"),
                "cfssl": self.cfssl,
                "responderPort": self.responder_port,
            },
        )
        self._write_json(
            "responder.json",
            {
                "listen": "127.0.0.1",
                "port": self.responder_port,
                "authority": str(self.folder / "ca.pem"),
                "certdb": str(certdb),
                # Of no use to the gate, which asks for neither OCSP nor the CRL.
                "crl": str(self.folder / "ca.crl"),
                "certificate": str(self.folder / "ocsp.pem"),
                "key": str(self.folder / "ocsp-key.pem"),
            },
        )

    def _write_json(self, name: str, value: object) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def _make_listener(self) -> None:
        """The gate's TLS pair, signed by CFSSL as the installer has it signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "tls-key.pem").write_text(pem(key))
        request = x509.CertificateSigningRequestBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "join gate")])
        ).sign(key, hashes.SHA256())
        words = [str(self.cfssl), "sign", "-loglevel", "3"]
        for flag, name in (("ca", "ca.pem"), ("ca-key", "ca-key.pem"), ("config", "config.json")):
            words += [f"-{flag}", str(self.folder / name)]
        words += ["-db-config", str(self.folder / "db.json"), "-profile", "www"]
        words += ["-hostname", "127.0.0.1", "-"]
        result = subprocess.run(
            words,
            input=request.public_bytes(serialization.Encoding.PEM),
            capture_output=True,
            check=True,
        )
        (self.folder / "tls.pem").write_text(json.loads(result.stdout)["cert"])

    def start_cfssl(self, *, tls: bool = False, mutual: bool = False) -> None:
        words = list(
            cfssl.serve_command(
                str(self.cfssl),
                certificate=str(self.folder / "ca.pem"),
                key=str(self.folder / "ca-key.pem"),
                configuration=str(self.folder / "config.json"),
                database=str(self.folder / "db.json"),
            )
        )
        words[words.index(str(cfssl.PORT))] = str(self.cfssl_port)
        if tls:
            words += ["-tls-cert", str(self.folder / "tls.pem")]
            words += ["-tls-key", str(self.folder / "tls-key.pem")]
        if mutual:
            words += ["-mutual-tls-ca", str(self.folder / "ca.pem")]
        self._start("cfssl", words, self.cfssl_port)

    def start_responder(self) -> None:
        words = [interpreter(), "-I", str(RESPONDER), str(self.folder / "responder.json")]
        self._start("responder", words, self.responder_port)

    def start_gate(self) -> None:
        if "responder" not in self.processes:
            self.start_responder()
        self._start("gate", [*self.command(), "serve"], self.port, self.clock.environment)

    def command(self) -> list[str]:
        return [interpreter(), "-I", str(self.folder / "gate"), *self.settings()]

    def settings(self) -> list[str]:
        return ["--settings", str(self.folder / "gate.json")]

    def _start(
        self, name: str, words: list[str], port: int, environment: dict[str, str] | None = None
    ) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            words,
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        self.processes[name] = process
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert process.poll() is None, self.log(name)
            if answers(port):
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} does not answer: {self.log(name)}")

    def workers(self) -> list[int]:
        """The gate's processes that answer, oldest first; waits for one where there is none."""
        gate = self.processes["gate"].pid
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            children = Path(f"/proc/{gate}/task/{gate}/children").read_text().split()
            if found := [int(child) for child in children if alive(int(child))]:
                return found
            time.sleep(0.02)
        raise AssertionError(f"the gate has no worker: {self.log('gate')}")

    def kill(self, victim: str) -> None:
        """kill -9 of cfssl, of the gate's first process, or of one worker of it."""
        workers = self.workers() if "gate" in self.processes else []
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
            return
        process = self.processes.pop(victim)
        process.kill()
        process.wait()
        if victim == "gate":
            gone(workers)

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(10)

    def stop_all(self) -> None:
        for name in list(self.processes):
            self.stop(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """One of the gate's commands."""
        return subprocess.run(
            [*self.command(), *arguments], input=stdin, capture_output=True, text=True, timeout=30
        )

    def register(self, node: TestNode, /, **changes: object) -> subprocess.CompletedProcess[str]:
        value = json.loads(
            join_gate.register_input(
                node.name,
                [ADDRESS],
                node.generation,
                node.identity,
                node.join_key.hex(),
                node.status_token.hex(),
            )
        )
        return self.run("register", node.name, stdin=json.dumps({**value, **changes}))

    def admit(self, *nodes: TestNode, also: tuple[str, ...] = ()) -> tuple[TestNode, ...]:
        """Register many nodes by the gate's own store, without a process for each.

        `also` are further addresses of theirs.
        """
        store = Store(str(self.folder / "gate.sqlite"))
        for node in nodes:
            secrets = (node.join_key, node.status_token)
            addresses = (ADDRESS, *also)
            store.register(
                Registration(node.name, addresses, 1, node.identity, *secrets, 86400.0), []
            )
        store.close()
        return nodes

    def count(self) -> int:
        """How many certificates the certdb holds."""
        database = sqlite3.connect(self.folder / "certdb.sqlite")
        try:
            return int(database.execute("SELECT count(*) FROM certificates").fetchone()[0])
        finally:
            database.close()

    def expire(self, name: str) -> None:
        """Let the life of a node's join key be over."""
        with sqlite3.connect(self.folder / "gate.sqlite") as database:
            database.execute("UPDATE nodes SET expires_at = 1 WHERE name = ?", (name,))

    def rows(self, name: str) -> list[tuple[str, int]]:
        """Status and reason of the node's certificates in the certdb, oldest first."""
        database = sqlite3.connect(self.folder / "certdb.sqlite")
        try:
            return database.execute(
                "SELECT status, reason FROM certificates WHERE common_name = ? ORDER BY rowid",
                (f"system:node:{name}",),
            ).fetchall()
        finally:
            database.close()


def alive(process: int) -> bool:
    """Whether the process runs: neither gone nor waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(processes: list[int]) -> None:
    """Return once none of the processes runs; AssertionError after ten seconds."""
    deadline = time.monotonic() + 10
    while left := [process for process in processes if alive(process)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.01)


def interpreter() -> str:
    """The platform's Python, as on the host; this one where the platform lacks cryptography."""
    probe = [PLATFORM_PYTHON, "-I", "-c", "import cryptography"]
    try:
        found = subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        found = False
    return PLATFORM_PYTHON if found else sys.executable


@dataclass
class TestNode:
    """A node with its join key; builds requests as join.sh and the stock client do."""

    __test__ = False

    name: str
    generation: int = 1
    join_key: bytes = field(default_factory=lambda: os.urandom(32))
    status_token: bytes = field(default_factory=lambda: os.urandom(32))
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def identity(self) -> str:
        return f"{self.name}-g{self.generation}"

    def subject(self, *extra: tuple[Any, str]) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{self.name}"),
                *[x509.NameAttribute(oid, value) for oid, value in extra],
            ]
        )

    def csr(
        self,
        *,
        subject: x509.Name | None = None,
        names: list[x509.GeneralName] | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
        attributes: tuple[tuple[Any, bytes], ...] = (),
        key: Any = None,
        algorithm: Any = None,
    ) -> str:
        builder = x509.CertificateSigningRequestBuilder(subject or self.subject())
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        for oid, value in attributes:
            builder = builder.add_attribute(oid, value)
        request = builder.sign(key or self.key, algorithm or hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def request(self, **changes: object) -> dict[str, object]:
        value: dict[str, object] = {
            "certificate_request": self.csr(),
            "hosts": [self.name, ADDRESS],
            "profile": "kubelet",
        }
        value.update(changes)
        return value

    def sealed(self, value: object, key: bytes | None = None) -> dict[str, str]:
        """The envelope of `value`, or of ready bytes, under the node's join key."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        token = hmac.new(key or self.join_key, data, hashlib.sha256).digest()
        return {
            "token": base64.b64encode(token).decode(),
            "request": base64.b64encode(data).decode(),
        }

    def report(self, phase: str, state: str, message: str = "") -> dict[str, str]:
        return self.sealed({"node": self.name, "phase": phase, "state": state, "message": message})

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.status_token.hex()}"}


_numbers = itertools.count(1)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Host]:
    """A host in `folder` with CFSSL and the gate started; all that runs on it is stopped."""
    host = Host(folder)
    try:
        host.start_cfssl()
        host.start_gate()
        yield host
    finally:
        host.stop_all()


def registered(host: Host) -> TestNode:
    """A new registered node of its own name."""
    node = TestNode(f"worker-{next(_numbers)}")
    result = host.register(node)
    assert result.returncode == 0, result.stderr
    return node
