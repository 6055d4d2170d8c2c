"""Checks on a certificate that CFSSL answered, before it is handed to the node.

A wrong profile, a changed CFSSL configuration or another signer behind the port must not become a
node's credential.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from . import der, names, rules
from .errors import AuthorityError
from .store import Serial

# CFSSL backdates by five minutes and rounds to the minute.
_SLACK = datetime.timedelta(minutes=10)
_UTC = datetime.timezone.utc
# Object identifiers and values in DER.
_ALTERNATIVE_NAME = bytes.fromhex("0603551d11")
_BASIC_CONSTRAINTS = bytes.fromhex("0603551d13")
_AUTHORITY_KEY = bytes.fromhex("0603551d23")
_EXTENDED_KEY_USAGE = bytes.fromhex("0603551d25")
_SERVER_AUTH = bytes.fromhex("06082b06010505070301")
_CLIENT_AUTH = bytes.fromhex("06082b06010505070302")
_VERSION = 0xA0
_NO_AUTHORITY = bytes.fromhex("3000")


class Authority:
    """The authority's certificate, its key loaded once; `subject` in DER."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self.subject = _fields(certificate)[4]
        self.key: Any = certificate.public_key()


def check(pem: str, signable: rules.Signable, authority: Authority, hours: int) -> Serial:
    """The certificate's name in the certdb; AuthorityError names what is wrong with it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        parts = _parts(certificate)
        fault = _fault(certificate, parts, signable, authority, hours)
        serial = _serial(certificate, parts)
    except (ValueError, LookupError, UnsupportedAlgorithm):
        fault = "it cannot be read"
    if fault:
        raise AuthorityError(
            f"the certificate authority issued a wrong certificate: {fault}", definite=False
        )
    return serial


def _fault(
    certificate: x509.Certificate,
    parts: _Parts,
    signable: rules.Signable,
    authority: Authority,
    hours: int,
) -> str:
    """What is wrong with the certificate, empty where nothing is."""
    start, end = _validity(certificate)
    usages = set(der.parts(parts.extensions[_EXTENDED_KEY_USAGE]))
    checks = {
        "another key": parts.key == signable.key,
        "another subject": parts.subject in names.subjects(signable.name),
        "other names": set(der.parts(parts.extensions[_ALTERNATIVE_NAME]))
        == {names.general_name(host) for host in signable.hosts},
        "other usages": _CLIENT_AUTH in usages and usages <= {_CLIENT_AUTH, _SERVER_AUTH},
        "it is an authority": parts.extensions[_BASIC_CONSTRAINTS] == _NO_AUTHORITY,
        "too long a life": end - start <= datetime.timedelta(hours=hours) + _SLACK,
        "it is not valid now": start <= datetime.datetime.now(_UTC) < end,
        "another issuer": parts.issuer == authority.subject,
        "a wrong signature": _signed_by(certificate, authority.key),
    }
    return next((fault for fault, good in checks.items() if not good), "")


@dataclass(frozen=True)
class _Parts:
    """The DER of a certificate's parts (RFC 5280); `extensions` are their values by their OIDs."""

    issuer: bytes
    subject: bytes
    key: bytes
    extensions: dict[bytes, bytes]


def _parts(certificate: x509.Certificate) -> _Parts:
    """ValueError where an extension stands twice, or there are none."""
    _, _, issuer, _, subject, key, *rest = _fields(certificate)
    found = [der.parts(it) for it in der.parts(der.content(rest[-1]))] if rest else []
    extensions = {identifier: der.content(value) for identifier, *_, value in found}
    if len(extensions) != len(found):
        raise ValueError("an extension stands twice")
    return _Parts(issuer, subject, key, extensions)


def _validity(certificate: x509.Certificate) -> tuple[datetime.datetime, datetime.datetime]:
    try:
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except AttributeError:  # before version 42 of `cryptography`
        start, end = certificate.not_valid_before, certificate.not_valid_after
        return start.replace(tzinfo=_UTC), end.replace(tzinfo=_UTC)


def _fields(certificate: x509.Certificate) -> list[bytes]:
    """Serial number, algorithm, issuer, validity, subject, key, and what comes after them.

    Without the version, which certificates of the first one don't have: an old authority's.
    """
    fields = der.parts(certificate.tbs_certificate_bytes)
    return fields[1:] if fields[0][0] == _VERSION else fields


def _serial(certificate: x509.Certificate, parts: _Parts) -> Serial:
    identifier = der.parts(parts.extensions[_AUTHORITY_KEY])[0]
    return Serial(str(certificate.serial_number), der.content(identifier).hex())


def _signed_by(certificate: x509.Certificate, key: Any) -> bool:
    algorithm = certificate.signature_hash_algorithm
    try:
        rules.verify(key, certificate.signature, certificate.tbs_certificate_bytes, algorithm)
    except (InvalidSignature, TypeError):
        return False
    return True
