"""A stack as it is after `pulumi up`, with no lab: by the real engine, on plugins that do nothing.

The plugins are the lab's stand-ins, whose checks and diffs are as they always are; only what would
reach a host or an API server is answered here. So every preview afterwards is a real one, over a
state that the engine itself wrote, secrets included.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab import stack
from tools import install as tools
from tools.pins import CHECKOUT, Layout
from tools.plugins import VERSION_VARIABLE, package

Config = dict[str, Any]
Change = Callable[[Config], None]

_START = """\
import os, sys
os.environ["{variable}"] = "{version}"
ANSWERS = {answers!r}
"""

# What is answered in place of a host, and of an API server.
_PATCHES = {
    "command": """
from tools.plugins import command
from tools.plugins.command_run import Outcome

def run(self, request, inputs, words, old):
    name = request.urn.rpartition("::")[2]
    if name.endswith("-machine") and os.path.exists(ANSWERS["dead"]):
        return Outcome(1, "", "no route to host", "no route to host")
    for end, text in ANSWERS.items():
        if name.endswith(end):
            return Outcome(0, text, "", text)
    return Outcome(0, "", "", "")

command.RemoteCommand.run = command.LocalCommand.run = run
command.main("command", "", command.provider())
""",
    "tls": """
import runpy
runpy.run_module("tools.plugins.tls", run_name="__main__", alter_sys=True)
""",
    "kubernetes": """
from tools.plugins import kubernetes
from tools.plugins.base import Created

def create(self, request):
    body = request.inputs
    name = body.get("name") or body["metadata"]["name"]
    done = {"status": {"status": "deployed"}, "resourceNames": {}} if "chart" in body else {}
    return Created(name, {**body, **done})

for handler in (kubernetes.ReleaseHandler, kubernetes.ObjectHandler):
    handler.create = create
kubernetes.run()
""",
}


class Deployed:
    """A stack `lab` in a backend of its own, brought up with `config`."""

    def __init__(self, folder: Path, config: Config):
        self.folder = folder
        self.config = config
        self.home = folder / "pulumi-home"
        self.dead = folder / "dead"
        # Its hosts are nobody: whoever looks whether they let him in finds that they do.
        (folder / "bin").mkdir()
        (folder / "bin/ssh").symlink_to("/bin/true")
        shutil.copy(CHECKOUT / "Pulumi.yaml", folder)
        self._install()
        self.file = self._write("Pulumi.lab.yaml", config)
        self._pulumi("stack", "init", "lab", folder=folder)
        self._pulumi("up", "--yes", "--skip-preview", "--config-file", str(self.file))

    def previews(self, changes: dict[str, Change]) -> dict[str, str]:
        """The engine's events in a preview after each change of the configuration."""
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(changes, pool.map(self.preview, changes.values()), strict=True))

    def state(self) -> list[dict[str, Any]]:
        """The resources of its state, secrets decrypted but marked."""
        answer = json.loads(self._pulumi("stack", "export", "--show-secrets"))
        return list(answer["deployment"]["resources"])

    def up(self, change: Change, *words: str) -> subprocess.CompletedProcess[str]:
        """Bring the stack to what it is after `change`."""
        config = copy.deepcopy(self.config)
        change(config)
        file = self._write(f"Pulumi.up-{change.__name__}.yaml", config)
        return self._run("up", "--yes", "--skip-preview", "--config-file", str(file), *words)

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
        config = copy.deepcopy(self.config)
        change(config)
        file = self._write(f"Pulumi.changed-{change.__name__}.yaml", config)
        events = self.folder / f"events-{change.__name__}"
        words = ["preview", "--event-log", str(events), "--config-file", str(file)]
        self._pulumi(*words)
        return events.read_text()

    def _write(self, name: str, config: Config) -> Path:
        path = self.folder / name
        salt = yaml.safe_load(self.file.read_text()) if hasattr(self, "file") else {}
        path.write_text(yaml.safe_dump({**salt, "config": config}))
        return path

    def _install(self) -> None:
        answers = {
            "ca-pair": certificate(),
            "admission-revoked": '{"revoked": []}',
            "joins-ready": json.dumps(
                {f"node-{it}": {"readySeconds": 4.2, "phases": {}} for it in range(1, 10)}
            ),
            # A file: while it is there, no provisioning host answers.
            "dead": str(self.dead),
        }
        built = package.build(self.folder / "plugins", sys.executable)
        for name, version, path in built:
            (path / "start.py").write_text(start(name, version, answers))
            words = ["plugin", "install", "resource", name, version, "--file", str(path)]
            self._pulumi(*words)

    def _pulumi(self, *words: str, folder: Path = CHECKOUT) -> str:
        answer = self._run(*words, folder=folder)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def _run(self, *words: str, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **stack.engine_environment(),
            "PATH": f"{self.folder / 'bin'}:{tools.search_path(Layout())}",
            "PULUMI_HOME": str(self.home),
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_STACK": "lab",
            "PULUMI_DEBUG_COMMANDS": "true",
        }
        command = ["pulumi", *words, "--non-interactive"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def start(plugin: str, version: str, answers: dict[str, str]) -> str:
    """The program of a stand-in that reaches nothing; commands end in the names of `answers`."""
    begin = _START.format(variable=VERSION_VARIABLE, version=version, answers=answers)
    return begin + _PATCHES[plugin]


def certificate() -> str:
    """A certificate authority's own certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = builder.sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()
