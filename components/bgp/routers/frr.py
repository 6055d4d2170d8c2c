"""FRR: the lines of frr.conf, bgpd's part (docs.frrouting.org, BGP)."""

from __future__ import annotations

from components.bgp.routers.router import Accepted, Neighbor, Router, Session

FILE = "frr.conf"
STANDARD_PORT = 179


def text(router: Router) -> str:
    """The configuration, to be merged into a router's own."""
    lines = ["! Written by autojoin. In /etc/frr/daemons: bgpd=yes", "frr defaults traditional"]
    if router.port != STANDARD_PORT:
        lines[0] += f', and "-p {router.port}" in bgpd_options'
    for session in router.sessions:
        lines += [line for family in session.families for line in _lists(session, family)]
    lines += ["!", f"router bgp {router.asn}", f" bgp router-id {router.identifier}"]
    lines += [" no bgp default ipv4-unicast"]
    if any(session.graceful_restart for session in router.sessions):
        # By RFC 8538 the routes of a node that lost its power would stay for the whole restart time
        # after its hold time; it is for agents that restart, which say nothing at their end.
        lines += [" bgp graceful-restart", " no bgp graceful-restart notification"]
    for session in router.sessions:
        lines += _group(session)
    for family in ("ipv4", "ipv6"):
        members = [each for each in router.sessions if family in each.families]
        lines += [" !", f" address-family {family} unicast"] if members else []
        for session in members:
            lines += [
                f"  neighbor {session.name} activate",
                f"  neighbor {session.name} route-map {session.name}-{family} in",
                f"  neighbor {session.name} route-map autojoin-nothing out",
            ]
        # The same Service comes from every node: traffic is spread over all of them.
        lines += ["  maximum-paths 64", " exit-address-family"] if members else []
    lines += ["exit", "!", "route-map autojoin-nothing deny 10", "exit", "!"]
    if router.external:
        lines.insert(1, "! External IPs are advertised too: add their networks to the lists.")
    return "\n".join(lines) + "\n"


def _lists(session: Session, family: str) -> list[str]:
    """What is accepted: a prefix list, and the route map that applies it."""
    word, name = ("ip" if family == "ipv4" else "ipv6"), f"{session.name}-{family}"
    accepted = session.accepted_of("ipv6" if family == "ipv6" else "ipv4")
    lines = ["!"]
    for number, each in enumerate(accepted, start=1):
        lines.append(f"{word} prefix-list {name} seq {5 * number} permit {_prefix(each)}")
    if not accepted:
        lines.append(f"{word} prefix-list {name} seq 5 deny any")
    return [
        *lines,
        f"route-map {name} permit 10",
        f" match {word} address prefix-list {name}",
        "exit",
    ]


def _prefix(accepted: Accepted) -> str:
    lengths = ""
    if accepted.shortest > accepted.network.prefixlen:
        lengths += f" ge {accepted.shortest}"
    if accepted.longest > accepted.network.prefixlen:
        lengths += f" le {accepted.longest}"
    return f"{accepted.network}{lengths}"


def _group(session: Session) -> list[str]:
    name = session.name
    lines = [
        f" neighbor {name} peer-group",
        f" neighbor {name} timers {session.keep_alive_seconds} {session.hold_seconds}",
        # The nodes connect; they need not listen.
        f" neighbor {name} passive",
    ]
    if session.password is not None:
        lines.append(f" neighbor {name} password {session.password}")
    if session.multihop is not None:
        lines.append(f" neighbor {name} ebgp-multihop {session.multihop}")
    for neighbor in session.neighbors:
        lines += _neighbor(session, neighbor)
    return lines


def _neighbor(session: Session, neighbor: Neighbor) -> list[str]:
    if neighbor.is_network:
        return [
            f" neighbor {session.name} remote-as {neighbor.asn}",
            f" bgp listen range {neighbor.address} peer-group {session.name}",
        ]
    return [
        f" neighbor {neighbor.address} remote-as {neighbor.asn}",
        f" neighbor {neighbor.address} peer-group {session.name}",
        f" neighbor {neighbor.address} description {neighbor.name}",
    ]
