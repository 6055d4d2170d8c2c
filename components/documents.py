"""What a person reviews or carries by hand: every file of a lab, by path."""

from __future__ import annotations

from typing import Any

import yaml

from components import from_lab
from components.archive import File, text
from components.bgp import resources as bgp
from components.bgp.routers.kinds import KINDS
from components.bgp.routers.router import routers
from components.certificate_authority import installation as certificate_authority
from components.cilium import values as cilium
from components.dns import resources as dns
from components.join_gate import installation as join_gate
from components.workers import hardware_types
from stack.models import Lab


def tree(lab: Lab, secret_pem: str | None, authority_pem: str | None) -> dict[str, File]:
    """Every file by its path: `<node>/…`, `ca/…`, `cilium/…`, `dns/…`.

    `secret_pem` is the stack's join secret; without it the nodes' keys are `REDACTED`. Without
    `authority_pem` a placeholder stands for the authority's certificate.
    Raises ValueError where a value can't be rendered, and names the node.
    """
    found = {f"ca/{path}": file for path, file in authority_files(lab).items()}
    rendered = cilium_files(lab, show_passwords=secret_pem is not None)
    found |= {f"cilium/{path}": file for path, file in rendered.items()}
    settings = from_lab.dns(lab)
    if settings:
        found["dns/resources.yaml"] = _yaml(dns.resources(settings))
    for name in lab.workers:
        found |= {
            f"{name}/{path}": file
            for path, file in worker_files(lab, name, secret_pem, authority_pem).items()
        }
    return found


def worker_files(
    lab: Lab, name: str, secret_pem: str | None, authority_pem: str | None
) -> dict[str, File]:
    """Every file of one worker."""
    hardware = hardware_types.of(lab, name)
    return hardware.files(hardware.emit(secret_pem, authority_pem))


def authority_files(lab: Lab) -> dict[str, File]:
    """What goes to the CA host: scripts, configuration and service definitions, without secrets."""
    host = from_lab.authority_host(lab.certificate_authority, lab.join_gate)
    found = certificate_authority.files(host)
    gate = join_gate.files(host, allow_tls12=lab.join_gate.allow_tls12)
    for path, file in gate.items():
        assert found.setdefault(path, file) == file, f"two files of the CA host are called {path}"
    return found


def cilium_files(lab: Lab, *, show_passwords: bool = False) -> dict[str, File]:
    """The chart's values, the custom resources that follow it, and the routers' side of BGP.

    What depends on the cluster (`mode: auto`) is rendered as if it had what it needs.
    """
    secrets = bgp.secrets(lab.bgp, show=show_passwords) if lab.bgp else []
    resources = bgp.custom_resources(lab.cilium.version, lab.bgp) if lab.bgp else []
    values = cilium.helm_values(from_lab.cilium(lab))
    return {
        "values.yaml": _yaml([values]),
        "resources.yaml": _yaml([*secrets, *resources]),
        **_router_files(lab, show_passwords),
    }


def _router_files(lab: Lab, show_passwords: bool) -> dict[str, File]:
    """For each router the configuration of every kind of router: a person takes one."""
    return {
        f"router/{router.name}/{kind.FILE}": text(kind.text(router), 0o600)
        for router in routers(lab, show_passwords=show_passwords)
        for kind in KINDS
    }


def _yaml(documents: list[dict[str, Any]]) -> File:
    dumped = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
    return text(dumped if documents else "# none: the stack has no autojoin:bgp\n", 0o644)
