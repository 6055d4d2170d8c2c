"""The CA and the join gate by the real engine, over a real sshd, on a host in one folder."""

from __future__ import annotations

import json
import pickle
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.components.certificate_authority.authority_machine import Machine
from tests.unit.tools.plugins.plugin_engine import Project
from tests.unit.tools.plugins.ssh_server import SshServer
from tools.pins import CHECKOUT

PROGRAM = """
import pickle
import sys
from pathlib import Path

sys.path.insert(0, {checkout!r})
from components import interrupt
from components.certificate_authority import authority_host
from components.certificate_authority.component import (
    CertificateAuthority, CertificateAuthorityArgs
)
from components.certificate_authority.platforms import PLATFORMS
from components.join_gate.component import JoinGate, JoinGateArgs
from components.shell import reach
from stack.models import CertificateAuthority as Settings
from stack.models import Host

reach.TRIES = 2
authority_host.FILES = Path({files!r})
PLATFORMS["linux"] = pickle.loads({platform!r})
settings = Settings(host=Host(**{host!r}), platform="linux", source="existing",
                    certificate={certificate!r}, key={key!r}, node_certificate_hours={hours!r})
authority = CertificateAuthority("ca", CertificateAuthorityArgs(settings))
if {gate!r}:
    JoinGate("gate", JoinGateArgs(authority))
"""
_SHELL = """#!/bin/sh
# What sshd runs: the command, on the machine.
{exports}
exec nsenter --net --target {pid} sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class AuthorityStack:
    """`up` runs the program with the current settings; `host` and `hours` may be changed before."""

    project: Project
    machine: Machine
    server: SshServer
    files: Path

    def __post_init__(self) -> None:
        shell = self.server.folder / "shell"
        exports = "\n".join(
            f"export {name}={shlex.quote(value)}"
            for name, value in self.machine.environment.items()
        )
        shell.write_text(_SHELL.format(exports=exports, pid=self.machine.process))
        shell.chmod(0o755)
        with (self.server.folder / "sshd_config").open("a") as settings:
            settings.write(f"ForceCommand {shell}\n")
        self.hours = 48
        self.gate = False
        self.host: dict[str, Any] = {
            "address": "127.0.0.1",
            "port": self.server.port,
            "user": self.server.connection["user"],
            "host_key": self.server.host_key,
            "private_key_file": str(self.server.folder / "client_key"),
        }

    def program(self) -> None:
        source = self.machine.source
        text = PROGRAM.format(
            checkout=str(CHECKOUT), files=str(self.files), host=self.host, hours=self.hours,
            gate=self.gate,
            platform=pickle.dumps(self.machine.platform), certificate=str(source / "ca.pem"),
            key=str(source / "ca-key.pem"),
        )  # fmt: skip
        self.project.program(text)

    def up(self, fails: bool = False) -> str:
        self.program()
        return self.project.up(fails)

    def preview(self) -> str:
        self.program()
        return self.project.run("preview", "--diff")

    def edit_state(self, change: Callable[[dict[str, dict[str, Any]]], None]) -> None:
        """Apply `change` to the state's resources, by name."""
        state = json.loads(self.project.run("stack", "export"))
        resources = state["deployment"]["resources"]
        change({each["urn"].rsplit("::", 1)[-1]: each for each in resources})
        file = self.project.folder / "edited.json"
        file.write_text(json.dumps(state))
        self.project.run("stack", "import", "--file", str(file))
