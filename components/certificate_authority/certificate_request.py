"""A key, the certificate request for it, and when its certificate is due: resources of the graph.

The certificate itself is signed by the CA's host.
"""

from __future__ import annotations

import pulumi
import pulumi_tls as tls


def certificate_request(
    prefix: str, common_name: str, parent: pulumi.Resource
) -> tuple[tls.PrivateKey, tls.CertRequest]:
    """An ECDSA P-256 key `PREFIX-key`, and `PREFIX-request` for a certificate of `common_name`."""
    options = pulumi.ResourceOptions(parent=parent)
    key = tls.PrivateKey(f"{prefix}-key", algorithm="ECDSA", ecdsa_curve="P256", opts=options)
    request = tls.CertRequest(
        f"{prefix}-request",
        private_key_pem=key.private_key_pem,
        subject=tls.CertRequestSubjectArgs(common_name=common_name),
        opts=options,
    )
    return key, request


def renewal(
    prefix: str, common_name: str, key: tls.PrivateKey, hours: int, parent: pulumi.Resource
) -> pulumi.Output[str]:
    """When a certificate of `hours` for `key` was last to be renewed; another time means: renew it.

    A self-signed certificate that nobody uses keeps this time in the graph. It lives as long as the
    one that the CA signs, and in the last third of its life the tls provider replaces it, which a
    preview shows; the key stays.
    """
    clock = tls.SelfSignedCert(
        f"{prefix}-renewal",
        private_key_pem=key.private_key_pem,
        subject=tls.SelfSignedCertSubjectArgs(common_name=common_name),
        allowed_uses=[],
        validity_period_hours=hours,
        early_renewal_hours=hours // 3,
        opts=pulumi.ResourceOptions(parent=parent),
    )
    started: pulumi.Output[str] = clock.validity_start_time
    return started
