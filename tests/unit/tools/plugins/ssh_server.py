"""A real sshd on a free loopback port, for the user that runs the tests."""

from __future__ import annotations

import getpass
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SSHD = "/usr/sbin/sshd"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def generate_key(path: Path, kind: str = "ed25519") -> str:
    """A new key pair; returns the public key's text."""
    arguments = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f"]
    subprocess.run([*arguments, str(path)], check=True, capture_output=True)
    return path.with_suffix(".pub").read_text().strip()


@dataclass
class SshServer:
    """An sshd that accepts one key, and no variables."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation wants it
        self.host_key = generate_key(self.folder / "host_key")
        authorized = generate_key(self.folder / "client_key")
        (self.folder / "authorized_keys").write_text(f"{authorized}\n")
        settings = (
            f"Port {self.port}", "ListenAddress 127.0.0.1", "PidFile none", "UsePAM no",
            f"HostKey {self.folder / 'host_key'}", "StrictModes no", "PermitRootLogin yes",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}", "PasswordAuthentication no",
        )  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(settings) + "\n")

    @property
    def connection(self) -> dict[str, Any]:
        """The `connection` input for it."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "privateKey": (self.folder / "client_key").read_text(),
            "hostKey": self.host_key,
            "dialErrorLimit": 1,
            "perDialTimeout": 10,
        }

    def start(self) -> None:
        arguments = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(arguments, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def answers(self, texts: dict[str, str], failing: dict[str, str] | None = None) -> None:
        """Have no command run: each is answered with the text of the pattern that it matches, of
        the shell's, and all others with nothing. `failing` ones fail with their text."""
        script = self.folder / "answer"
        cases = [
            f"{pattern}) printf %s {shlex.quote(text)} >&2; exit 1 ;;"
            for pattern, text in (failing or {}).items()
        ]
        cases += [f"{pattern}) printf %s {shlex.quote(text)} ;;" for pattern, text in texts.items()]
        lines = ["#!/bin/sh", "cat >/dev/null", 'case "$SSH_ORIGINAL_COMMAND" in', *cases, "esac"]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        settings = self.folder / "sshd_config"
        line = f"ForceCommand {script}\n"
        if line not in settings.read_text():
            settings.write_text(settings.read_text() + line)

    def logins(self) -> int:
        """How many log-ins succeeded so far."""
        return (self.folder / "log").read_text().count("Accepted publickey")
