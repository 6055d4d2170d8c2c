"""What runs, compared with the configuration: `python -m commands.drift STACK_FILE`.

Reads only: files, services and certificates of the CA host over SSH; nodes, custom resources and
Cilium's version by kubectl. `pulumi up` alone compares with its state, not with the world, so each
difference says what would repair it.

Exit status: 0 no difference, 1 differences, or a host that did not answer, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commands import stack_lab
from components import documents, from_lab
from components.bgp import resources as bgp
from components.certificate_authority import installation as certificate_authority
from components.certificate_authority import lifetime
from components.certificate_authority.authority_host import platform
from components.join_gate import installation as join_gate
from components.shell import kubectl, ssh
from stack.models import Host, Lab
from stack.problem import ConfigError
from tools import install as tools
from tools.errors import LabError, tell
from tools.pins import Layout

WARN_DAYS = 30
REFRESH = "`pulumi up --refresh` repairs it"
_SETUP = "raise certificateAuthority.setup, then `pulumi up`"
_SERVICES = ("cfssl", "ocsp-responder", "join-gate")


@dataclass(frozen=True)
class Difference:
    """`where`: what was found, and what the configuration says; what repairs it."""

    where: str
    found: str
    wanted: str
    repair: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found} (configured: {self.wanted}); {self.repair}"


# --- the CA host ----------------------------------------------------------------------------------


def host_script(lab: Lab) -> str:
    """What the CA host is asked, for a POSIX shell: lines of `kind`, name, value, tabs between."""
    host = from_lab.authority_host(lab.certificate_authority, lab.join_gate)
    where = platform(host)
    certificates = [certificate_authority.pair_paths(host)[0], f"{where.gate}/tls.pem"]
    lines = [
        "set -u",
        f"PATH={shlex.quote(where.path)}; export PATH",
        f"for path in {shlex.join(_host_paths(lab))}; do",
        '    [ -f "$path" ] || continue',
        "    case $path in */config.json)",
        '        printf "signing\\t%s\\t%s\\n" "$path" "$(openssl base64 -A -in "$path")"',
        "        continue ;;",
        "    esac",
        '    sum=$(openssl dgst -sha256 -r "$path") || continue',
        '    printf "file\\t%s\\t%s\\n" "$path" "${sum%% *}"',
        "done",
        f"for path in {shlex.join(certificates)}; do",
        '    end=$(openssl x509 -in "$path" -noout -enddate 2>/dev/null) || end=notAfter=missing',
        '    printf "certificate\\t%s\\t%s\\n" "$path" "${end#*=}"',
        "done",
        f"cd {shlex.quote(where.programs)} 2>/dev/null || exit 0",
        # A file that `.` does not find ends the shell.
        "[ -f ./certificate-authority.env ] && [ -f ./platform.sh ] || exit 0",
        ". ./certificate-authority.env; . ./authority-host.sh; . ./platform.sh",
        f"for name in {shlex.join(_SERVICES)}; do",
        '    state=stopped; service_running "$name" && state=running',
        '    printf "service\\t%s\\t%s\\n" "$name" "$state"',
        "done",
        f"nodes=$({join_gate.status_command(host)} | tr -d '\\n') &&",
        '    printf "gate\\tstatus\\t%s\\n" "$nodes"',
    ]
    return "\n".join([*lines, "exit 0", ""])


def _host_paths(lab: Lab) -> list[str]:
    """Where the rendered files may lie on the host: a name is in one of these folders."""
    where = platform(from_lab.authority_host(lab.certificate_authority, lab.join_gate))
    folders = (where.programs, where.authority, where.gate, where.services)
    return [f"{folder}/{name}" for folder in folders for name in documents.authority_files(lab)]


def host_differences(lab: Lab, answer: str, now: datetime.datetime) -> Iterator[Difference]:
    """What the CA host's answer says of its files, services, certificates and registrations."""
    rendered = {name: file.content for name, file in documents.authority_files(lab).items()}
    for line in answer.splitlines():
        kind, name, value = [*line.split("\t", 2), "", ""][:3]
        if kind in ("file", "signing"):
            if not _is(kind, value, rendered[name.rpartition("/")[2]]):
                yield Difference(f"CA host, {name}", "another content", "as rendered", _SETUP)
        elif kind == "service" and value != "running":
            yield Difference(f"CA host, service {name}", value, "running", _SETUP)
        elif kind == "certificate":
            yield from _certificate_life(name, value, now)
        elif kind == "gate":
            yield from _registrations(lab, json.loads(value), now)
    if not any(line.startswith("service\t") for line in answer.splitlines()):
        yield Difference("CA host", "autojoin is not installed", "CFSSL and the gate", _SETUP)


def _is(kind: str, value: str, rendered: bytes) -> bool:
    """Whether a file is as rendered, by its digest, or for CFSSL's configuration its content."""
    if kind == "signing":
        return bool(_unfitted(base64.b64decode(value)) == _unfitted(rendered))
    return value == hashlib.sha256(rendered).hexdigest()


def _unfitted(configuration: bytes) -> Any:
    """CFSSL's configuration but for what the host fits to its CA; as it is where it can't be read.

    That CA may end before nodes' certificates would, and may sign no CRL.
    """
    try:
        data = json.loads(configuration)
        signing = data["signing"]
        for profile in (signing["default"], *signing["profiles"].values()):
            for key in ("not_after", "crl_url"):
                profile.pop(key, None)
    except (ValueError, LookupError, TypeError, AttributeError):
        return configuration
    return data


def _certificate_life(path: str, end: str, now: datetime.datetime) -> Iterator[Difference]:
    where = f"CA host, {path}"
    ours = path.endswith("tls.pem")
    repair = _SETUP if ours else "a new certificate of the authority is yours to make"
    try:
        expires = datetime.datetime.strptime(end, "%b %d %H:%M:%S %Y GMT").replace(
            tzinfo=now.tzinfo
        )
    except ValueError:
        yield Difference(where, "no certificate", "a certificate", repair)
        return
    days = (expires - now).days
    if days < WARN_DAYS:
        yield Difference(where, f"{days} days left", f"at least {WARN_DAYS}", repair)


def _registrations(
    lab: Lab, status: dict[str, Any], now: datetime.datetime
) -> Iterator[Difference]:
    nodes = {node["node"]: node for node in status["nodes"]}
    for name, worker in lab.workers.items():
        where = f"join gate, {name}"
        node = nodes.get(name)
        if node is None:
            yield Difference(where, "not registered", "registered", "raise its generation")
        elif node["generation"] != worker.generation:
            found = f"generation {node['generation']}"
            yield Difference(where, found, f"generation {worker.generation}", "`pulumi up`")
        elif not node["joined"]:
            last = f"{node['phase'] or 'nothing heard'}: {node['message'] or 'no message'}"
            repair = "docs/troubleshooting.md has the phases"
            yield Difference(where, f"not joined ({last})", "joined", repair)
        elif fault := lifetime.renewal_fault(node, now):
            repair = "docs/troubleshooting.md says what to do"
            yield Difference(where, fault, "renewed at two thirds of its life", repair)
        elif late := lifetime.behind(node):
            repair = "docs/ca.md, Replace the authority"
            yield Difference(where, late, "follows the CA host", repair)
    for name in sorted(set(nodes) - set(lab.workers)):
        yield Difference(
            f"join gate, {name}", "registered", "no such worker", "`pulumi up`, or remove it there"
        )


# --- the cluster --------------------------------------------------------------------------------


def node_differences(lab: Lab, nodes: list[dict[str, Any]]) -> Iterator[Difference]:
    """What the Node objects say of versions, addresses, labels, readiness."""
    found = {item["metadata"]["name"]: item for item in nodes}
    for name, worker in lab.workers.items():
        where = f"node {name}"
        item = found.get(name)
        if item is None:
            repair = "start the machine, or raise its generation"
            yield Difference(where, "not there", "a node", repair)
            continue
        status = item.get("status", {})
        version = status.get("nodeInfo", {}).get("kubeletVersion", "").removeprefix("v")
        if version != lab.cluster.kubernetes_version:
            repair = "a running node keeps its kubelet: raise its generation"
            yield Difference(f"{where}, kubelet", version, lab.cluster.kubernetes_version, repair)
        addresses = [
            it["address"] for it in status.get("addresses", []) if it["type"] == "InternalIP"
        ]
        if not set(worker.addresses) <= set(addresses):
            repair, wanted = "raise its generation", ", ".join(worker.addresses)
            yield Difference(f"{where}, address", ", ".join(addresses) or "none", wanted, repair)
        labels = item["metadata"].get("labels", {})
        for key, value in worker.labels.items():
            if labels.get(key) != value:
                repair = f"`kubectl label node {name} {key}={value} --overwrite`"
                yield Difference(f"{where}, label {key}", labels.get(key, "none"), value, repair)
        ready = [it["status"] for it in status.get("conditions", []) if it["type"] == "Ready"]
        if ready != ["True"]:
            yield Difference(where, "not Ready", "Ready", f"`kubectl describe node {name}`")


def resource_differences(
    wanted: list[dict[str, Any]], live: dict[str, dict[str, Any]]
) -> Iterator[Difference]:
    """Custom resources that are missing or say something else; `live` by `KIND/NAME`."""
    for body in wanted:
        name = f"{body['kind']}/{body['metadata']['name']}"
        found = live.get(name)
        if not found:
            yield Difference(name, "not there", "as rendered", REFRESH)
            continue
        for path in _unlike(body["spec"], found.get("spec", {}), "spec"):
            yield Difference(name, f"{path} differs", "as rendered", REFRESH)


def _unlike(wanted: Any, found: Any, path: str) -> Iterator[str]:
    """Paths at which `found` is not what is wanted; what it has besides are defaults."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            yield from _unlike(value, found.get(key), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, pair in enumerate(zip(wanted, found, strict=True)):
            yield from _unlike(*pair, f"{path}[{index}]")
    elif wanted != found:
        yield path


def cilium_differences(secrets: list[dict[str, Any]]) -> Iterator[Difference]:
    """The deployed revision of the chart's release; Helm keeps it as a Secret."""
    revisions = [
        item["metadata"].get("labels", {})
        for item in secrets
        if item["metadata"].get("labels", {}).get("name") == "cilium"
    ]
    deployed = [labels for labels in revisions if labels.get("status") == "deployed"]
    if not deployed:
        found = (
            ", ".join(sorted({labels.get("status", "?") for labels in revisions})) or "not there"
        )
        yield Difference("Helm release cilium", found, "deployed", REFRESH)


# --- all of it ------------------------------------------------------------------------------------


def everything(lab: Lab) -> tuple[list[Difference], list[str]]:
    """Every difference, and what did not answer."""
    now = datetime.datetime.now(datetime.UTC)
    host, kubeconfig = lab.certificate_authority.host, lab.cluster.kubeconfig
    resources = bgp.custom_resources(lab.cilium.version, lab.bgp) if lab.bgp else []
    questions: list[Callable[[], Iterator[Difference]]] = [
        lambda: host_differences(lab, _asked(host, host_script(lab)), now),
        lambda: node_differences(lab, kubectl.items(kubeconfig, "nodes")),
        lambda: resource_differences(resources, _live(lab, resources)),
        lambda: cilium_differences(
            kubectl.items(kubeconfig, "secrets", "--namespace=kube-system", "--selector=owner=helm")
        ),
    ]
    found: list[Difference] = []
    silent: list[str] = []
    for question in questions:
        try:
            found += question()
        except ssh.SshError as error:
            silent.append(" ".join(str(error).split()))
        except kubectl.KubectlError as error:
            silent.append(f"{lab.cluster.api_server}: {error}")
    return found, list(dict.fromkeys(silent))


def _asked(host: Host, script: str) -> str:
    """What a shell script prints on a host; it goes there by standard input."""
    return ssh.run(host, "sh -s", stdin=script.encode()).decode(errors="replace")


def _live(lab: Lab, resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for body in resources:
        group = body["apiVersion"].partition("/")[0]
        name = body["metadata"]["name"]
        words = (f"{body['kind'].lower()}.{group}", name, "--ignore-not-found")
        for item in kubectl.items(lab.cluster.kubeconfig, *words):
            found[f"{body['kind']}/{name}"] = item
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m commands.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a Pulumi stack file")
    parser.add_argument("--json", action="store_true", help="for a program")
    given = parser.parse_args(arguments)
    os.environ["PATH"] = tools.search_path(Layout())
    try:
        found, silent = everything(stack_lab.open_lab(given.file))
    except (ConfigError, LabError) as error:
        tell(error)
        return 1
    if given.json:
        data = {"differences": [asdict(each) for each in found], "unreachable": silent}
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        for difference in found:
            print(difference)
        if not found and not silent:
            print("no difference: CA host, nodes, custom resources and Cilium are as configured")
    for line in silent:
        print(f"autojoin: not compared: {line}", file=sys.stderr)
    return 1 if found or silent else 0


if __name__ == "__main__":
    sys.exit(main())
