"""GoBGP: a whole configuration in YAML (`gobgpd -t yaml -f …`). It installs no routes by itself."""

from __future__ import annotations

from typing import Any

import yaml

from components.bgp.routers.router import Accepted, Neighbor, Router, Session

FILE = "gobgpd.yaml"


def text(router: Router) -> str:
    """The whole configuration."""
    note = "# Written by autojoin.\n"
    if router.external:
        note += "# External IPs are advertised too: add their networks to the prefix sets.\n"
    return note + yaml.safe_dump(document(router), sort_keys=False)


def document(router: Router) -> dict[str, Any]:
    """The configuration as data."""
    sessions = router.sessions
    found: dict[str, Any] = {
        "global": {
            "config": {
                "as": router.asn,
                "router-id": router.identifier,
                "port": router.port,
                "local-address-list": [router.address],
            },
            # The same Service comes from every node.
            "use-multiple-paths": {"config": {"enabled": True}},
            "apply-policy": {
                "config": {
                    "default-import-policy": "reject-route",
                    "default-export-policy": "reject-route",
                    "import-policy-list": [session.name for session in sessions],
                }
            },
        },
        "defined-sets": {
            "prefix-sets": [
                {
                    "prefix-set-name": f"{session.name}-{family}",
                    "prefix-list": [_prefix(each) for each in session.accepted_of(family)],
                }
                for session in sessions
                for family in session.families
                if session.accepted_of(family)
            ],
            "neighbor-sets": [_neighbor_set(session) for session in sessions],
        },
        "policy-definitions": [_policy(session) for session in sessions],
    }
    fixed = [
        _neighbor(session, neighbor)
        for session in sessions
        for neighbor in session.neighbors
        if not neighbor.is_network
    ]
    if fixed:
        found["neighbors"] = fixed
    ranges = [(each, one) for each in sessions for one in each.neighbors if one.is_network]
    if ranges:
        found["peer-groups"] = [_group(session, neighbor) for session, neighbor in ranges]
        found["dynamic-neighbors"] = [
            {"config": {"prefix": neighbor.address, "peer-group": _group_name(session, neighbor)}}
            for session, neighbor in ranges
        ]
    return found


def _prefix(accepted: Accepted) -> dict[str, str]:
    lengths = f"{accepted.shortest}..{accepted.longest}"
    return {"ip-prefix": str(accepted.network), "masklength-range": lengths}


def _neighbor_set(session: Session) -> dict[str, Any]:
    addresses = [each.address for each in session.neighbors]
    return {"neighbor-set-name": session.name, "neighbor-info-list": addresses}


def _policy(session: Session) -> dict[str, Any]:
    return {
        "name": session.name,
        "statements": [
            {
                "name": f"{session.name}-{family}",
                "conditions": {
                    "match-prefix-set": {"prefix-set": f"{session.name}-{family}"},
                    "match-neighbor-set": {"neighbor-set": session.name},
                },
                "actions": {"route-disposition": "accept-route"},
            }
            for family in session.families
            if session.accepted_of(family)
        ],
    }


def _settings(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timers": {
            "config": {
                "hold-time": session.hold_seconds,
                "keepalive-interval": session.keep_alive_seconds,
            }
        },
        # The nodes connect; they need not listen.
        "transport": {"config": {"passive-mode": True}},
        "afi-safis": [
            {"config": {"afi-safi-name": f"{family}-unicast"}} for family in session.families
        ],
    }
    if session.multihop is not None:
        found["ebgp-multihop"] = {"config": {"enabled": True, "multihop-ttl": session.multihop}}
    if session.graceful_restart is not None:
        found["graceful-restart"] = {
            "config": {
                "enabled": True,
                "helper-only": True,
                "restart-time": session.graceful_restart,
            }
        }
        for family in found["afi-safis"]:
            family["mp-graceful-restart"] = {"config": {"enabled": True}}
    return found


def _neighbor(session: Session, neighbor: Neighbor) -> dict[str, Any]:
    config: dict[str, Any] = {"neighbor-address": neighbor.address, "peer-as": neighbor.asn}
    if session.password is not None:
        config["auth-password"] = session.password
    return {"config": {**config, "description": neighbor.name}, **_settings(session)}


def _group_name(session: Session, neighbor: Neighbor) -> str:
    return f"{session.name}-{neighbor.name}"


def _group(session: Session, neighbor: Neighbor) -> dict[str, Any]:
    config: dict[str, Any] = {"peer-group-name": _group_name(session, neighbor)}
    config["peer-as"] = neighbor.asn
    if session.password is not None:
        config["auth-password"] = session.password
    return {"config": config, **_settings(session)}
