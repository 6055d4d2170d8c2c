"""A gate and an API server on loopback that check what a joining node really sends.

The gate checks the HMAC, signs the request with a real authority, and binds the join key to the
first public key it sees. The API server takes client certificates only and knows one Node, there
once `kubelet_started` exists.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.server
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


def make_name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Authority:
    """A certificate authority: of its own, or below another one."""

    def __init__(
        self, common_name: str = "cluster authority", above: Authority | None = None
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = make_name(common_name)
        signer = above or self
        self.certificate = (
            signer._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(signer.key, hashes.SHA256())
        )
        self.pem = pem(self.certificate)

    def _builder(self, subject: x509.Name, public_key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def sign(self, subject: x509.Name, public_key: Any, names: x509.Extension[Any] | None) -> str:
        builder = self._builder(subject, public_key).add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
        if names:
            builder = builder.add_extension(names.value, critical=False)
        return pem(builder.sign(self.key, hashes.SHA256()))

    def server_files(self, folder: Path) -> tuple[Path, Path]:
        """Certificate and key files of a server on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        extension = x509.Extension(x509.SubjectAlternativeName.oid, False, address)
        certificate_file, key_file = folder / "server.crt", folder / "server.key"
        certificate_file.write_text(self.sign(make_name("server"), key.public_key(), extension))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate_file, key_file


@dataclass
class FakeCluster:
    """What the servers know and saw. `before_answer` may replace an authsign answer."""

    folder: Path
    node: str
    join_key: str
    kubelet_started: Path
    boot_id: str = "0b7a4d2e-boot"
    events: list[tuple[str, str, str]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    bound_key: bytes | None = None
    issued: list[str] = field(default_factory=list)
    ready: bool = True
    before_answer: Callable[[int], tuple[int, dict[str, Any]] | None] | None = None
    change_certificate: Callable[[str], str] | None = None
    authority: Authority = field(default_factory=Authority)
    # Signs the API server's certificate, where that is another one.
    api_authority: Authority | None = None

    def __enter__(self) -> FakeCluster:
        self.servers = [
            _serve(_GateHandler, self, self._tls(client_certificates=False)),
            _serve(_ApiHandler, self, self._tls(client_certificates=True)),
            _serve(_HealthHandler, self, None),
        ]
        self.gate_url, self.api_url = (
            f"https://127.0.0.1:{server.server_port}" for server in self.servers[:2]
        )
        self.health_url = f"http://127.0.0.1:{self.servers[2].server_port}/healthz"
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def _tls(self, client_certificates: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signer = self.api_authority if client_certificates else None
        context.load_cert_chain(*(signer or self.authority).server_files(self.folder))
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            # As Go does: whatever is given is trusted.
            context.verify_flags |= 0x80000
            context.load_verify_locations(cadata=self.authority.pem)
        return context

    # --- the gate ---------------------------------------------------------------------------

    def opened(self, body: dict[str, str]) -> dict[str, Any]:
        """The request inside a signed body; PermissionError where the HMAC is not its own."""
        request = base64.b64decode(body["request"], validate=True)
        expected = hmac.new(bytes.fromhex(self.join_key), request, hashlib.sha256).digest()
        if not hmac.compare_digest(expected, base64.b64decode(body["token"], validate=True)):
            raise PermissionError
        return dict(json.loads(request))

    def authsign(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        try:
            request = self.opened(body)
        except PermissionError:
            return refusal(401, "the token does not fit the request")
        self.requests.append(request)
        replaced = self.before_answer(len(self.requests)) if self.before_answer else None
        if replaced:
            return replaced
        csr = x509.load_pem_x509_csr(request["certificate_request"].encode())
        assert csr.is_signature_valid
        public_key = csr.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if self.bound_key not in (None, public_key):
            return refusal(403, "already joined; raise its generation to join it anew")
        self.bound_key = public_key
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        certificate = self.authority.sign(csr.subject, csr.public_key(), names)
        if self.change_certificate:
            certificate = self.change_certificate(certificate)
        self.issued.append(certificate)
        result = {"certificate": certificate}
        return 200, {"success": True, "result": result, "errors": [], "messages": []}

    def phases_done(self) -> list[str]:
        return [phase for phase, state, _ in self.events if state == "done"]

    # --- the API server ---------------------------------------------------------------------

    def node_event(self) -> str:
        status = "True" if self.ready else "False"
        condition = {"type": "Ready", "status": status, "reason": "x", "message": "no CNI"}
        info = {"machineID": "m", "systemUUID": "s", "bootID": self.boot_id}
        node = {
            "kind": "Node",
            "metadata": {"name": self.node},
            "status": {"conditions": [condition], "nodeInfo": info},
        }
        return json.dumps({"type": "ADDED", "object": node}, separators=(",", ":"))


def refusal(status: int, message: str) -> tuple[int, dict[str, Any]]:
    errors = [{"code": status, "message": message}]
    return status, {"success": False, "result": None, "errors": errors, "messages": []}


class _Server(http.server.ThreadingHTTPServer):
    cluster: FakeCluster
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


def _serve(handler: type, cluster: FakeCluster, tls: ssl.SSLContext | None) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.cluster = cluster
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: dict[str, Any] | str | None = None) -> None:
        text = body if isinstance(body, str) else json.dumps(body) if body is not None else ""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


class _GateHandler(_Handler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cluster = self.server.cluster
        if self.path == "/api/v1/cfssl/authsign":
            self.answer(*cluster.authsign(body))
        elif self.path == "/v1/progress":
            told = cluster.opened(body)
            assert told["node"] == cluster.node
            for event in told["events"]:
                assert 0 <= event["age"] < 60
                cluster.events.append((event["phase"], event["state"], event["message"]))
            self.answer(204)
        else:
            self.answer(404)


class _ApiHandler(_Handler):
    def do_GET(self) -> None:
        """The watch of our own Node: closed after its first event, as one that timed out."""
        subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])
        cluster = self.server.cluster
        assert subject["commonName"] == f"system:node:{cluster.node}"
        assert f"fieldSelector=metadata.name%3D{cluster.node}" in self.path
        there = cluster.kubelet_started.exists()
        self.answer(200, cluster.node_event() + "\n" if there else "")


class _HealthHandler(_Handler):
    def do_GET(self) -> None:
        if self.server.cluster.kubelet_started.exists():
            self.answer(200, "ok")
        else:
            self.answer(503, "starting")


def listen(path: Path) -> socket.socket:
    """A container runtime as far as the join can tell: a socket that answers something."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(16)

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    return server
