"""A real kube-apiserver on a real etcd, and a real Pulumi engine, for the tests of the stand-in."""

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
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.plugins.kubernetes_access import load
from tools.plugins.kubernetes_client import Client, Object

START_SECONDS = 90
ROOT = Path(__file__).resolve().parents[4]


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
        builder = self._builder(self.name, self.key).add_extension(constraints, critical=True)
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
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
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

    def _run(self, name: str, arguments: list[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [tool(name), *arguments], stdout=log, stderr=log, start_new_session=True
        )
        self._processes.append(process)

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
        self._run(
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
                "--service-cluster-ip-range=10.96.0.0/16",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--disable-admission-plugins=ServiceAccount",
            ],
        )
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        client = Client(load(str(self.kubeconfig)))
        while True:
            try:
                client._once("GET", "/api/v1/namespaces/default", None, {})
                return
            except Exception as error:
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

    @property
    def client(self) -> Client:
        return Client(load(str(self.kubeconfig)))

    def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Object | None:
        client = self.client
        return client.get(client.resource(api_version, kind), namespace, name)

    def merge(
        self, api_version: str, kind: str, namespace: str | None, name: str, patch: Object
    ) -> None:
        """Change an object behind Pulumi's back."""
        client = self.client
        client.request(
            "PATCH",
            client.resource(api_version, kind).path(namespace, name),
            body=patch,
            query={"fieldManager": "someone"},
            content_type="application/merge-patch+json",
        )

    def remove(self, api_version: str, kind: str, namespace: str | None, name: str) -> None:
        client = self.client
        client.delete(client.resource(api_version, kind), namespace, name, "Background")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """An API server with its state in `folder`, stopped at the end."""
    server = ApiServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Engine:
    """One Pulumi project, with its stack on a file backend and the stand-in as its plugin."""

    def __init__(self, folder: Path, home: Path, kubeconfig: Path | str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "state").mkdir()
        self.environment = {
            **os.environ,
            "PULUMI_HOME": str(home),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TEST_KUBECONFIG": str(kubeconfig),
        }
        (folder / "Pulumi.yaml").write_text("name: test\nruntime: python\n")
        self.run("stack", "init", "test")

    def program(self, text: str) -> None:
        (self.folder / "__main__.py").write_text(PRELUDE + text)

    def run(self, *arguments: str, fails: bool = False) -> str:
        shutil.rmtree(self.folder / "seen", ignore_errors=True)
        (self.folder / "seen").mkdir()
        answer = subprocess.run(
            [tool("pulumi"), *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        text = answer.stdout + answer.stderr
        assert (answer.returncode != 0) == fails, f"pulumi {' '.join(arguments)}:\n{text}"
        return text

    def up(self, *arguments: str, fails: bool = False) -> str:
        return self.run("up", "--yes", "--skip-preview", "--diff", *arguments, fails=fails)

    def refresh(self, *arguments: str) -> str:
        return self.run("refresh", "--yes", "--skip-preview", *arguments)

    def state(self, *, secrets: bool = False) -> dict[str, Object]:
        """Resources by name."""
        text = self.run("stack", "export", *(["--show-secrets"] if secrets else []))
        resources = _first_json(text)["deployment"].get("resources", [])
        return {each["urn"].rsplit("::", 1)[-1]: each for each in resources}

    def seen(self) -> Object:
        """What the program saw through `see`, in its last run."""
        files = (self.folder / "seen").glob("*")
        return {file.name: json.loads(file.read_text()) for file in files}

    def preview(self) -> dict[str, Object]:
        """The steps of a preview, by resource name."""
        steps = _first_json(self.run("preview", "--json")).get("steps", [])
        return {each["urn"].rsplit("::", 1)[-1]: each for each in steps}


def _first_json(text: str) -> Object:
    """The document in a command's output; warnings may stand around it."""
    found: Object = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return found


PRELUDE = """
import asyncio
import json
import os
import pathlib
import pulumi
import pulumi_kubernetes as k8s


def see(name, output):
    # Runs only where the value is known.
    output.apply(lambda value: pathlib.Path("seen", name).write_text(json.dumps(value)))


def unknown():
    value, known = asyncio.Future(), asyncio.Future()
    value.set_result(None)
    known.set_result(False)
    return pulumi.Output(set(), value, known)


provider = k8s.Provider("cluster", kubeconfig=os.environ["TEST_KUBECONFIG"])
here = pulumi.ResourceOptions(provider=provider)
"""


def install_plugin(home: Path, folder: Path) -> None:
    """Install the stand-in into PULUMI_HOME, as the lab does it."""
    from tools.plugins import package

    for name, version, path in package.build(folder, sys.executable):
        if name != "kubernetes":
            continue
        subprocess.run(
            [tool("pulumi"), "plugin", "install", "resource", name, version, "--file", str(path)],
            env={**os.environ, "PULUMI_HOME": str(home)},
            check=True,
            capture_output=True,
        )
