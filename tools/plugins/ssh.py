"""A command on a host over the OpenSSH client.

Its settings and the key to log in with are in a private folder in memory that lives as long as the
call: the client's command line holds that folder's name and the command. Whether the dial or the
command failed is told by a mark that the client makes (LocalCommand) once it is let in and before
it asks for the command: without the mark nothing ran, so only then is it dialled again.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from tools.plugins.plugin import Failure, Request
from tools.plugins.process import STOPPED, LineSink, Outcome, run

DEFAULTS = {"user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15}
PROPERTIES = frozenset({"host", "hostKey", "privateKey", "proxy", *DEFAULTS})
FIRST_DELAY, DELAY_FACTOR, LONGEST_DELAY = 0.1, 1.5, 5.0  # seconds between dials, as the real one
CONNECTION_LOST = 255  # the client's own exit status, but a command's too
_LOST = re.compile(r"closed by remote host|reset by peer|Timeout, server|Broken pipe")
# More of the plugin's environment would reach the client's helpers.
_CLIENT_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK")


def execute(
    connection: dict[str, Any],
    command: str,
    request: Request,
    stdin: str | None,
    on_stdout: LineSink | None,
    on_stderr: LineSink | None,
) -> Outcome:
    """Run `command` with the user's login shell there, once."""
    connection = {**DEFAULTS, **connection}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a power cut leaves nothing
    with tempfile.TemporaryDirectory(prefix="autojoin-ssh-", dir=memory) as place:
        folder = Path(place)
        write(folder / "config", "\n".join(settings(connection, folder)) + "\n")
        words = ["ssh", "-F", str(folder / "config"), "-E", str(folder / "messages")]
        environment = {name: os.environ[name] for name in _CLIENT_ENVIRONMENT if name in os.environ}
        failures, delay = 0, FIRST_DELAY
        while True:
            outcome = run(
                [*words, "-T", "--", "host", command], stdin,
                environment | {"SHELL": "/bin/sh"}, on_stdout, on_stderr,
            )  # fmt: skip
            messages = read(folder / "messages")
            if (folder / "let-in").exists():
                return finished(outcome, connection, messages)
            failures += 1
            if 0 <= connection["dialErrorLimit"] < failures:
                raise Failure(f"cannot connect to {address(connection)}: {last(messages)}")
            request.log(f"dial {failures} of {address(connection)} failed: {last(messages)}")
            if STOPPED.wait(delay):
                raise Failure(f"cancelled while connecting to {address(connection)}")
            delay = min(delay * DELAY_FACTOR, LONGEST_DELAY)


def finished(outcome: Outcome, connection: dict[str, Any], messages: str) -> Outcome:
    if outcome.status == CONNECTION_LOST and _LOST.search(messages + outcome.stderr):
        raise Failure(
            f"the connection to {address(connection)} was lost while the command ran; "
            "it is not run again, since it may have had its effect"
        )
    return outcome


def settings(connection: dict[str, Any], folder: Path) -> list[str]:
    """The client's configuration: these host keys, these private keys or the agent, nothing else.

    A jump host (`proxy`) is another client's, which this one starts with the same configuration.
    """
    lines = [
        *login("host", connection, folder),
        "PermitLocalCommand yes",
        f"LocalCommand : > {shlex.quote(str(folder / 'let-in'))}",
    ]
    if connection.get("proxy"):
        jump = login("jump", {**DEFAULTS, **connection["proxy"]}, folder)
        lines += ["ProxyJump jump", *jump]
    return lines


def login(name: str, connection: dict[str, Any], folder: Path) -> list[str]:
    lines = [
        f"Host {name}",
        f"HostName {word(connection['host'])}",
        f"User {word(connection['user'])}",
        f"Port {int(connection['port'])}",
        f"ConnectTimeout {int(connection['perDialTimeout'])}",
        "BatchMode yes",
        "ControlPath none",
        "EscapeChar none",
        "LogLevel INFO",
        "ServerAliveInterval 15",
        "ServerAliveCountMax 8",
        "StrictHostKeyChecking yes",
        f"UserKnownHostsFile {folder / 'known-hosts'}",
        "GlobalKnownHostsFile /dev/null",
        "UpdateHostKeys no",
        "CheckHostIP no",
        f"HostKeyAlias {name}",
        # As the real one: an RSA key as ssh-rsa alone, which a server of today refuses.
        f"HostKeyAlgorithms {connection['hostKey'].split()[0]}",
        "PreferredAuthentications publickey",
    ]
    write(folder / "known-hosts", f"{name} {connection['hostKey']}\n")
    if not connection.get("privateKey"):
        return [*lines, "IdentityFile none"]
    write(folder / f"identity-{name}", connection["privateKey"].strip() + "\n")
    identity = f"IdentityFile {folder / f'identity-{name}'}"
    return [*lines, identity, "IdentitiesOnly yes", "IdentityAgent none"]


def word(value: str) -> str:
    """A value for the client's configuration; a line break would start another setting."""
    if any(ord(character) < 32 for character in value) or '"' in value:
        raise Failure(f"connection: {value!r} holds a quote or a control character")
    return f'"{value}"'


def address(connection: dict[str, Any]) -> str:
    return f"{connection['user']}@{connection['host']}:{int(connection['port'])}"


def write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        file.write(text)


def read(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def last(messages: str) -> str:
    return messages.splitlines()[-1] if messages else "the client gave no reason"
