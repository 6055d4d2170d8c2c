"""Cross-checks: what is wrong between keys that are each right by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from components import network_checks
from components.bgp import checks as bgp_checks
from components.certificate_authority import cfssl
from components.cilium import checks as cilium_checks
from components.cilium import version_checks
from components.dns import checks as dns_checks
from components.workers import checks as worker_checks
from stack.models import Lab, pem
from stack.problem import Problem, key_path


def problems(lab: Lab) -> list[Problem]:
    """Every problem of `lab`, in the order of the sections."""
    return [
        *network_checks.problems(lab),
        *version_checks.problems(lab),
        *_authority(lab),
        *_api_server_authority(lab),
        *_packages(lab),
        *_hosts(lab),
        *_ports(lab),
        *cilium_checks.problems(lab),
        *bgp_checks.problems(lab),
        *dns_checks.problems(lab),
        *_registries(lab),
        *worker_checks.problems(lab, network_checks.taken(lab)),
    ]


def warnings(lab: Lab) -> list[Problem]:
    """What may be meant, but is seldom; nothing of it stops `pulumi up`."""
    return [
        *network_checks.warnings(lab),
        *version_checks.warnings(lab),
        *cilium_checks.warnings(lab),
        *bgp_checks.warnings(lab),
        *worker_checks.warnings(lab),
        *lab.missing_files,
        *_unused(lab),
    ]


def _authority(lab: Lab) -> Iterator[Problem]:
    authority = lab.certificate_authority
    if authority.source == "existing":
        for name, path in (("certificate", authority.certificate), ("key", authority.key)):
            if path is None:
                yield Problem(
                    f"autojoin:certificateAuthority.{name}",
                    "is required with source: existing",
                    hint="the absolute path on the CA host",
                )
    if authority.also is not None:
        for name in ("certificate", "key"):
            path = getattr(authority.also, name)
            if path == getattr(authority, name):
                problem = "is that of the CA that signs"
                hint = "name the other one's pair, or leave also out"
                yield Problem(f"autojoin:certificateAuthority.also.{name}", problem, path, hint)


def _api_server_authority(lab: Lab) -> Iterator[Problem]:
    given = lab.cluster.api_server_certificate_authority
    whose = "the API server's; kubeadm's is /etc/kubernetes/pki/ca.crt"
    yield from _pinned("autojoin:cluster.apiServerCertificateAuthority", given, whose)


def _packages(lab: Lab) -> Iterator[Problem]:
    key, given = "autojoin:cluster.packages.key", lab.cluster.packages.key
    if lab.cluster.packages.fingerprint:
        return
    hint = "give the key's fingerprint, the key itself, or its path"
    text = _public(key, given, hint, "give the public one alone")
    if isinstance(text, Problem):
        yield text
    elif "-----BEGIN PGP PUBLIC KEY BLOCK-----" not in text:
        hint = "give what `gpg --armor --export` writes, or the key's fingerprint"
        yield Problem(key, "is no armored public key", _shown(given), hint)


def _registries(lab: Lab) -> Iterator[Problem]:
    for name, registry in lab.registries.items():
        key = key_path(("registries", name))
        given = None if registry.lacks_authority else registry.ca
        yield from _pinned(f"{key}.ca", given, "the registry's certificate")
        if (registry.user is None) != (registry.password is None):
            lacking = "password" if registry.password is None else "user"
            yield Problem(f"{key}.{lacking}", "is missing beside the other", hint="give both")
        if name == "default" and not registry.mirrors:
            hint = "name the registry whose images it is about, or give mirrors"
            yield Problem(f"{key}.mirrors", "is empty", hint=hint)


def _pinned(key: str, given: str | None, whose: str) -> Iterator[Problem]:
    """What nodes pin must be certificates of CAs, and no secret."""
    if given is None:
        return
    from cryptography import x509  # for these keys alone: it takes as long as all the rest

    text = _public(key, given, "give PEM, or a path", "give the certificate alone")
    if isinstance(text, Problem):
        yield text
        return
    try:
        found = x509.load_pem_x509_certificates(text.encode())
        constraints = [it.extensions.get_extension_for_class(x509.BasicConstraints) for it in found]
        right = all(it.value.ca for it in constraints)
    except (ValueError, x509.ExtensionNotFound):
        right = False
    if not right:
        hint = f"give that of the CA that signed {whose}"
        yield Problem(key, "is no CA's certificate in PEM", _shown(given), hint)


def _public(key: str, given: str, hint: str, alone: str) -> str | Problem:
    """The text that a key gives, or names the file of. A problem: there is none, or a secret."""
    try:
        text = pem(given) or ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        return Problem(key, "can't be read", f"{_shown(given)}: {reason}", hint)
    if "PRIVATE KEY" in text:
        return Problem(key, "holds a private key", _shown(given), alone)
    return text


def _shown(given: str) -> str:
    """A path; nothing of what is given in the stack file itself."""
    return "" if "-----BEGIN" in given else given


def _hosts(lab: Lab) -> Iterator[Problem]:
    hosts = (lab.certificate_authority.host, *lab.provisioning.values())
    for login in (login for host in hosts for login in (host, host.jump) if login):
        if login.private_key and login.private_key_file:
            hint = "give the key itself, or its file"
            yield Problem(f"{login.where}.privateKeyFile", "stands beside privateKey", hint=hint)
    places: dict[tuple[str, int], str] = {}
    for name, host in lab.provisioning.items():
        other = places.setdefault((host.address, host.port), name)
        if other != name:
            # Each removes the machines there that it does not know.
            hint = "one entry a host: let its workers name the same provisioner"
            problem = f"is the host of autojoin:provisioning.{other} too"
            yield Problem(f"autojoin:provisioning.{name}.address", problem, host.address, hint)


def _ports(lab: Lab) -> Iterator[Problem]:
    """What listens on the CA host."""
    users = {cfssl.PORT: "CFSSL"}
    ports = {
        "autojoin:certificateAuthority.responderPort": lab.certificate_authority.responder_port,
        "autojoin:joinGate.port": lab.join_gate.port,
    }
    for key, port in ports.items():
        other = users.setdefault(port, key)
        if other != key:
            problem = f"is the port of {other} on the CA host too"
            yield Problem(key, problem, str(port), hint="give another one")


def _unused(lab: Lab) -> Iterator[Problem]:
    """Sections' entries that nothing refers to: often one of the two names is misspelt."""
    boards = {worker.bmc for worker in lab.workers.values()}
    for name in lab.boards:
        if name not in boards:
            hint = "a worker names its board with bmc"
            yield Problem(f"autojoin:boards.{name}", "is the board of no worker", hint=hint)
    users = {worker.provisioner for worker in lab.workers.values()}
    for name in lab.provisioning if len(lab.provisioning) > 1 else ():
        if name not in users:
            hint = "a worker names its host with provisioner"
            yield Problem(f"autojoin:provisioning.{name}", "feeds no worker", hint=hint)
    if not lab.workers:
        yield Problem("autojoin:workers", "has no workers", hint="the cluster will have no nodes")
