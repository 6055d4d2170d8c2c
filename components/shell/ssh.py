"""One command on one of the stack's hosts over SSH, its host key pinned."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from pydantic import TypeAdapter

from stack.models import Host, Login
from stack.types import PUBLIC_KEY_FILE, HostKey

_DIAL_SECONDS = 10
_SCAN_SECONDS = 3
_SECONDS = 60
# Of what a command says before it fails, the end.
_LINES = 10
# What ssh itself ends with, whatever the command there would have.
_NOT_CONNECTED = 255
_HOST_KEY: TypeAdapter[str] = TypeAdapter(HostKey)
# What the client says of the host behind a jump host that it did not get through.
_BEHIND = "UNKNOWN port 65535"
_FINGERPRINT = re.compile(r"SHA256:[\w+/]+")


# Where sudo and doas come as packages, a login over SSH does not look for them.
_BECOME_ROOT = """\
[ "$(id -u)" != 0 ] || exec sh -c "$1"
PATH=$PATH:/usr/local/bin:/usr/pkg/bin:/opt/ooce/bin
for become in sudo doas; do
    ! command -v $become >/dev/null 2>&1 || exec $become -n sh -c "$1"
done
echo "there is neither sudo nor doas" >&2
exit 1
"""
_NOT_ROOT = "does not become root: "


class SshError(Exception):
    """Why there is no answer, as a line for a person."""


def run(
    host: Host,
    command: str,
    *,
    stdin: bytes = b"",
    seconds: float = _SECONDS,
    said: list[str] | None = None,
) -> bytes:
    """What `command` prints on `host`; SshError with what it said where it can't be had.

    The lines that it says where it succeeds are added to `said`.
    """
    try:
        answer = _ssh(host, command, stdin, seconds)
    except FileNotFoundError:
        raise SshError("ssh is not on PATH; install an OpenSSH client") from None
    except subprocess.TimeoutExpired:
        raise SshError(f"{host.address}: no answer within {seconds:.0f} s") from None
    errors = answer.stderr.decode(errors="replace").strip()
    if answer.returncode == _NOT_CONNECTED:
        raise SshError(refusal(host, errors))
    if answer.returncode:
        end = "\n".join(errors.splitlines()[-_LINES:]) or f"exit status {answer.returncode}"
        at = f"{host.address}: "
        raise SshError(end if end.startswith(at) else at + end)
    if said is not None:
        said += errors.splitlines()
    return answer.stdout


def trouble(host: Host) -> str:
    """What ssh says where it can't log in on `host`; empty where it can, or is not installed."""
    try:
        # At the usual level it keeps to itself what is wrong with a host key's type.
        answer = _ssh(host, "true", log_level="INFO")
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    said = answer.stderr.decode(errors="replace").strip() or "no reason given"
    if answer.returncode and answer.returncode != _NOT_CONNECTED and host.user != "root":
        return _NOT_ROOT + said.splitlines()[-1]
    return said if answer.returncode == _NOT_CONNECTED else ""


def _ssh(
    host: Host,
    command: str,
    stdin: bytes = b"",
    seconds: float = _SECONDS,
    log_level: str = "ERROR",
) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory(prefix="autojoin-ssh-") as folder:
        words = ["ssh", *options(host, Path(folder), log_level), as_root(host, command)]
        return subprocess.run(words, input=stdin, capture_output=True, timeout=seconds)


def as_root(host: Host, command: str) -> str:
    """`command` as root there, whoever logs in; unchanged where that is root by name."""
    if host.user == "root":
        return command
    return shlex.join(("sh", "-c", _BECOME_ROOT, "autojoin", command))


def is_final(said: str) -> bool:
    """Whether trying again is of no use: it is another host, or lets this user not in."""
    return _is_another_host(said) or _is_refused(said) or said.startswith(_NOT_ROOT)


def refusal(host: Host, said: str) -> str:
    """ssh's own failure in the words of the configuration: what, where, found, what to do."""
    if said.startswith(_NOT_ROOT):
        return (
            f"{host.where}: {host.user} {said}; let sudo or doas on {host.address} do it for that "
            "user without a password, or give user: root"
        )
    if host.jump and _BEHIND in said and "stdio forwarding failed" not in said:
        before = "\n".join(line for line in said.splitlines() if _BEHIND not in line)
        return _refusal(host.jump, before, _credential(host.jump, host))
    return _refusal(host, said, _credential(host))


def _refusal(host: Login, said: str, credential: str) -> str:
    there = f"{host.address} port {host.port}"
    last = said.splitlines()[-1] if said else "no reason given"
    if _is_another_host(said):
        found = _FINGERPRINT.search(said)
        shown = found[0] if found else last
        return (
            f"{host.where}.hostKey: {there} shows another host key ({shown}) than this one "
            f"({fingerprint(host_key(host))}); nothing was sent there. Someone may be in between; "
            "where the host was installed anew, compare on its console, and put here what this "
            f"prints: ssh-keyscan -t ed25519,ecdsa -p {host.port} {shlex.quote(host.address)}"
        )
    if _is_refused(said):
        return (
            f"{host.where}: {there} refuses the login of {host.user} with {credential} "
            f"({last}); put its public half into that user's authorized_keys there, or give "
            "another user, privateKey or privateKeyFile"
        )
    return (
        f"{host.where}: {there} can't be reached ({last}); see that the host is on, that sshd "
        "runs there, and that address and port are right"
    )


def _is_another_host(said: str) -> bool:
    return "Host key verification failed" in said or "no matching host key type" in said


def _is_refused(said: str) -> bool:
    return "Permission denied" in said or "Too many authentication failures" in said


def _credential(host: Login, behind: Login | None = None) -> str:
    if behind and not (host.private_key or host.private_key_file):
        return f"the one for {behind.address}, {_credential(behind)}"
    if host.private_key:
        return "privateKey"
    return f"privateKeyFile {host.private_key_file}" if host.private_key_file else "the SSH agent"


def fingerprint(host_key: str) -> str:
    """A public key's, as ssh-keygen -l writes it."""
    digest = hashlib.sha256(base64.b64decode(host_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def options(host: Host, folder: Path, log_level: str = "ERROR") -> list[str]:
    """ssh's words for `host`, behind which the command stands.

    Its configuration, the pinned keys, and private keys out of the configuration go to `folder`.
    """
    lines = _block("host", host, host, folder, log_level)
    if host.jump:
        lines += ["ProxyJump jump", *_block("jump", host.jump, host, folder, log_level)]
    config = folder / "config"
    config.write_text("\n".join(lines) + "\n")
    return ["-F", str(config), "host"]


def _block(name: str, host: Login, behind: Login, folder: Path, log_level: str) -> list[str]:
    """ssh's settings for one login. Where it has no key of its own it has that of `behind`."""
    pinned = host_key(host)
    known = folder / f"known_hosts_{name}"
    known.write_text(f"{name} {pinned}\n")
    settings = {
        "HostName": host.address,
        "Port": str(host.port),
        "User": host.user,
        "HostKeyAlias": name,
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": str(_DIAL_SECONDS),
        # Only of the pinned key's type, or the server offers another, which then looks wrong.
        "HostKeyAlgorithms": pinned.split()[0],
        "LogLevel": log_level,
    }
    login = host if host.private_key or host.private_key_file else behind
    if login.private_key:
        file = folder / f"key_{name}"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(login.private_key.get_secret_value().strip() + "\n")
        settings |= {"IdentitiesOnly": "yes", "IdentityFile": str(file)}
    elif login.private_key_file:
        path = Path(login.private_key_file).expanduser()
        settings |= {"IdentitiesOnly": "yes", "IdentityFile": str(path)}
    return [f"Host {name}", *(f'{key} "{value}"' for key, value in settings.items())]


def offered(address: str) -> str:
    """The Ed25519 host key that a host shows, which proves nothing yet; empty where it has none."""
    words = ["ssh-keyscan", "-T", str(_SCAN_SECONDS), "-t", "ed25519", address]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = [line.split()[1:3] for line in answer.stdout.splitlines() if " ssh-ed25519 " in line]
    return " ".join(found[0]) if found else ""


def host_key(host: Login) -> str:
    """The pinned public key itself, `ssh-ed25519 AAAA…`; SshError where its file has none."""
    if not host.host_key.endswith(PUBLIC_KEY_FILE):
        return host.host_key
    path = Path(host.host_key).expanduser()
    try:
        return _HOST_KEY.validate_python(path.read_text().strip())
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
    except ValueError:
        reason = "holds no public key, `ssh-ed25519 AAAA…`"
    raise SshError(f"{host.where}.hostKey: {path} {reason}")
