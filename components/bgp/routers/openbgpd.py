"""OpenBGPD: a whole bgpd.conf (bgpd.conf(5))."""

from __future__ import annotations

from components.bgp.routers.router import Accepted, Neighbor, Router, Session

FILE = "bgpd.conf"


def text(router: Router) -> str:
    """The whole configuration."""
    listen = f"listen on {router.address} port {router.port}"
    lines = [
        "# Written by autojoin.",
        f"AS {router.asn}",
        f"router-id {router.identifier}",
        listen if router.port != 179 else f"listen on {router.address}",
        "",
    ]
    if router.external:
        lines.insert(1, "# External IPs are advertised too: add their networks to the sets.")
    for session in router.sessions:
        entries = [f"  {_prefix(each)}" for each in session.accepted]
        lines += [f'prefix-set "{_short(session)}" {{', *entries, "}", ""]
    for session in router.sessions:
        lines += [*_group(session), ""]
    lines += ["deny from any", "deny to any"]
    for session in router.sessions:
        if session.accepted:
            lines.append(f'allow from group "{session.name}" prefix-set "{_short(session)}"')
    return "\n".join(lines) + "\n"


def _short(session: Session) -> str:
    """A set's name is bounded to 31 characters."""
    return session.name.removeprefix("autojoin-")[:31]


def _prefix(accepted: Accepted) -> str:
    if accepted.longest == accepted.network.prefixlen:
        return str(accepted.network)
    if accepted.shortest == accepted.longest:
        return f"{accepted.network} prefixlen = {accepted.shortest}"
    return f"{accepted.network} prefixlen {accepted.shortest} - {accepted.longest}"


def _group(session: Session) -> list[str]:
    lines = [
        f'group "{session.name}" {{',
        f"  holdtime {session.hold_seconds}",
        "  passive  # the nodes connect; they need not listen",
    ]
    if session.password is not None:
        lines.append(f'  tcp md5sig password "{session.password}"')
    if session.multihop is not None:
        lines.append(f"  multihop {session.multihop}")
    if session.graceful_restart is not None:
        lines.append("  announce restart yes")
    for family in ("ipv4", "ipv6"):
        kind = "unicast" if family in session.families else "none"
        lines.append(f"  announce {'IPv4' if family == 'ipv4' else 'IPv6'} {kind}")
    for neighbor in session.neighbors:
        lines += _neighbor(neighbor)
    return [*lines, "}"]


def _neighbor(neighbor: Neighbor) -> list[str]:
    name = f'    descr "{neighbor.name}"'
    return [f"  neighbor {neighbor.address} {{", f"    remote-as {neighbor.asn}", name, "  }"]
