"""Names, addresses and subjects of nodes."""

from __future__ import annotations

import functools
import ipaddress
import re
import socket

from . import der

# RFC 1123 subdomain, as Node objects are named. A common name holds 64 characters (X.520), and
# "system:node:" takes 12 of them.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAME_LIMIT = 52
COMMON_NAME_PREFIX = "system:node:"
ORGANIZATION = "system:nodes"

_COMMON_NAME_OID = bytes((0x06, 0x03, 0x55, 0x04, 0x03))
_ORGANIZATION_OID = bytes((0x06, 0x03, 0x55, 0x04, 0x0A))
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_UTF8_STRING, _PRINTABLE_STRING, _SEQUENCE, _SET = 0x0C, 0x13, 0x30, 0x31


def is_name(name: str) -> bool:
    """Whether `name` can be a node's name.

    An address can't: CFSSL would put it into the certificate as one, registered or not.
    """
    return len(name) <= NAME_LIMIT and NAME.fullmatch(name) is not None and address(name) is None


@functools.lru_cache(maxsize=1024)
def address(text: str) -> str | None:
    """The canonical form of an IP address, None where `text` is not one.

    Nor is one that others read as another: IPv4 in IPv6, or with a zone.
    """
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if parsed.version == 6 and (parsed.ipv4_mapped or "%" in text):
        return None
    return str(parsed)


def general_name(host: str) -> bytes:
    """A name or an address as it stands in a certificate's subjectAltName, in DER (RFC 5280)."""
    if address(host) is None:
        return der.element(_DNS_NAME, host.encode())
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return der.element(_IP_ADDRESS, socket.inet_pton(family, host))


def is_node_address(text: str) -> bool:
    """Whether a canonical address can be a node's own: no loopback, multicast or unspecified."""
    parsed = ipaddress.ip_address(text)
    return not (parsed.is_loopback or parsed.is_multicast or parsed.is_unspecified)


@functools.lru_cache(maxsize=256)
def subjects(name: str) -> frozenset[bytes]:
    """Every DER encoding of the one subject that node `name` may have.

    Two single-valued attributes in either order, each as UTF8String or PrintableString. Comparing
    whole encodings leaves no room for a third attribute, a second value or an odd string type.
    """
    return frozenset(
        der.element(_SEQUENCE, first, second)
        for common_name in _attributes(_COMMON_NAME_OID, COMMON_NAME_PREFIX + name)
        for organization in _ORGANIZATIONS
        for first, second in ((organization, common_name), (common_name, organization))
    )


def node_of(subject: bytes) -> str | None:
    """The node whose subject this is in one of its DER encodings, None where it is no node's."""
    prefix = COMMON_NAME_PREFIX.encode()
    at = subject.find(prefix)
    if at < 0:
        return None
    # The byte before is the length of the name with its prefix.
    name = subject[at + len(prefix) : at + subject[at - 1]].decode("latin-1")
    return name if is_name(name) and subject in subjects(name) else None


def _attributes(identifier: bytes, value: str) -> list[bytes]:
    return [
        der.element(_SET, der.element(_SEQUENCE, identifier, der.element(kind, value.encode())))
        for kind in (_UTF8_STRING, _PRINTABLE_STRING)
    ]


_ORGANIZATIONS = _attributes(_ORGANIZATION_OID, ORGANIZATION)
