"""The certificate authority's host: CFSSL on the loopback, with its certdb and its service."""

from __future__ import annotations

import json
import shlex

from render import archive, cfssl, systemd
from render.archive import File
from render.authority_host import (
    AuthorityHost,
    NotImplementedYet,
    Platform,
    common_settings,
    installed_command,
    platform,
    script,
    script_command,
    settings,
)

__all__ = [
    "AuthorityHost",
    "NotImplementedYet",
    "files",
    "install_command",
    "install_input",
    "remove_command",
]

_SCRIPT = "certificate-authority.sh"


def install_command(host: AuthorityHost) -> str:
    """The remote command that sets CFSSL up from `install_input` on its standard input.

    Its standard output is exactly the CA's certificate in PEM. Safe to repeat: it restarts CFSSL
    only where something changed.
    """
    _check_source(host)
    platform(host)
    return script_command(_SCRIPT)


def install_input(host: AuthorityHost) -> str:
    """Standard input for `install_command`: a base64 tar without secrets."""
    return archive.pack(files(host))


def remove_command(host: AuthorityHost) -> str:
    """The remote command that stops CFSSL and removes it; the certdb and the CA's pair stay."""
    return installed_command(f"{platform(host).programs}/{_SCRIPT}", "remove")


def files(host: AuthorityHost) -> dict[str, File]:
    """Every file that goes to the host."""
    _check_source(host)
    where = platform(host)
    values = {
        **common_settings(host),
        "source_certificate": host.certificate,
        "source_key": host.key,
        "info_url": f"http://{cfssl.ADDRESS}:{cfssl.PORT}/api/v1/cfssl/info",
    }
    configuration = cfssl.configuration(
        gate_key=f"{where.authority}/gate.key",
        operator_key=f"{where.authority}/operator.key",
        node_certificate_hours=host.node_certificate_hours,
    )
    return {
        _SCRIPT: script(_SCRIPT),
        "authority-host.sh": script("authority-host.sh"),
        "probe.py": script("probe.py"),
        "certificate-authority.env": settings(values),
        "config.json": _json(configuration),
        "db.json": _json(cfssl.database(where.certdb)),
        "certdb.sql": archive.text(cfssl.SCHEMA),
        "cfssl.service": archive.text(_unit(where)),
    }


def _check_source(host: AuthorityHost) -> None:
    if host.source != "existing":
        raise NotImplementedYet(
            f"certificateAuthority.source: {host.source} is not implemented yet; "
            "use existing, with certificate and key as paths on the host"
        )


def _json(value: object) -> File:
    return archive.text(json.dumps(value, indent=2) + "\n")


def _unit(where: Platform) -> str:
    command = cfssl.serve_command(
        where.cfssl,
        certificate=f"{where.authority}/ca.pem",
        key=f"{where.authority}/ca-key.pem",
        configuration=f"{where.authority}/config.json",
        database=f"{where.authority}/db.json",
    )
    return systemd.unit(
        {
            "Unit": {
                "Description": "CFSSL, the cluster's certificate authority (loopback only)",
                "After": "network.target",
            },
            "Service": {
                "User": where.authority_user,
                "Group": where.authority_user,
                "ExecStart": shlex.join(command),
                "StateDirectory": "cfssl",
                "StateDirectoryMode": "0700",
                "WorkingDirectory": where.authority_state,
                "Restart": "on-failure",
                "RestartSec": "1",
                **systemd.HARDENED,
            },
            "Install": {"WantedBy": "multi-user.target"},
        }
    )
