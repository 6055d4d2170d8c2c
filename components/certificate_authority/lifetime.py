"""How long certificates live: the CA's beside those that it signs, and nodes' beside the clock.

And whose they are, while one CA takes another one's place.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from cryptography import x509


def warning(certificate_pem: str, node_hours: int, now: datetime.datetime) -> str | None:
    """What to say of a CA that ends before a node's certificate of now would; else nothing."""
    try:
        end = x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc
    except ValueError:
        return None
    left = end - now
    if left >= datetime.timedelta(hours=node_hours):
        return None
    when = f"in {left.days} days" if left.days > 0 else "within a day"
    if left <= datetime.timedelta():
        when = "already"
    return (
        f"autojoin:certificateAuthority: the CA's certificate ends {when} "
        f"({end:%Y-%m-%d}), before a node's would (nodeCertificateHours: {node_hours}): "
        "no certificate lives longer than it does, and all nodes end with it; renew the CA before"
    )


# A node asks at two thirds of its certificate's life at the latest, and once a minute from then on.
_PATIENCE_SECONDS = 300.0


def renewal_fault(node: Mapping[str, Any], now: datetime.datetime) -> str | None:
    """What is wrong with the certificate of a node, as `gate status` has the node; else nothing."""
    begins, ends = node.get("certificateFrom"), node.get("certificateUntil")
    if begins is not None and ends is not None:
        left = ends - now.timestamp()
        when = datetime.datetime.fromtimestamp(ends, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        if left <= 0:
            return f"its certificate ended at {when}; raise its generation to join it anew"
        if left < (ends - begins) / 3 - _PATIENCE_SECONDS:
            why = node.get("trouble") or "`journalctl -u autojoin-renew` on the machine says why"
            return f"its certificate ends at {when} and is not renewed: {why}"
    return node.get("trouble")


def behind(node: Mapping[str, Any]) -> str | None:
    """What a node, as `gate status` has it, has not taken up of another CA; else nothing."""
    if not node.get("joined"):
        return None
    if not node.get("trusts", True):
        return "does not trust yet what the CA host does; it asks once an hour"
    if not node.get("ofSigner", True):
        return "has a certificate of the CA that signs no more; it renews within the hour"
    return None


def replacement(nodes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """How many nodes are behind, where any is."""
    joined = [node for node in nodes.values() if node.get("joined")]
    late = [node for node in joined if behind(node)]
    if not late:
        return None
    others = sum(not node.get("ofSigner", True) for node in joined)
    return (
        f"{len(late)} of {len(joined)} nodes have not taken up what CAs are trusted, "
        f"{others} with a certificate of the CA that signs no more; the next step of replacing it "
        "is refused until then (docs/ca.md)"
    )
