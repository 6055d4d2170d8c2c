"""BIRD 2: a whole bird.conf (bird.network.cz, BGP)."""

from __future__ import annotations

import re

from components.bgp.routers.router import Neighbor, Router, Session

FILE = "bird.conf"
_START = """\
# Written by autojoin. Where there is a bird.conf already, take the filters and what follows them.
router id {identifier};
protocol device {{ }}
"""
# The same Service comes from every node: `merge paths` spreads traffic over all of them.
_KERNEL = """\
protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
"""


def text(router: Router) -> str:
    """The whole configuration."""
    families = [
        family
        for family in ("ipv4", "ipv6")
        if any(family in session.families for session in router.sessions)
    ]
    parts = [_START.format(identifier=router.identifier)]
    if router.external:
        parts.append("# External IPs are advertised too: add their networks to the filters.\n")
    parts += [_KERNEL.format(family=family) for family in families]
    for session in router.sessions:
        parts += [_filter(session, family) for family in session.families]
        parts.append(_template(router, session))
        parts += [_protocol(session, neighbor) for neighbor in session.neighbors]
    return "\n".join(parts)


def _name(*words: str) -> str:
    """An identifier: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]", "_", "_".join(words))


def _filter(session: Session, family: str) -> str:
    accepted = session.accepted_of("ipv6" if family == "ipv6" else "ipv4")
    networks = [f"{each.network}{{{each.shortest},{each.longest}}}" for each in accepted]
    test = f"if net ~ [ {', '.join(networks)} ] then accept;" if networks else ""
    lines = [f"filter {_name(session.name, family)} {{", f"  {test}", "  reject;", "}"]
    return "\n".join(line for line in lines if line.strip()) + "\n"


def _template(router: Router, session: Session) -> str:
    lines = [
        f"template bgp {_name(session.name)} {{",
        f"  local {router.address} port {router.port} as {router.asn};",
        f"  hold time {session.hold_seconds};",
        f"  keepalive time {session.keep_alive_seconds};",
        "  passive on;  # the nodes connect; they need not listen",
    ]
    if session.multihop is not None:
        lines.append(f"  multihop {session.multihop};")
    if session.password is not None:
        lines.append(f'  password "{session.password}";')
    if session.graceful_restart is not None:
        lines.append("  graceful restart aware;")
    lines += [
        f"  {family} {{ import filter {_name(session.name, family)}; export none; }};"
        for family in session.families
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _protocol(session: Session, neighbor: Neighbor) -> str:
    name = _name(session.name, neighbor.name)
    kind = "range " if neighbor.is_network else ""
    own = f'  dynamic name "{name}_";\n' if neighbor.is_network else ""
    return (
        f"protocol bgp {name} from {_name(session.name)} {{\n"
        f"  neighbor {kind}{neighbor.address} as {neighbor.asn};\n{own}}}\n"
    )
