"""The certificate authority's host: CFSSL on the loopback, its certdb, and who is revoked."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from components import archive
from components.archive import File
from components.certificate_authority import cfssl
from components.certificate_authority.authority_host import (
    SUBJECT_FIELDS,
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
from components.certificate_authority.platforms import PLATFORMS, Job, Platform, Service

__all__ = [
    "AuthorityHost",
    "files",
    "install_command",
    "install_input",
    "pair_command",
    "pair_input",
    "remove_command",
]

_SCRIPT = "certificate-authority.sh"
_COMMON_NAME = "kubernetes-ca"
_AUTHORITY_HOURS = 87600


def install_command(host: AuthorityHost) -> str:
    """The remote command that sets CFSSL and the responder up from `install_input`.

    Its standard output is exactly the CA's certificate in PEM. Safe to repeat: it restarts only
    what changed, and takes back an update that does not run.
    """
    return script_command(host, _SCRIPT)


def install_input(
    host: AuthorityHost, signer_key_pem: str, signer_request_pem: str, authority_pem: str
) -> str:
    """Standard input for `install_command`: a base64 tar.

    It holds the OCSP signer's key: a secret. `authority_pem` is the CA's certificate as the graph
    gives it to nodes; where the host has another one, nothing is changed there.
    """
    return archive.pack(
        {
            **files(host),
            "ocsp-key.pem": archive.text(signer_key_pem.strip() + "\n"),
            "ocsp-request.pem": archive.text(signer_request_pem.strip() + "\n"),
            "known-ca.pem": archive.text(authority_pem.strip() + "\n"),
        }
    )


def choose_command(host: AuthorityHost) -> str:
    """The remote command that settles which CFSSL is run; tried, as everything that it needs.

    It prints what machine the host is where one must be brought, by `take_command`.
    """
    return script_command(host, _SCRIPT, "choose")


def take_command(host: AuthorityHost) -> str:
    """The remote command that puts the CFSSL of `take_input` in place, once it is tried."""
    return script_command(host, _SCRIPT, "take")


def take_input(host: AuthorityHost, program: bytes | None = None) -> str:
    """Standard input for `take_command`, and without a program for `choose_command`."""
    brought = {"brought-cfssl": File(program, 0o755)} if program else {}
    trial = {
        name: file
        for name, file in files(host).items()
        if name in ("config.json", "db.json", "certdb.sql", "certificate-authority.env", _SCRIPT)
    }
    return archive.pack(
        {**common_files(host), **trial, "try-cfssl.py": script("try-cfssl.py"), **brought}
    )


def pair_command(host: AuthorityHost) -> str:
    """The remote command that prints the CA's certificate, once its pair is found to be good.

    With source `generate` it makes the pair where there is none.
    """
    return script_command(host, _SCRIPT, "pair")


def pair_input(host: AuthorityHost) -> str:
    """Standard input for `pair_command`: a base64 tar without secrets.

    Nothing in it depends on what CFSSL is told, so that a change of that leaves it alone.
    """
    return archive.pack(
        {
            _SCRIPT: script(_SCRIPT),
            **common_files(host),
            "certificate-authority.env": settings(
                {**_settings(host), "setup": "", "disabled": "", "cfssl_release": ""}
            ),
            **_request(host),
        }
    )


def _request(host: AuthorityHost) -> dict[str, File]:
    """What a CA that is made on the host is made from."""
    if host.source != "generate":
        return {}
    names = {SUBJECT_FIELDS[field]: value for field, value in sorted(host.subject.items())}
    request = {
        "CN": _COMMON_NAME,
        "names": [names] if names else [],
        "ca": {"expiry": f"{_AUTHORITY_HOURS}h"},
    }
    return {"authority.json": json_file(request)}


def remove_command(host: AuthorityHost) -> str:
    """The remote command that stops CFSSL and removes it; the certdb and the CA's pair stay."""
    return installed_command(f"{platform(host).programs}/{_SCRIPT}", "remove")


def backup_command(host: AuthorityHost, *, keys: bool) -> str:
    """The remote command that prints a tar of the CA; with `keys` it holds every private key."""
    where = platform(host)
    program = f"{where.programs}/{_SCRIPT}"
    absent = f"{host.address}: no certificate authority of autojoin's is here ({program})"
    words = shlex.join((program, "backup", *(("keys",) if keys else ())))
    body = (
        f"if [ -e {shlex.quote(program)} ]; then exec {words}; fi; "
        f"printf '%s\\n' {shlex.quote(absent)} >&2; exit 1"
    )
    return f"sh -c {shlex.quote(body)}"


def restore_command(host: AuthorityHost) -> str:
    """The remote command that puts a backup in place from `restore_input`."""
    return script_command(host, _SCRIPT, "restore")


def restore_input(host: AuthorityHost, backup: Mapping[str, File], gate: Mapping[str, File]) -> str:
    """Standard input for `restore_command`: the backup's files, and `gate`, the join gate's."""
    kept = {f"backup/{name}": file for name, file in backup.items()}
    return archive.pack({**gate, **files(host), **kept})


def status_url(host: AuthorityHost) -> str:
    """Where anybody learns which certificates are revoked: OCSP there, the CRL at /ca.crl."""
    return f"http://{bracketed(host.address)}:{host.responder_port}"


def pair_paths(host: AuthorityHost) -> tuple[str, str]:
    """Where the CA's certificate and key lie on the host."""
    folder = platform(host).generated
    return host.certificate or f"{folder}/ca.pem", host.key or f"{folder}/ca-key.pem"


def files(host: AuthorityHost) -> dict[str, File]:
    """Every file that goes to the host, but for the OCSP signer's key and request."""
    where = platform(host)
    configuration = cfssl.configuration(
        gate_key=f"{where.authority}/gate.key",
        operator_key=f"{where.authority}/operator.key",
        node_certificate_hours=host.node_certificate_hours,
        status_url=status_url(host),
    )
    return {
        _SCRIPT: script(_SCRIPT),
        **common_files(host),
        **_request(host),
        "responder.py": script("responder.py"),
        "certificate-authority.env": settings(_settings(host)),
        "config.json": json_file(configuration),
        "db.json": json_file(cfssl.database(where.certdb)),
        "certdb.sql": archive.text(cfssl.SCHEMA),
        "responder.json": json_file(responder_settings(host, where)),
        **where.service_files(cfssl_service(where)),
        **where.service_files(responder_service(host, where)),
        **where.job_files(refresh_job(where)),
    }


def _settings(host: AuthorityHost) -> dict[str, str]:
    certificate, key = pair_paths(host)
    return {
        **common_settings(host),
        "cfssl_choice": host.cfssl,
        "own_cfssl": PLATFORMS[host.platform].cfssl,
        "cfssl_version": cfssl.VERSION,
        "cfssl_release": cfssl.release(),
        "disabled": ",".join(cfssl.DISABLED),
        "source": host.source,
        "source_certificate": certificate,
        "source_key": key,
        "also_certificate": host.also[0],
        "also_key": host.also[1],
        "info_port": str(cfssl.PORT),
        "info_url": f"http://{cfssl.ADDRESS}:{cfssl.PORT}/api/v1/cfssl/info",
        "responder_port": str(host.responder_port),
        "responder_url": f"http://127.0.0.1:{host.responder_port}",
    }


def responder_settings(host: AuthorityHost, where: Platform) -> dict[str, Any]:
    """responder.json; components/certificate_authority/on_host/responder.py reads it."""
    also = {
        "authority": f"{where.authority}/also.pem",
        "crl": f"{where.authority_state}/also.crl",
        "certificate": f"{where.authority_state}/also-ocsp.pem",
    }
    return {
        **({"also": also} if host.also[0] else {}),
        "listen": listen_address(host),
        "port": host.responder_port,
        "authority": f"{where.authority}/responder-ca.pem",
        "certdb": where.certdb,
        "crl": f"{where.authority_state}/ca.crl",
        "certificate": f"{where.authority_state}/ocsp.pem",
        "key": f"{where.authority}/ocsp-key.pem",
    }


def cfssl_service(where: Platform) -> Service:
    return Service(
        name="cfssl",
        description="CFSSL, the cluster's certificate authority (loopback only)",
        user=where.authority_user,
        command=cfssl.serve_command(
            where.cfssl,
            certificate=f"{where.authority}/ca.pem",
            key=f"{where.authority}/ca-key.pem",
            configuration=f"{where.authority}/config.json",
            database=f"{where.authority}/db.json",
        ),
        state=where.authority_state,
    )


def responder_service(host: AuthorityHost, where: Platform) -> Service:
    secrets = ("ca-key.pem", "operator.key", *(("also-key.pem",) if host.also[0] else ()))
    return Service(
        name="ocsp-responder",
        description="OCSP and CRL of the cluster's certificate authority",
        user=where.authority_user,
        command=(
            where.python,
            "-I",
            f"{where.programs}/responder.py",
            f"{where.authority}/responder.json",
        ),
        state=where.authority_state,
        hidden=tuple(f"{where.authority}/{name}" for name in secrets),
    )


def refresh_job(where: Platform) -> Job:
    return Job(
        name="revocation-refresh",
        description="a new CRL, and the OCSP signer's certificate where due",
        user=where.authority_user,
        command=(f"{where.programs}/{_SCRIPT}", "refresh"),
        every="minute",
        writes=(where.authority_state,),
    )
