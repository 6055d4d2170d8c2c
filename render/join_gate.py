"""The join gate on the certificate authority's host, and the registration of nodes with it."""

from __future__ import annotations

import io
import ipaddress
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path

from render import archive, cfssl, systemd
from render.archive import File
from render.authority_host import (
    LINUX,
    AuthorityHost,
    Platform,
    common_settings,
    installed_command,
    platform,
    script,
    script_command,
    settings,
)

PORT = 8443
_SCRIPT = "join-gate.sh"
_SOURCE = Path(__file__).resolve().parent.parent / "gate"
_INTERPRETER = b"#!/usr/bin/python3 -I\n"
_MAIN = b"import sys\n\nfrom gate.command import main\n\nsys.exit(main(sys.argv[1:]))\n"
# The first time that a zip file can hold; real ones would change the bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
# Until the platforms differ in it, commands about nodes need not know the host.
_GATE = f"{LINUX.programs}/gate"


def url(host: AuthorityHost) -> str:
    """Where nodes reach the gate."""
    try:
        bracketed = f"[{host.address}]" if ipaddress.ip_address(host.address).version == 6 else ""
    except ValueError:
        bracketed = ""
    return f"https://{bracketed or host.address}:{PORT}"


def install_command(host: AuthorityHost) -> str:
    """The remote command that sets the gate up from `install_input` on its standard input.

    Needs the certificate authority to be installed. Safe to repeat: it signs and restarts only
    where something changed.
    """
    platform(host)
    return script_command(_SCRIPT)


def install_input(host: AuthorityHost, private_key_pem: str, certificate_request_pem: str) -> str:
    """Standard input for `install_command`: a base64 tar. It holds the gate's key: a secret."""
    return archive.pack(
        {
            **files(host),
            "tls-key.pem": archive.text(private_key_pem.strip() + "\n"),
            "request.pem": archive.text(certificate_request_pem.strip() + "\n"),
        }
    )


def remove_command(host: AuthorityHost) -> str:
    """The remote command that stops the gate and removes it with its state."""
    return installed_command(f"{platform(host).programs}/{_SCRIPT}", "remove")


def register_command(name: str) -> str:
    """The remote command that admits a node, with `register_input` on its standard input."""
    return shlex.join((_GATE, "register", name))


def register_input(
    name: str,
    addresses: list[str],
    generation: int,
    identity: str,
    join_key: str,
    status_token: str,
    life_hours: int = 24,
) -> str:
    """Standard input for `register_command`. It holds the node's join key: a secret."""
    return json.dumps(
        {
            "node": name,
            "addresses": addresses,
            "generation": generation,
            "identity": identity,
            "joinKey": join_key,
            "statusToken": status_token,
            "lifeHours": life_hours,
        }
    )


def remove_node_command(name: str) -> str:
    """The remote command that forgets a node and revokes its certificates; safe to repeat."""
    return installed_command(_GATE, "remove", name)


def revoked_command() -> str:
    """The remote command that prints which certificates of nodes are revoked and still live.

    `revoked_input` on its standard input is not read: it is there so that the command runs again
    when the workers changed.
    """
    return shlex.join((_GATE, "revoked"))


def revoked_input(generations: Mapping[str, int]) -> str:
    """Standard input for `revoked_command`."""
    return json.dumps(dict(sorted(generations.items())))


def program() -> bytes:
    """The gate as one executable file: a zip of its modules behind an interpreter line.

    Stored, not compressed: compressors differ between machines, and the same source must give the
    same bytes everywhere.
    """
    buffer = io.BytesIO(_INTERPRETER)
    buffer.seek(0, io.SEEK_END)
    sources = {f"gate/{path.name}": path.read_bytes() for path in _SOURCE.glob("*.py")}
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as bundle:
        for name, content in sorted({**sources, "__main__.py": _MAIN}.items()):
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever this runs on
            bundle.writestr(entry, content)
    return buffer.getvalue()


def files(host: AuthorityHost) -> dict[str, File]:
    """Every file that goes to the host, but for the gate's key and certificate request."""
    where = platform(host)
    values = {
        **common_settings(host),
        "port": str(PORT),
        "health_url": f"https://{host.address}:{PORT}/healthz",
    }
    return {
        _SCRIPT: script(_SCRIPT),
        "authority-host.sh": script("authority-host.sh"),
        "probe.py": script("probe.py"),
        "join-gate.env": settings(values),
        "gate": File(program(), 0o755),
        "gate.json": archive.text(json.dumps(gate_settings(host, where), indent=2) + "\n"),
        "join-gate.service": archive.text(_unit(where)),
        "join-gate-renew.service": archive.text(_renewal(where)),
        "join-gate-renew.timer": archive.text(_RENEWAL_TIMER),
    }


def gate_settings(host: AuthorityHost, where: Platform) -> dict[str, str | int]:
    """gate.json; gate/settings.py reads it."""
    return {
        "listen": "::",
        "port": PORT,
        "certificate": f"{where.gate}/tls.pem",
        "key": f"{where.gate}/tls-key.pem",
        "authority": f"{where.gate}/ca.pem",
        "database": f"{where.gate_state}/gate.sqlite",
        "user": where.gate_user,
        "upstreamHost": cfssl.ADDRESS,
        "upstreamPort": cfssl.PORT,
        "upstreamKey": f"{where.gate}/upstream.key",
        "nodeCertificateHours": host.node_certificate_hours,
        "authorityUser": where.authority_user,
        "certificateDatabase": f"{where.authority}/db.json",
        "cfssl": where.cfssl,
    }


def _unit(where: Platform) -> str:
    return systemd.unit(
        {
            "Unit": {
                "Description": "autojoin's join gate, in front of CFSSL",
                "After": "network.target cfssl.service",
                "Wants": "cfssl.service",
            },
            "Service": {
                "User": where.gate_user,
                "Group": where.gate_user,
                "ExecStart": shlex.join(
                    (f"{where.programs}/gate", "--settings", f"{where.gate}/gate.json", "serve")
                ),
                "StateDirectory": "join-gate",
                "StateDirectoryMode": "0700",
                "WorkingDirectory": where.gate_state,
                "Restart": "on-failure",
                "RestartSec": "1",
                "TimeoutStopSec": "15",
                "LimitNOFILE": "4096",
                **systemd.HARDENED,
            },
            "Install": {"WantedBy": "multi-user.target"},
        }
    )


def _renewal(where: Platform) -> str:
    return systemd.unit(
        {
            "Unit": {"Description": "renewal of the join gate's certificate, when due"},
            "Service": {
                "Type": "oneshot",
                "ExecStart": shlex.join((f"{where.programs}/{_SCRIPT}", "renew")),
            },
        }
    )


_RENEWAL_TIMER = systemd.unit(
    {
        "Unit": {"Description": "daily look at the join gate's certificate"},
        "Timer": {"OnCalendar": "daily", "RandomizedDelaySec": "1h", "Persistent": "true"},
        "Install": {"WantedBy": "timers.target"},
    }
)
