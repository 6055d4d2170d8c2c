"""Commands and files over the OpenSSH client.

Every setting and secret is in a private folder in memory that lives as long as the call (what a
killed plugin left behind goes with the next call): the client's command line holds only that
folder's name and the remote command. Whether the dial or the
command failed is told by a mark that the client makes (LocalCommand) once it is authenticated and
before it asks for the command: without the mark nothing ran, so only then is it dialled again.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.plugins.base import Failure, Request
from tools.plugins.command_run import LineSink, Outcome, run

DEFAULTS = {"user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15}
PROPERTIES = {
    "host": str,
    "user": str,
    "password": str,
    "port": (int, float),
    "privateKey": str,
    "privateKeyPassword": str,
    "agentSocketPath": str,
    "dialErrorLimit": int,
    "perDialTimeout": int,
    "hostKey": str,
    "proxy": dict,
}
_IN_MEMORY = Path("/dev/shm")
_FOLDER = "autojoin-ssh-"  # and the plugin's process id
FIRST_DELAY, DELAY_FACTOR, LONGEST_DELAY = 0.1, 1.5, 5.0  # seconds between dials, as the real one
CONNECTION_LOST = 255  # the client's own exit status, but a command's too
_LOST = re.compile(r"Connection to \S+ closed by remote host\.\s*$")  # the one it tells on stderr
# More of the client's environment would reach its helpers; the user's variables come on top.
_CLIENT_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "TMPDIR")
_ASKPASS = """\
#!/bin/sh
case $1 in
*assphrase*) exec cat "$(dirname "$0")/passphrase" ;;
*) exec cat "$(dirname "$0")/password" ;;
esac
"""


class DialFailure(Failure):
    """The host was not reached, or not authenticated: nothing ran there."""


class Refused(DialFailure):
    """The host showed another key than the pinned one: dialling again would not help."""


@dataclass(frozen=True)
class Session:
    """A connection's settings, laid out in a private folder."""

    connection: dict[str, Any]
    folder: Path

    @property
    def address(self) -> str:
        """For messages: user@host:port."""
        known = self.connection
        return f"{known['user']}@{known['host']}:{int(known['port'])}"

    @property
    def configuration(self) -> Path:
        return self.folder / "config"

    @property
    def mark(self) -> Path:
        return self.folder / "authenticated"

    @property
    def messages(self) -> Path:
        """The client's own messages, apart from the remote command's."""
        return self.folder / "messages"


# --- laying out ------------------------------------------------------------------------------


@contextlib.contextmanager
def session(connection: dict[str, Any]) -> Iterator[Session]:
    """The settings of `connection` (the Connection input, plain) as files, removed at the end."""
    connection = {
        **DEFAULTS,
        **{key: value for key, value in connection.items() if value is not None},
    }
    if connection.get("proxy"):
        raise Failure(
            "connection.proxy: this stand-in for Pulumi's command plugin does not serve proxies; "
            "install Pulumi's own release plugin for it"
        )
    sweep()
    prefix = f"{_FOLDER}{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_memory()))  # 0700
    try:
        result = Session(connection, folder)
        _write(result.configuration, "\n".join(_settings(result)) + "\n")
        yield result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path:
    """Where a power cut leaves nothing; the ordinary temporary folder where there is no such."""
    return _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def sweep() -> None:
    """Remove what plugins that were killed left: folders whose process is no more."""
    for folder in _memory().glob(f"{_FOLDER}*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)  # another user's is not ours to remove


def _settings(session: Session) -> list[str]:
    known = session.connection
    timeout = int(known["perDialTimeout"])
    return [
        f"HostName {_word(known['host'])}",
        f"User {_word(known['user'])}",
        f"Port {int(known['port'])}",
        *([f"ConnectTimeout {timeout}"] if timeout > 0 else []),
        "ConnectionAttempts 1",
        "RequestTTY no",
        "EscapeChar none",
        "ForwardAgent no",
        "ControlPath none",
        "UpdateHostKeys no",
        "LogLevel ERROR",
        "ServerAliveInterval 15",
        "ServerAliveCountMax 8",
        "PermitLocalCommand yes",
        f"LocalCommand : > {shlex.quote(str(session.mark))}",
        *_host_key_settings(session),
        *_authentication_settings(session),
    ]


def _word(value: str) -> str:
    """A value for the client's configuration; a line break would start another setting."""
    if any(ord(character) < 32 for character in value) or '"' in value:
        raise Failure(f"connection: {value!r} holds a quote or a control character")
    return f'"{value}"'


def _host_key_settings(session: Session) -> list[str]:
    """With a host key: that one and no other. Without: any (as the real plugin does)."""
    known_hosts = session.folder / "known_hosts"
    pinned = session.connection.get("hostKey")
    if not pinned:
        return [
            "StrictHostKeyChecking no",
            "UserKnownHostsFile /dev/null",
            "GlobalKnownHostsFile /dev/null",
        ]
    kind, key = parse_host_key(pinned)
    _write(known_hosts, f"pinned {kind} {key}\n")
    algorithms = "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
    return [
        "StrictHostKeyChecking yes",
        f"UserKnownHostsFile {known_hosts}",
        "GlobalKnownHostsFile /dev/null",
        "VerifyHostKeyDNS no",
        "CheckHostIP no",
        "HostKeyAlias pinned",
        f"HostKeyAlgorithms {algorithms}",
    ]


def parse_host_key(text: str) -> tuple[str, str]:
    """(type, base64) of a public key in authorized_keys or known_hosts style. Raises Failure."""
    words = text.split()
    for kind, key in itertools.pairwise(words):
        if kind.startswith(("ssh-", "ecdsa-sha2-", "sk-")):
            with contextlib.suppress(binascii.Error, ValueError):
                blob = base64.b64decode(key, validate=True)
                if blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode() == kind:
                    return kind, key
    raise Failure(
        "connection.hostKey: not a public key; write it as the host's "
        "/etc/ssh/ssh_host_ed25519_key.pub has it: ssh-ed25519 AAAA…"
    )


def _authentication_settings(session: Session) -> list[str]:
    known = session.connection
    methods, settings = ["publickey"], []
    if known.get("privateKey"):
        identity = session.folder / "identity"
        _write(identity, known["privateKey"].replace("\r\n", "\n").rstrip("\n") + "\n")
        settings += [f"IdentityFile {identity}", "IdentitiesOnly yes", "IdentityAgent none"]
    else:
        settings += ["IdentityFile none"]
        if known.get("agentSocketPath"):
            settings += [f"IdentityAgent {_word(known['agentSocketPath'])}"]
    asked = {"passphrase": known.get("privateKeyPassword"), "password": known.get("password")}
    for name, answer in asked.items():
        if answer:
            _write(session.folder / name, f"{answer}\n")
    if any(asked.values()):
        _write(session.folder / "askpass", _ASKPASS, 0o700)
    if asked["password"]:
        methods += ["password", "keyboard-interactive"]
    settings += [f"PreferredAuthentications {','.join(methods)}", "NumberOfPasswordPrompts 1"]
    return [*settings, "BatchMode no" if any(asked.values()) else "BatchMode yes"]


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


# --- running ---------------------------------------------------------------------------------


def execute(
    session: Session,
    command: str,
    request: Request,
    *,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    on_stdout: LineSink | None = None,
    on_stderr: LineSink | None = None,
) -> Outcome:
    """Run `command` with the user's login shell there, once. Raises DialFailure, Failure.

    environment: asked of the server, which may refuse (AcceptEnv): see `rejected_variables`.
    """
    names = list(environment or {})
    arguments = [
        *_client("ssh", session),
        *(["-o", f"SendEnv={' '.join(names)}"] if names else []),
        "-T",
        "--",
        "pinned",
        command,
    ]

    def attempt() -> Outcome:
        session.mark.unlink(missing_ok=True)
        _write(session.messages, "")
        outcome = run(
            [*arguments[:1], "-E", str(session.messages), *arguments[1:]],
            stdin=stdin,
            environment={**_client_environment(session), **(environment or {})},
            on_stdout=on_stdout,
            on_stderr=on_stderr,
        )
        messages = session.messages.read_text(errors="replace").strip()
        if not session.mark.exists():
            raise _dial_failure(session, messages or _explanation(session))
        if outcome.status == CONNECTION_LOST and (messages or _LOST.search(outcome.stderr)):
            raise Failure(
                f"the connection to {session.address} was lost while the command ran"
                f"{': ' if messages else ''}{messages}; "
                "it is not run again, since it may have had its effect"
            )
        return outcome

    return _dial(session, request, attempt)


def rejected_variables(session: Session, names: list[str], request: Request) -> list[str]:
    """Those of `names` that the server does not let a client set."""
    quoted = " ".join(shlex.quote(name) for name in names)
    script = f'for name in {quoted}; do eval "[ -n \\"\\${{$name+x}}\\" ]" || echo "$name"; done'
    given = dict.fromkeys(names, "x")
    outcome = execute(session, f"sh -c {shlex.quote(script)}", request, environment=given)
    if outcome.status != 0:
        raise Failure(f"cannot ask {session.address} for its environment: {outcome.combined}")
    return outcome.stdout.split()


def transfer(session: Session, batch: list[str], request: Request) -> Outcome:
    """Run sftp commands, stopping at the first that fails (a `-` before one lets it fail)."""
    arguments = [*_client("sftp", session), "-q", "-b", "-", "pinned"]

    def attempt() -> Outcome:
        outcome = run(
            arguments, stdin="\n".join(batch) + "\n", environment=_client_environment(session)
        )
        if outcome.status == CONNECTION_LOST:  # copying again is harmless
            raise _dial_failure(session, outcome.stderr.strip() or _explanation(session))
        return outcome

    return _dial(session, request, attempt)


def _client(name: str, session: Session) -> list[str]:
    program = shutil.which(name)
    if program is None:
        raise Failure(f"{name} is not on PATH; install OpenSSH's client (openssh-client)")
    return [program, "-F", str(session.configuration)]


def _client_environment(session: Session) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _CLIENT_ENVIRONMENT if name in os.environ}
    askpass = {"SSH_ASKPASS": str(session.folder / "askpass"), "SSH_ASKPASS_REQUIRE": "force"}
    return {**kept, "SHELL": "/bin/sh", "LC_ALL": "C", **askpass}


def _explanation(session: Session) -> str:
    """Dial once more for the reason: some are told at a log level that would show banners too."""
    _write(session.messages, "")
    told = ["-E", str(session.messages), "-o", "LogLevel=INFO", "-T", "--", "pinned", "true"]
    run([*_client("ssh", session), *told], environment=_client_environment(session))
    return session.messages.read_text(errors="replace").strip()


def _dial_failure(session: Session, messages: str) -> DialFailure:
    if session.connection.get("hostKey") and (
        "verification failed" in messages or "no matching host key type" in messages
    ):
        return Refused(
            f"{session.address} showed another host key than connection.hostKey says: refused. "
            "Someone may be in between; where the host was reinstalled, put its new key there"
        )
    last = messages.splitlines()[-1] if messages else "the client gave no reason"
    return DialFailure(f"cannot connect to {session.address}: {last}")


def _dial(session: Session, request: Request, attempt: Callable[[], Outcome]) -> Outcome:
    """`attempt`, again after a DialFailure, up to dialErrorLimit failures (-1: no limit)."""
    limit = int(session.connection["dialErrorLimit"])
    failures, delay = 0, FIRST_DELAY
    while True:
        try:
            return attempt()
        except Refused:
            raise
        except DialFailure as error:
            failures += 1
            if 0 <= limit < failures:
                tries = f" ({failures} tries)" if failures > 1 else ""
                raise DialFailure(f"{error}{tries}") from error
            request.log(f"Dial {failures} failed, retrying: {error}", ephemeral=True)
        if request.cancelled.wait(delay):
            raise Failure(f"cancelled while connecting to {session.address}")
        delay = min(delay * DELAY_FACTOR, LONGEST_DELAY)
