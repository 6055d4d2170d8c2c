"""A stack as it is after `pulumi up`, with no lab: by the real engine and plugins.

One sshd on loopback plays every host and only says what a host would; a real API server that has
Cilium's CRDs takes what is made there. Both are gone afterwards, so every preview is one with
nothing to reach, over a state that the engine itself wrote, secrets included.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab import stack
from tests.unit.tools.plugins.kubernetes_server import ApiServer, running
from tests.unit.tools.plugins.ssh_server import SshServer
from tools.pins import CHECKOUT, Layout

Config = dict[str, Any]
JOINED = {"readySeconds": 4.2, "phases": {}}
Change = Callable[[Config], None]


def answers() -> dict[str, str]:
    """What hosts say, by the shell's pattern of the command that they are asked to run."""
    return {
        "*pair*work*": certificate(),
        "*revoked": json.dumps({"revoked": []}),
        "*await": json.dumps({f"node-{it}": JOINED for it in range(1, 10)}),
    }


class Deployed:
    """A stack `lab` in a backend of its own, brought up with `config`."""

    def __init__(self, folder: Path, config: Config, failing: dict[str, str] | None = None):
        self.folder = folder
        self.config = config
        shutil.copy(CHECKOUT / "Pulumi.yaml", folder)
        (folder / "host").mkdir()
        self.host = host = SshServer(folder / "host")
        host.answers(answers(), failing)
        self._name(host)
        self.file = self._write("Pulumi.lab.yaml", config)
        self._pulumi("stack", "init", "lab", folder=folder)
        answer = self.up(config)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def up(self, config: Config, *words: str) -> subprocess.CompletedProcess[str]:
        """`pulumi up` with `config`, on hosts and an API server that are there as long."""
        folder = self.folder / "api"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with (
            running(folder) as api,
            agent(self.folder / "host/client_key") as socket,
        ):
            config["autojoin:cluster"]["kubeconfig"] = str(api.kubeconfig)
            self.file = self._write("Pulumi.lab.yaml", config)
            serve_definitions(api)
            self.host.start()
            try:
                words = ("--skip-preview", "--config-file", str(self.file), *words)
                return self._run("up", "--yes", *words, SSH_AUTH_SOCK=socket)
            finally:
                self.host.stop()

    def _name(self, host: SshServer) -> None:
        """Let `host` be each host of the configuration."""
        there = {
            "address": "127.0.0.1",
            "port": host.port,
            "user": host.connection["user"],
            "hostKey": host.host_key,
        }
        provisioning = self.config["autojoin:provisioning"]
        for known in (self.config["autojoin:certificateAuthority"]["host"], *provisioning.values()):
            known.update(there)

    def previews(self, changes: dict[str, Change]) -> dict[str, str]:
        """The engine's events in a preview after each change of the configuration."""
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(changes, pool.map(self.preview, changes.values()), strict=True))

    def state(self) -> list[dict[str, Any]]:
        """The resources of its state, secrets decrypted but marked."""
        answer = json.loads(self._pulumi("stack", "export", "--show-secrets"))
        return list(answer["deployment"]["resources"])

    def replaced(self, name: str) -> list[str]:
        """What the engine does, in its order, when the resource `name` is to be replaced."""
        state = json.loads(self._pulumi("stack", "export"))["deployment"]["resources"]
        urn = next(each["urn"] for each in state if each["urn"].endswith(f"::{name}"))
        events = self.folder / f"events-replaced-{name}"
        words = ["--replace", urn, "--event-log", str(events), "--config-file", str(self.file)]
        self._pulumi("preview", *words)
        steps = [json.loads(line).get("resourcePreEvent") for line in events.open()]
        about = [step["metadata"] for step in steps if step]
        return [step["op"] for step in about if step["urn"] == urn]

    def preview(self, change: Change) -> str:
        events = self.folder / f"events-{change.__name__}"
        answer = self._previewed(change, "--event-log", str(events))
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return events.read_text()

    def refused_preview(self, change: Change) -> str:
        """What the engine prints in a preview that fails."""
        answer = self._previewed(change)
        assert answer.returncode, answer.stdout
        return answer.stdout

    def _previewed(self, change: Change, *words: str) -> subprocess.CompletedProcess[str]:
        config = copy.deepcopy(self.config)
        change(config)
        file = self._write(f"Pulumi.changed-{change.__name__}.yaml", config)
        return self._run("preview", "--config-file", str(file), *words)

    def _write(self, name: str, config: Config) -> Path:
        path = self.folder / name
        salt = yaml.safe_load(self.file.read_text()) if hasattr(self, "file") else {}
        path.write_text(yaml.safe_dump({**salt, "config": config}))
        return path

    def _pulumi(self, *words: str, folder: Path = CHECKOUT) -> str:
        answer = self._run(*words, folder=folder)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def _run(
        self, *words: str, folder: Path = CHECKOUT, **further: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **stack.engine_environment(),
            **stack.lab_stack(self.folder, "lab"),
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DEBUG_COMMANDS": "true",
            **further,
        }
        command = ["pulumi", *words, "--non-interactive"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@contextmanager
def agent(key: Path) -> Iterator[str]:
    """An SSH agent that holds `key`; its socket."""
    socket = str(key.parent / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not Path(socket).exists():
            time.sleep(0.02)
        environment = {**os.environ, "SSH_AUTH_SOCK": socket}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True)
        yield socket
    finally:
        process.terminate()
        process.wait()


def serve_definitions(api: ApiServer) -> None:
    """What Cilium's operator registers."""
    folder = Layout().test_file("cilium-crds-1.18")
    api.kubectl("create", "--recursive", f"--filename={folder}")


def certificate() -> str:
    """A certificate authority's own certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = builder.sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()
