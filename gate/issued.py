"""Checks on a certificate that CFSSL answered, before it is handed to the node.

A wrong profile, a changed CFSSL configuration or another signer behind the port must not become a
node's credential.
"""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from gate import names, rules
from gate.errors import AuthorityError
from gate.store import Serial

# CFSSL backdates by five minutes and rounds to the minute.
_SLACK = datetime.timedelta(minutes=10)
_USAGES = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


class Authority:
    """The authority's certificate, its key loaded once."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self.subject = certificate.subject
        self._key = certificate.public_key()

    def public_key(self) -> Any:
        return self._key


def check(
    pem: str, signable: rules.Signable, authority: Authority, hours: int
) -> tuple[x509.Certificate, Serial]:
    """The parsed certificate and its name in the certdb; AuthorityError names what is wrong."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        fault = _fault(certificate, signable, authority, hours)
        serial = _serial(certificate)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, UnsupportedAlgorithm):
        fault = "it cannot be read"
    if fault:
        raise AuthorityError(
            f"the certificate authority issued a wrong certificate: {fault}", definite=False
        )
    return certificate, serial


def _fault(
    certificate: x509.Certificate,
    signable: rules.Signable,
    authority: Authority,
    hours: int,
) -> str:
    """What is wrong with the certificate, empty where nothing is."""
    extensions = certificate.extensions
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    life = certificate.not_valid_after - certificate.not_valid_before
    usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    checks = {
        "another key": signable.key in certificate.tbs_certificate_bytes,
        "another subject": certificate.subject.public_bytes() in names.subjects(signable.name),
        "other names": _hosts(extensions) == set(signable.hosts),
        "other usages": ExtendedKeyUsageOID.CLIENT_AUTH in usages and usages <= _USAGES,
        "it is an authority": not extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value.ca,
        "too long a life": life <= datetime.timedelta(hours=hours) + _SLACK,
        "it is not valid now": certificate.not_valid_before <= now < certificate.not_valid_after,
        "another issuer": certificate.issuer == authority.subject,
        "a wrong signature": _signed_by(certificate, authority.public_key()),
    }
    return next((fault for fault, good in checks.items() if not good), "")


def _hosts(extensions: x509.Extensions) -> set[str]:
    value = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(general_name.value) for general_name in value}


def _serial(certificate: x509.Certificate) -> Serial:
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    identifier = extension.value.key_identifier or b""
    return Serial(str(certificate.serial_number), identifier.hex())


def _signed_by(certificate: x509.Certificate, key: Any) -> bool:
    algorithm = certificate.signature_hash_algorithm
    try:
        rules.verify(key, certificate.signature, certificate.tbs_certificate_bytes, algorithm)
    except (InvalidSignature, TypeError):
        return False
    return True
