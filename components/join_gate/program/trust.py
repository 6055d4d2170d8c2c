"""What nodes are told to trust, and whether they do: so that one CA can follow another."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import certificates, der
from .errors import GateError
from .store import Node, Store

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
# subjectKeyIdentifier, in DER.
_SUBJECT_KEY = bytes.fromhex("0603551d0e")
_MOST_NAMED = 8
# The SHA-256 of the file that a node trusts, and whose certificate it has shown: the CA's subject
# key identifier; both in hex.
Told = tuple[str, str]


@dataclass(frozen=True)
class Trust:
    """The certificates of the CAs that are trusted, the one that signs first, as a file has them.

    `answer` is that file behind signatures over it, a line each: what a node asks for.
    """

    bundle: str
    answer: str = ""

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.bundle.encode()).hexdigest()

    @functools.cached_property
    def identifiers(self) -> tuple[str, ...]:
        """The subject key identifiers, in hex: the certdb's names of the CAs."""
        return tuple(map(_identifier, self.pems))

    @functools.cached_property
    def pems(self) -> list[str]:
        found: list[str] = _CERTIFICATE.findall(self.bundle)
        return found


def _identifier(pem: str) -> str:
    """Empty where the certificate has none: an old CA's, by which CFSSL could revoke nothing."""
    found = certificates.read(certificates.from_pem(pem)).extensions.get(_SUBJECT_KEY)
    return der.content(found).hex() if found else ""


def read(text: str, answer: str = "") -> Trust:
    """GateError where it holds no certificate, or an answer is about others."""
    trust = Trust(text, answer)
    try:
        known = bool(trust.identifiers)
    except (ValueError, LookupError):
        known = False
    if not known:
        raise GateError("not a certificate")
    if answer and not answer.endswith(f"\n{text}"):
        raise GateError("what nodes are told to trust is not what is trusted here")
    return trust


def in_the_way(present: Trust, wanted: Trust, nodes: Sequence[tuple[Node, Told]]) -> list[str]:
    """Why what is trusted can't become `wanted` yet, a line each; nodes with what they told."""
    signer = wanted.identifiers[0]
    if signer not in present.identifiers:
        return ["the CA that is to sign is trusted by no node: name it as `also` first"]
    found = list(_lines(present, wanted, nodes))
    more = len(found) - _MOST_NAMED
    return [*found[:_MOST_NAMED], f"and {more} more"] if more > 0 else found


def _lines(present: Trust, wanted: Trust, nodes: Sequence[tuple[Node, Told]]) -> Iterator[str]:
    another_signs = wanted.identifiers[0] != present.identifiers[0]
    for node, (bundle, shown) in nodes:
        if node.certificate is None:
            continue
        if shown not in wanted.identifiers:
            yield f"{node.name} has a certificate of the CA that is to go"
        elif another_signs and bundle != present.digest:
            yield f"{node.name} does not trust the CA yet that is to sign"


def told(node: Node, store: Store) -> Told:
    """What a node said last; before it says anything, whose certificate it was given."""
    if node.certificate is None:
        return "", ""
    given = certificates.read(certificates.from_pem(node.certificate)).serial.authority_key
    return store.trusted(node.name) or ("", given)
