"""A key and the certificate request for it: resources of the graph, signed by the CA's host."""

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
