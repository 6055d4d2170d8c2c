"""Draw a lab: `python -m commands.graph STACK_FILE OUT.svg`. Needs no engine, lab or network.

Above: the certificate authority and its gate, the control plane with Cilium. Then the nodes by
hardware. Below: routers and pools. The lines are those of the resource graph.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from commands.picture import Box, Card, Picture, grouped, svg
from components import from_lab
from components.load import from_stack_file
from components.workers.hardware_types import HARDWARE
from stack.models import Lab, Worker
from stack.problem import ConfigError
from tools.errors import tell


class GraphError(Exception):
    """Why nothing was drawn, as a line for a person."""


def picture(lab: Lab) -> Picture:
    """What of a lab is drawn, and where."""
    return Picture(
        title=f"{lab.cluster.name}: {_count(len(lab.workers), 'worker')}",
        authority=_authority(lab),
        control_plane=_control_plane(lab),
        groups=_groups(lab),
        network=_network(lab),
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _authority(lab: Lab) -> Box:
    authority = lab.certificate_authority
    url = from_lab.gate_url(lab)
    return Box(
        "CA host",
        f"{authority.platform}, {authority.host.address}",
        (
            Card("Certificate authority", (f"CFSSL on loopback, {authority.source}",), "trust"),
            Card("Join gate", (url.removeprefix("https://"),), "trust", hint=url),
        ),
    )


def _control_plane(lab: Lab) -> Box:
    pods, services = ", ".join(lab.cluster.pod_cidrs), ", ".join(lab.cluster.service_cidrs)
    return Box(
        "Control plane, external",
        f"Kubernetes {lab.cluster.control_plane_version or lab.cluster.kubernetes_version}",
        (
            Card("API server", (f"{lab.cluster.api_host}:{lab.cluster.api_port}",), "cluster"),
            Card(
                f"Cilium {lab.cilium.version}",
                (f"pods {pods}",),
                "cluster",
                hint=f"pods {pods}; Services {services}",
            ),
        ),
    )


def _groups(lab: Lab) -> tuple[Box, ...]:
    """The workers by hardware, and by the board or host that holds them."""
    found: dict[tuple[str, str], list[tuple[str, Worker]]] = {}
    for name, worker in lab.workers.items():
        found.setdefault((worker.hardware, _holder(lab, worker)), []).append((name, worker))
    boxes = []
    for (hardware, holder), workers in found.items():
        cards, more = grouped(_card(name, worker) for name, worker in workers)
        boxes.append(Box(f"{hardware} × {len(workers)}", holder, cards, more))
    return tuple(boxes)


def _holder(lab: Lab, worker: Worker) -> str:
    if worker.bmc:
        board = lab.boards.get(worker.bmc)
        return f"{worker.bmc}, {board.address}" if board else worker.bmc
    host = lab.provisioner(worker)
    kind = HARDWARE[worker.hardware]
    if host is None or not (worker.provisioner or kind.is_started(worker, host)):
        return ""
    name = next(name for name, each in lab.provisioning.items() if each is host)
    return f"{name}, {host.address}"


def _card(name: str, worker: Worker) -> Card:
    extra = f", slot {worker.slot}" if worker.slot else ""
    settings = worker.model_dump(exclude_none=True, by_alias=True)
    settings["address"] = ", ".join(worker.addresses)
    hints = [f"{key}: {value}" for key, value in settings.items()]
    return Card(name, (f"{settings['address']}{extra}",), "feed", hint="\n".join(hints))


def _network(lab: Lab) -> Box | None:
    if lab.bgp is None:
        return None
    routers = [
        Card(f"{peer.name}, AS {peer.asn}", (peer.address,), "network") for peer in lab.bgp.peers
    ]
    pools = [
        Card(f"pool {pool.name}", (", ".join(pool.cidrs),), "network")
        for pool in lab.bgp.load_balancer_pools
    ]
    cards, more = grouped([*routers, *pools])
    kinds = [*(["pods"] if lab.bgp.advertise.pod_cidrs else []), *lab.bgp.advertise.services]
    return Box(f"BGP, AS {lab.bgp.local_asn}", f"advertised: {', '.join(kinds)}", cards, more)


def write(path: Path, text: str) -> None:
    """Write the picture. GraphError where that can't be done."""
    if path.suffix.lower() != ".svg":
        raise GraphError(f"OUT: {path} is no .svg file; write OUT=lab.svg")
    try:
        path.write_text(text)
    except OSError as error:
        raise GraphError(f"OUT: {path} can't be written ({error.strerror})") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m commands.graph",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a Pulumi stack file")
    parser.add_argument("out", help="the SVG file to write")
    parser.add_argument("--json", action="store_true", help="say as JSON what was drawn")
    given = parser.parse_args(arguments)
    try:
        if not given.out:
            raise GraphError("OUT is empty; write OUT=lab.svg")
        found = picture(from_stack_file(given.file))
        write(Path(given.out).expanduser(), svg(found))
    except (ConfigError, GraphError) as error:
        tell(error)
        return 1
    groups = {box.title: len(box.cards) + box.more for box in found.groups}
    if given.json:
        print(json.dumps({"file": given.out, "groups": groups}, indent=2))
    else:
        print(f"{given.out}: {found.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
