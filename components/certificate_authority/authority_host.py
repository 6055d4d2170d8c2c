"""The certificate authority's host as a stack configures it, and how commands get there."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from components import archive
from components.archive import File
from components.certificate_authority.platforms import LINUX, PLATFORMS, Platform

__all__ = ["FILES", "LINUX", "AuthorityHost", "Platform", "platform"]

FILES = Path(__file__).resolve().parent / "on_host"
# The fields of a subject, by their names in a stack file and in a CFSSL request.
SUBJECT_FIELDS = {
    "country": "C",
    "province": "ST",
    "locality": "L",
    "organization": "O",
    "organizationalUnit": "OU",
}


@dataclass(frozen=True)
class AuthorityHost:
    """The host as the stack configures it. `certificate` and `key` are paths on it.

    With source `generate` they may be empty: then the platform's own place is meant. `also` are
    those of a CA that is trusted and does not sign; empty where there is none.
    """

    platform: str
    address: str
    source: str
    certificate: str
    key: str
    subject: dict[str, str]
    node_certificate_hours: int
    setup: int = 1
    cfssl: str = "auto"
    responder_port: int = 8889
    gate_port: int = 8443
    also: tuple[str, str] = ("", "")


def platform(host: AuthorityHost) -> Platform:
    """The host's platform, with the CFSSL that is run there. KeyError for one that there is not."""
    where = PLATFORMS[host.platform]
    given = host.cfssl.startswith("/")
    return replace(where, cfssl=host.cfssl if given else f"{where.programs}/cfssl")


def bracketed(address: str) -> str:
    """An address or a name as it stands in a URL."""
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


def listen_address(host: AuthorityHost) -> str:
    """The address to listen on for nodes: every one of the host.

    `::` takes both families, but not on OpenBSD, which keeps them apart.
    """
    return "0.0.0.0" if host.platform == "openbsd" and ":" not in host.address else "::"


def script_command(host: AuthorityHost, script: str, action: str = "install") -> str:
    """The remote command that unpacks its standard input and runs `script action` from it.

    Wrapped in `sh -c`, for the login shell may be another; the work folder is memory-backed where
    the host has one, since the files may hold a private key. openssl decodes: base64 is no
    program of every platform.
    """
    where = platform(host)
    missing = f"{host.address}: missing: openssl; install it there: {where.package_command} openssl"
    body = (
        f"set -eu; umask 077; PATH={where.path}; export PATH; "
        "command -v openssl >/dev/null 2>&1 || "
        f"{{ printf '%s\\n' {shlex.quote(missing)} >&2; exit 1; }}; "
        "work=$(mktemp -d /run/autojoin.XXXXXX 2>/dev/null || mktemp -d); "
        'trap \'rm -rf "$work"\' EXIT; trap "exit 1" HUP INT TERM; '
        f'cd "$work"; openssl base64 -d | tar -xf -; sh "$work/{script}" {action} "$work"'
    )
    return f"sh -c {shlex.quote(body)}"


def installed_command(path: str, *arguments: str) -> str:
    """The remote command that runs an installed program; nothing where it is not installed."""
    words = shlex.join((path, *arguments))
    body = f"if [ -e {shlex.quote(path)} ]; then exec {words}; fi"
    return f"sh -c {shlex.quote(body)}"


def script(name: str, folder: Path | None = None) -> File:
    """One of the programs of `folder`; of on_host/ beside this file otherwise."""
    return File(((folder or FILES) / name).read_bytes(), 0o755)


def json_file(value: object) -> File:
    return archive.text(json.dumps(value, indent=2) + "\n")


def settings(values: Mapping[str, str]) -> File:
    """A file of assignments that sh reads."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
    return archive.text("".join(lines))


def common_files(host: AuthorityHost) -> dict[str, File]:
    """What both installers bring along."""
    return {
        "authority-host.sh": script("authority-host.sh"),
        "platform.sh": script(f"platform-{platform(host).name}.sh"),
        "probe.py": script("probe.py"),
        "as-user.py": script("as-user.py"),
    }


def common_settings(host: AuthorityHost) -> dict[str, str]:
    """What both installers need to know."""
    where = platform(host)
    packages = " ".join(f"{command}={package}" for command, package in where.packages.items())
    return {
        "address": host.address,
        # Read by nobody: a raised number is a change, so that the installers run again.
        "setup": str(host.setup),
        "path": where.path,
        "python": where.python,
        "cfssl": where.cfssl,
        "programs": where.programs,
        "configuration": where.configuration,
        "authority": where.authority,
        "gate": where.gate,
        "authority_state": where.authority_state,
        "gate_state": where.gate_state,
        "certdb": where.certdb,
        "services": where.services,
        "authority_user": where.authority_user,
        "gate_user": where.gate_user,
        "packages": packages,
        "package_command": where.package_command,
    }
