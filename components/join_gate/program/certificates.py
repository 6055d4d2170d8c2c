"""A certificate's parts as DER (RFC 5280), for whoever compares them: without `cryptography`."""

from __future__ import annotations

import calendar
import functools
import ssl
from dataclasses import dataclass

from . import der, names
from .store import Serial

# Object identifiers in DER.
ALTERNATIVE_NAME = bytes.fromhex("0603551d11")
AUTHORITY_KEY = bytes.fromhex("0603551d23")
_VERSION = 0xA0
_UTC_TIME = 0x17


@dataclass(frozen=True)
class Parts:
    """`number` and what follows are the DER of the parts; `extensions` are values by their OIDs."""

    number: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    key: bytes
    extensions: dict[bytes, bytes]

    @functools.cached_property
    def serial(self) -> Serial:
        identifier = der.parts(self.extensions[AUTHORITY_KEY])[0]
        number = int.from_bytes(der.content(self.number), "big")
        return Serial(str(number), der.content(identifier).hex())

    @functools.cached_property
    def life(self) -> tuple[float, float]:
        """When it begins and ends, in seconds since the epoch."""
        begins, ends = der.parts(self.validity)
        return _moment(begins), _moment(ends)

    def is_for(self, hosts: tuple[str, ...]) -> bool:
        """Whether its names are these, and no others."""
        found = set(der.parts(self.extensions[ALTERNATIVE_NAME]))
        return found == {names.general_name(host) for host in hosts}


def parts(tbs: bytes) -> Parts:
    """Those of a TBSCertificate; ValueError where an extension stands twice, or there are none."""
    number, _, issuer, validity, subject, key, *rest = fields(tbs)
    found = [der.parts(it) for it in der.parts(der.content(rest[-1]))] if rest else []
    extensions = {identifier: der.content(value) for identifier, *_, value in found}
    if len(extensions) != len(found):
        raise ValueError("an extension stands twice")
    return Parts(number, issuer, validity, subject, key, extensions)


def fields(tbs: bytes) -> list[bytes]:
    """Serial number, algorithm, issuer, validity, subject, key, and what comes after them.

    Without the version, which certificates of the first one don't have: an old authority's.
    """
    found = der.parts(tbs)
    return found[1:] if found[0][0] == _VERSION else found


def read(certificate: bytes) -> Parts:
    """The parts of a whole certificate in DER."""
    return parts(der.parts(certificate)[0])


def from_pem(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.strip())


def _moment(value: bytes) -> float:
    """RFC 5280, 4.1.2.5: to the second, and in UTC. A tenth of what `time.strptime` takes."""
    digits = der.content(value).decode("ascii")
    if value[0] == _UTC_TIME:
        digits = ("20" if digits < "50" else "19") + digits
    if len(digits) != 15 or not digits.endswith("Z"):
        raise ValueError("not a moment of a certificate")
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    return float(calendar.timegm((int(digits[:4]), month, day, hour, minute, second)))
