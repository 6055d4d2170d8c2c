"""Checks on a certificate that CFSSL answered, before it is handed to the node.

A wrong profile, a changed CFSSL configuration or another signer behind the port must not become a
node's credential.
"""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from . import certificates, der, names, rules
from .errors import AuthorityError
from .store import Serial

# CFSSL backdates by five minutes and rounds to the minute.
_SLACK = datetime.timedelta(minutes=10)
_UTC = datetime.timezone.utc
# Object identifiers and values in DER.
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
_EXTENDED_KEY_USAGE = bytes.fromhex("0603551d25")
_SERVER_AUTH = bytes.fromhex("06082b06010505070301")
_CLIENT_AUTH = bytes.fromhex("06082b06010505070302")
_NO_AUTHORITY = bytes.fromhex("3000")


class Authority:
    """The certificate of the CA that signs, and with `others` those that are trusted beside it.

    Keys are loaded once; subjects are DER. Two CAs may have one subject.
    """

    def __init__(self, certificate: x509.Certificate, *others: x509.Certificate) -> None:
        self.certificate = certificate
        self._keys = [
            (certificates.fields(it.tbs_certificate_bytes)[4], it.public_key())
            for it in (certificate, *others)
        ]

    def keys(self, subject: bytes) -> list[Any]:
        """Of those with this subject. While another one takes over, either may have signed."""
        return [key for known, key in self._keys if known == subject]


def check(pem: str, signable: rules.Signable, authority: Authority, hours: int) -> Serial:
    """The certificate's name in the certdb; AuthorityError names what is wrong with it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        parts = certificates.parts(certificate.tbs_certificate_bytes)
        fault = _fault(certificate, parts, signable, authority, hours)
        serial = parts.serial
    except (ValueError, LookupError, UnsupportedAlgorithm):
        fault = "it cannot be read"
    if fault:
        raise AuthorityError(
            f"the certificate authority issued a wrong certificate: {fault}", definite=False
        )
    return serial


def _fault(
    certificate: x509.Certificate,
    parts: certificates.Parts,
    signable: rules.Signable,
    authority: Authority,
    hours: int,
) -> str:
    """What is wrong with the certificate, empty where nothing is."""
    start, end = _validity(certificate)
    keys = authority.keys(parts.issuer)
    usages = set(der.parts(parts.extensions[_EXTENDED_KEY_USAGE]))
    checks = {
        "another key": parts.key == signable.key,
        "another subject": parts.subject in names.subjects(signable.name),
        "other names": parts.is_for(signable.hosts),
        "other usages": _CLIENT_AUTH in usages and usages <= {_CLIENT_AUTH, _SERVER_AUTH},
        "it is an authority": parts.extensions[_BASIC_CONSTRAINTS] == _NO_AUTHORITY,
        "too long a life": end - start <= datetime.timedelta(hours=hours) + _SLACK,
        "it is not valid now": start <= datetime.datetime.now(_UTC) < end,
        "another issuer": bool(keys),
        "a wrong signature": any(_signed_by(certificate, key) for key in keys),
    }
    return next((fault for fault, good in checks.items() if not good), "")


def _validity(certificate: x509.Certificate) -> tuple[datetime.datetime, datetime.datetime]:
    try:
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except AttributeError:  # before version 42 of `cryptography`
        start, end = certificate.not_valid_before, certificate.not_valid_after
        return start.replace(tzinfo=_UTC), end.replace(tzinfo=_UTC)


def _signed_by(certificate: x509.Certificate, key: Any) -> bool:
    algorithm = certificate.signature_hash_algorithm
    try:
        rules.verify(key, certificate.signature, certificate.tbs_certificate_bytes, algorithm)
    except (InvalidSignature, TypeError):
        return False
    return True
