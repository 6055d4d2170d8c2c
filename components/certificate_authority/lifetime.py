"""How long the CA's certificate lives, beside those that it signs."""

from __future__ import annotations

import datetime

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
