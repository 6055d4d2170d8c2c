"""The certificate authority's host: what differs between platforms, and how commands get there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from render import archive
from render.archive import File

FILES = Path(__file__).resolve().parent / "files"


class NotImplementedYet(ValueError):
    """A setting that the design knows and this version does not serve yet."""


@dataclass(frozen=True)
class AuthorityHost:
    """The host as the stack configures it. `certificate` and `key` are paths on it."""

    platform: str
    address: str
    source: str
    certificate: str
    key: str
    subject: dict[str, str]
    node_certificate_hours: int


@dataclass(frozen=True)
class Platform:
    """Where things lie on one platform, and how its packages are named.

    `packages` gives the package for each needed command (`python3:module` for a Python module).
    """

    name: str
    cfssl: str
    programs: str
    configuration: str
    authority_state: str
    gate_state: str
    units: str
    authority_user: str
    gate_user: str
    package_command: str
    packages: Mapping[str, str]

    @property
    def authority(self) -> str:
        """The folder of CFSSL's configuration."""
        return f"{self.configuration}/cfssl"

    @property
    def gate(self) -> str:
        """The folder of the join gate's configuration."""
        return f"{self.configuration}/join-gate"

    @property
    def certdb(self) -> str:
        return f"{self.authority_state}/certdb.sqlite"


LINUX = Platform(
    name="linux",
    cfssl="/usr/bin/cfssl",
    programs="/usr/local/lib/autojoin",
    configuration="/etc/autojoin",
    authority_state="/var/lib/cfssl",
    gate_state="/var/lib/join-gate",
    units="/etc/systemd/system",
    authority_user="cfssl",
    gate_user="join-gate",
    package_command="apt-get install --yes",
    packages={
        "/usr/bin/cfssl": "golang-cfssl",
        "sqlite3": "sqlite3",
        "openssl": "openssl",
        "useradd": "passwd",
        "runuser": "util-linux",
        "systemctl": "systemd",
        "/usr/bin/python3": "python3",
        "python3:cryptography": "python3-cryptography",
    },
)

_PLATFORMS = {"linux": LINUX}


def platform(host: AuthorityHost) -> Platform:
    """The host's platform; NotImplementedYet names one that is not served yet."""
    found = _PLATFORMS.get(host.platform)
    if found is None:
        raise NotImplementedYet(
            f"certificateAuthority.platform: {host.platform} is not implemented yet; "
            f"use {' or '.join(_PLATFORMS)}"
        )
    return found


def script_command(script: str) -> str:
    """The remote command that unpacks its standard input and runs `script install` from it.

    Wrapped in `sh -c`, for the login shell may be another; the work folder is memory-backed where
    the host has one, since the files may hold a private key.
    """
    body = (
        "set -eu; umask 077; "
        "work=$(mktemp -d /run/autojoin.XXXXXX 2>/dev/null || mktemp -d); "
        'trap \'rm -rf "$work"\' EXIT; trap "exit 1" HUP INT TERM; '
        f'base64 -d | tar -xf - -C "$work"; sh "$work/{script}" install "$work"'
    )
    return f"sh -c {shlex.quote(body)}"


def installed_command(path: str, *arguments: str) -> str:
    """The remote command that runs an installed program; nothing where it is not installed."""
    words = shlex.join((path, *arguments))
    body = f"if [ -e {shlex.quote(path)} ]; then exec {words}; fi"
    return f"sh -c {shlex.quote(body)}"


def script(name: str) -> File:
    """One of the shell programs of render/files."""
    return File((FILES / name).read_bytes(), 0o755)


def settings(values: Mapping[str, str]) -> File:
    """A file of assignments that sh reads."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
    return archive.text("".join(lines))


def common_settings(host: AuthorityHost) -> dict[str, str]:
    """What both installers need to know."""
    where = platform(host)
    packages = " ".join(f"{command}={package}" for command, package in where.packages.items())
    return {
        "address": host.address,
        "cfssl": where.cfssl,
        "programs": where.programs,
        "configuration": where.configuration,
        "authority": where.authority,
        "gate": where.gate,
        "authority_state": where.authority_state,
        "gate_state": where.gate_state,
        "certdb": where.certdb,
        "units": where.units,
        "authority_user": where.authority_user,
        "gate_user": where.gate_user,
        "packages": packages,
        "package_command": where.package_command,
    }
