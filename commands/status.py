"""How a stack's workers stand: `python -m commands.status STACK`.

Asks the join gate (over SSH to the CA host) how far each worker came, and the API server which
Nodes are Ready, and how Cilium's agents, DNS, BGP sessions, pools and load balancer addresses are.
Exit status: 0 all Ready and well; 1 something is not; 2 the join gate could not be asked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commands import bgp_status
from commands.stack_lab import open_lab
from components import from_lab
from components.certificate_authority import lifetime
from components.join_gate import installation as join_gate
from components.shell import kubectl, ssh
from stack.models import Lab
from stack.problem import ConfigError
from tools import install as tools
from tools.errors import LabError, tell
from tools.pins import CHECKOUT, Layout

_HEADINGS = ("NAME", "HARDWARE", "ADDRESS", "GENERATION", "JOIN", "READY", "LAST WORD")
_UNKNOWN = "unknown"


class StatusError(Exception):
    """Why there is nothing to show, as a line for a person."""


@dataclass(frozen=True)
class Line:
    """One worker. `join` is its last phase and how that stands; `ready` is the Node's condition.

    `generation` is the one that the gate has registered, None where it has none of that name.
    `renews` is whether its certificate is renewed as it should be.
    """

    name: str
    hardware: str
    address: str
    generation: int | None
    join: str
    ready: str
    word: str
    at: str | None
    renews: bool = True

    @property
    def fine(self) -> bool:
        return self.renews and (
            self.ready == "True" or (self.ready == _UNKNOWN and self.join == "joined")
        )


def registered(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the gate says of each node that it has registered, by name. Warns of a CA that ends."""
    authority = lab.certificate_authority
    command = join_gate.status_command(from_lab.authority_host(authority))
    try:
        answer = json.loads(ssh.run(authority.host, command))
        nodes = {node["node"]: node for node in answer["nodes"]}
    except ssh.SshError as error:
        raise StatusError(f"the join gate can't be asked: {error}") from None
    except (ValueError, LookupError, TypeError):
        raise StatusError(
            f"the join gate on {authority.host.address}: its answer is not understood"
        ) from None
    now, hours = datetime.datetime.now(datetime.UTC), authority.node_certificate_hours
    if ending := lifetime.warning(answer.get("authority", ""), hours, now):
        print(f"autojoin: warning: {ending}", file=sys.stderr)
    if replacing := lifetime.replacement(nodes):
        print(f"autojoin: {replacing}", file=sys.stderr)
    return nodes


def ready(lab: Lab) -> tuple[dict[str, str], str]:
    """Node name to the status of its Ready condition; and why it could not be had, or nothing."""
    try:
        return kubectl.readiness(lab.cluster.kubeconfig), ""
    except kubectl.KubectlError as error:
        return {}, str(error)


def lines(
    lab: Lab, nodes: dict[str, dict[str, Any]], readiness: dict[str, str] | None
) -> list[Line]:
    """A line for each worker of the stack, then for what else the gate has registered.

    `readiness` is None where the API server could not be asked.
    """
    names = [*lab.workers, *(name for name in nodes if name not in lab.workers)]
    return [line(name, lab, nodes.get(name), readiness) for name in names]


def line(
    name: str, lab: Lab, node: dict[str, Any] | None, readiness: dict[str, str] | None
) -> Line:
    worker = lab.workers.get(name)
    join, word = joining(node)
    if worker is None:
        word = "not in the stack file; the next `up` removes it"
    elif node and node["generation"] != worker.generation:
        word = f"the stack file has generation {worker.generation}; `up` makes it so"
    fault = lifetime.renewal_fault(node or {}, datetime.datetime.now(datetime.UTC))
    at = node and node.get("at")
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC) if at else None
    return Line(
        name=name,
        hardware=worker.hardware if worker else "",
        address=", ".join(worker.addresses if worker else node["addresses"] if node else []),
        generation=node["generation"] if node else None,
        join=join,
        ready=_UNKNOWN if readiness is None else readiness.get(name, "no Node"),
        word=fault or lifetime.behind(node or {}) or word,
        renews=fault is None,
        at=moment.isoformat(timespec="seconds") if moment else None,
    )


def joining(node: dict[str, Any] | None) -> tuple[str, str]:
    """How far the join came, and what was said last."""
    if node is None:
        return "not registered", "`pulumi up` registers it"
    phase, how, word = node["phase"], node["state"], node["message"] or ""
    if (phase, how) == ("ready", "done"):
        return "joined", word
    if phase is None and node["joined"]:
        return "has its certificate", word
    if node["expired"] and not node["joined"]:
        return "expired", word or "its join key has expired; raise its generation to join it anew"
    if phase is None:
        return "waiting", "nothing heard of it yet"
    return f"{phase} {how}", word


def table(shown: list[Line]) -> str:
    rows = [_HEADINGS]
    for it in shown:
        generation = "" if it.generation is None else str(it.generation)
        rows.append((it.name, it.hardware, it.address, generation, it.join, it.ready, it.word))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m commands.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stack", help="name of the stack")
    parser.add_argument("--file", type=Path, help="its stack file, if not Pulumi.STACK.yaml")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args()
    os.environ["PATH"] = tools.search_path(Layout())
    file = given.file or CHECKOUT / f"Pulumi.{given.stack}.yaml"
    try:
        lab = open_lab(file, given.stack)
        nodes = registered(lab)
    except (ConfigError, LabError, StatusError) as error:
        tell(error)
        return 2
    readiness, trouble = ready(lab)
    shown = lines(lab, nodes, None if trouble else readiness)
    bgp = [] if trouble else bgp_status.read(lab.cluster.kubeconfig)
    if given.json:
        found = {"workers": [asdict(it) for it in shown], "apiServer": trouble or "ok"}
        print(json.dumps({**found, "bgp": [asdict(it) for it in bgp]}))
    else:
        print(table(shown))
        print("".join(f"\n{it}" for it in bgp_status.shown(bgp)), end="\n" if bgp else "")
    if trouble and not given.json:
        print(f"autojoin: the API server could not be asked: {trouble}", file=sys.stderr)
    fine = all(it.fine for it in shown if it.name in lab.workers)
    return 0 if fine and not any(it.problem for it in bgp) else 1


if __name__ == "__main__":
    sys.exit(main())
