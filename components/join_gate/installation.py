"""The join gate on the certificate authority's host, and the registration of nodes with it."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path

from components import archive
from components.archive import File
from components.certificate_authority import cfssl
from components.certificate_authority.authority_host import (
    AuthorityHost,
    bracketed,
    common_files,
    common_settings,
    installed_command,
    json_file,
    listen_address,
    platform,
    script,
    script_command,
    settings,
)
from components.certificate_authority.platforms import Job, Platform, Service

_SCRIPT = "join-gate.sh"
FILES = Path(__file__).resolve().parent / "on_host"
_SOURCE = Path(__file__).resolve().parent / "program"
_MAIN = b"import sys\n\nfrom gate.command import main\n\nsys.exit(main(sys.argv[1:]))\n"
# The first time that a zip file can hold; real ones would change the bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def url(host: AuthorityHost) -> str:
    """Where nodes reach the gate."""
    return f"https://{bracketed(host.address)}:{host.gate_port}"


def install_command(host: AuthorityHost) -> str:
    """The remote command that sets the gate up from `install_input` on its standard input.

    Needs the certificate authority to be installed. Safe to repeat: it signs and restarts only
    where something changed.
    """
    return script_command(host, _SCRIPT)


def install_input(
    host: AuthorityHost,
    private_key_pem: str,
    certificate_request_pem: str,
    renewed: str = "",
    *,
    allow_tls12: bool = False,
) -> str:
    """Standard input for `install_command`: a base64 tar. It holds the gate's key: a secret.

    `renewed` is when the graph last had the certificate renewed; another time has it renewed.
    """
    return archive.pack(
        {
            **files(host, allow_tls12=allow_tls12),
            "tls-key.pem": archive.text(private_key_pem.strip() + "\n"),
            "request.pem": archive.text(certificate_request_pem.strip() + "\n"),
            **({"renewal": archive.text(f"{renewed}\n")} if renewed else {}),
        }
    )


def remove_command(host: AuthorityHost) -> str:
    """The remote command that removes the gate; with its state, unless nodes are in it.

    Replacing the service must not lose who may join. A destroy takes the registrations away first.
    """
    return installed_command(f"{platform(host).programs}/{_SCRIPT}", "remove", "keep-registered")


def register_command(host: AuthorityHost, name: str) -> str:
    """The remote command that admits a node, with `register_input` on its standard input."""
    return shlex.join((*_gate(platform(host)), "register", name))


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


def remove_node_command(host: AuthorityHost, name: str, identity: str) -> str:
    """The remote command that forgets a node and revokes its certificates; safe to repeat.

    Where the name is another identity's by then it does nothing.
    """
    return installed_command(*_gate(platform(host)), "remove", name, identity)


def await_command(host: AuthorityHost) -> str:
    """The remote command that follows the joins of `await_input`'s nodes, all at once.

    It fails with the cause of each that failed; its last line is JSON of those that are Ready:
    `{NAME: {"readySeconds": …, "phases": {PHASE: seconds}}}`.
    """
    return shlex.join((*_gate(platform(host)), "await"))


def await_input(nodes: Mapping[str, tuple[str, int]]) -> str:
    """Standard input for `await_command`: the identity of each node, and seconds to wait."""
    wanted = {
        name: {"identity": identity, "seconds": seconds}
        for name, (identity, seconds) in sorted(nodes.items())
    }
    return json.dumps({"nodes": wanted})


def status_command(host: AuthorityHost) -> str:
    """The remote command that prints, as JSON, every registered node and how far its join came."""
    return shlex.join((*_gate(platform(host)), "status"))


def revoked_command(host: AuthorityHost) -> str:
    """The remote command that prints which certificates of nodes are revoked and still live.

    `revoked_input` on its standard input is not read: it is there so that the command runs again
    when the workers changed.
    """
    return shlex.join((*_gate(platform(host)), "revoked"))


def revoked_input(identities: Mapping[str, str]) -> str:
    """Standard input for `revoked_command`."""
    return json.dumps(dict(sorted(identities.items())))


def _gate(where: Platform) -> tuple[str, ...]:
    """The words with which one of the gate's commands begins."""
    return (f"{where.programs}/gate", "--settings", f"{where.gate}/gate.json")


def program(python: str) -> bytes:
    """The gate as one executable file: a zip of its modules behind an interpreter line.

    Stored, not compressed: compressors differ between machines, and the same source must give the
    same bytes everywhere.
    """
    buffer = io.BytesIO(f"#!{python} -I\n".encode())
    buffer.seek(0, io.SEEK_END)
    sources = {f"gate/{path.name}": path.read_bytes() for path in _SOURCE.glob("*.py")}
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as bundle:
        for name, content in sorted({**sources, "__main__.py": _MAIN}.items()):
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever this runs on
            bundle.writestr(entry, content)
    return buffer.getvalue()


def files(host: AuthorityHost, *, allow_tls12: bool = False) -> dict[str, File]:
    """Every file that goes to the host, but for the gate's key and certificate request."""
    where = platform(host)
    gate_json = gate_settings(host, where, allow_tls12=allow_tls12)
    values = {
        **common_settings(host),
        "health_url": f"{url(host)}/healthz",
        "gate_port": str(host.gate_port),
    }
    return {
        _SCRIPT: script(_SCRIPT, FILES),
        **common_files(host),
        "join-gate.env": settings(values),
        "gate": File(program(where.python), 0o755),
        "gate.json": json_file(gate_json),
        **where.service_files(gate_service(where)),
        **where.job_files(renewal_job(where)),
    }


def gate_settings(
    host: AuthorityHost, where: Platform, *, allow_tls12: bool = False
) -> dict[str, str | int]:
    """gate.json; program/settings.py reads it."""
    return {
        "listen": listen_address(host),
        "port": host.gate_port,
        "minimumTls": "1.2" if allow_tls12 else "1.3",
        "certificate": f"{where.gate}/tls.pem",
        "key": f"{where.gate}/tls-key.pem",
        "authority": f"{where.gate}/ca.pem",
        "trust": f"{where.gate}/trust.signed",
        "database": f"{where.gate_state}/gate.sqlite",
        "user": where.gate_user,
        "upstreamHost": cfssl.ADDRESS,
        "upstreamPort": cfssl.PORT,
        "upstreamKey": f"{where.gate}/upstream.key",
        "nodeCertificateHours": host.node_certificate_hours,
        "authorityUser": where.authority_user,
        "certificateDatabase": f"{where.authority}/db.json",
        "cfssl": where.cfssl,
        "responderPort": host.responder_port,
    }


def gate_service(where: Platform) -> Service:
    return Service(
        name="join-gate",
        description="autojoin's join gate, in front of CFSSL",
        user=where.gate_user,
        # By its interpreter: so the process has the same name on every platform.
        command=(where.python, "-I", *_gate(where), "serve"),
        state=where.gate_state,
        after=("cfssl",),
        open_files=4096,
    )


def renewal_job(where: Platform) -> Job:
    return Job(
        name="join-gate-renew",
        description="renewal of the join gate's certificate, when due",
        user="root",
        command=(f"{where.programs}/{_SCRIPT}", "renew"),
        every="day",
        writes=(where.gate, where.authority_state),
    )
