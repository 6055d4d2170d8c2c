"""A real kube-apiserver on a real etcd, with kube-controller-manager where a test needs it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Object = dict[str, Any]

START_SECONDS = 90


class ApiError(Exception):
    """What the API server answered in place of what was asked for."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Authority:
    """A CA that issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = self._builder(self.name, self.key).add_extension(constraints, critical=True)
        builder = builder.add_extension(identifier, critical=False)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self._write("ca", self.certificate, self.key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, file: str, common_name: str, organization: str = "test") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self._write(file, certificate, key)

    def _write(self, file: str, certificate: x509.Certificate, key: Any) -> None:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self.folder / f"{file}.pem").write_bytes(pem)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.folder / f"{file}-key.pem").write_bytes(private)


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not on PATH: run `make tools`"
    return found


class ApiServer:
    """etcd and kube-apiserver on loopback; `kubeconfig` is an administrator's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig = folder / "kubeconfig"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._etcd_port = free_port()

    def start(self) -> None:
        self.authority = Authority(self.folder)
        self.authority.issue("server", "kube-apiserver")
        self.authority.issue("admin", "admin", "system:masters")
        self.kubeconfig.write_text(yaml.safe_dump(self.kubeconfig_document()))
        self._start_etcd()
        self.start_api_server()

    def kubeconfig_document(self, port: int | None = None) -> Object:
        def encoded(name: str) -> str:
            return base64.b64encode((self.folder / name).read_bytes()).decode()

        server = f"https://127.0.0.1:{port or self.port}"
        cluster = {"server": server, "certificate-authority-data": encoded("ca.pem")}
        user = {
            "client-certificate-data": encoded("admin.pem"),
            "client-key-data": encoded("admin-key.pem"),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }

    def _run(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [tool(name), *arguments], stdout=log, stderr=log, start_new_session=True
        )
        self._processes.append(process)
        return process

    def _start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self._run(
            "etcd",
            [
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
            ],
        )

    def start_api_server(self) -> None:
        folder = self.folder
        self._api_server = self._run(
            "kube-apiserver",
            [
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self.port}",
                f"--tls-cert-file={folder / 'server.pem'}",
                f"--tls-private-key-file={folder / 'server-key.pem'}",
                f"--client-ca-file={folder / 'ca.pem'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'server.pem'}",
                f"--service-account-signing-key-file={folder / 'server-key.pem'}",
                "--service-cluster-ip-range=10.30.0.0/16",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--disable-admission-plugins=ServiceAccount",
            ],
        )
        self._await()

    def start_controller_manager(self) -> None:
        """What ends deletions in the foreground."""
        flags = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        controllers = "garbagecollector,namespace"
        self._run("kube-controller-manager", [*flags, f"--controllers={controllers}"])

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.request("GET", "/api/v1/namespaces/default")
                return
            except (ApiError, OSError) as error:
                ended = [p for p in self._processes if p.poll() is not None]
                if ended or time.monotonic() > deadline:
                    logs = "\n".join(p.read_text()[-1500:] for p in self.folder.glob("*.log"))
                    raise AssertionError(f"no API server: {error}\n{logs}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile it takes connections and says nothing."""
        self._api_server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._api_server.send_signal(signal.SIGCONT)
            self._await()

    def request(
        self, method: str, path: str, body: Object | None = None, content_type: str = ""
    ) -> Object:
        """One request as the administrator. ApiError with the server's message."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "admin.pem", self.folder / "admin-key.pem")
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, method=method)
        asked.add_header("Content-Type", content_type or "application/json")
        try:
            with urllib.request.urlopen(asked, context=context, timeout=30) as answer:
                found: Object = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise ApiError(json.load(error)["message"]) from None

    def kubectl(self, *words: str, stdin: Object | None = None) -> str:
        """What kubectl prints as the administrator; it must succeed."""
        answer = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *words],
            input="" if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def get(self, *words: str) -> Object | None:
        """One object, by the words of `kubectl get`; None where there is none."""
        text = self.kubectl("get", "--ignore-not-found", "--output=json", *words)
        return json.loads(text) if text else None

    def ready_node(self, name: str, ready: str = "True") -> None:
        """A Node, and whether it is Ready: True, False or Unknown."""
        manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        self.kubectl("apply", "--filename=-", stdin=manifest)
        self.say("node", name, {"conditions": [{"type": "Ready", "status": ready}]})

    def run_pod(self, name: str, node: str, **labels: str) -> None:
        """A pod of a controller that says it runs; no kubelet does, so it ends at once."""
        owner = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": name,
            "uid": f"{name}-uid",
            "controller": True,
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": name, **labels},
                "ownerReferences": [owner],
            },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "none"}],
                "tolerations": [{"operator": "Exists"}],
            },
        }
        self.kubectl("apply", "--filename=-", stdin=pod)
        # What is not yet running may be evicted against every budget.
        running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self.say("pod", name, running)

    def keep(self, name: str) -> None:
        """A budget that lets no pod of `run_pod` be evicted."""
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}},
        }
        self.kubectl("apply", "--filename=-", stdin=budget)
        # What kube-controller-manager would tell; kubectl waits much longer for one that is new.
        counts = {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1}
        self.say("pdb", name, {"observedGeneration": 1, "expectedPods": 1, **counts})

    def say(self, kind: str, name: str, status: Object) -> None:
        """What a kubelet would tell of a node or a pod."""
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", f"--patch={patch}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """An API server with its state in `folder`, stopped at the end."""
    server = ApiServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
