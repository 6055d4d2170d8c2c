"""What the gate must refuse, as data: each attack by name, with the refusal that it must meet.

Used twice: against the gate and CFSSL on the loopback, and against those of a lab over its
network. Whatever is sent here must leave no row in the certdb.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.unit.components.join_gate.gate_host import ADDRESS, Gate, TestNode

AUTHSIGN = "/api/v1/cfssl/authsign"
NOT_AUTHENTIC = "not authentic: unknown node, or a token made with another join key"
LOOKS_LIKE_ADDRESS = "168364039"  # 10.9.8.7, as some resolvers read it


@dataclass(frozen=True)
class Cast:
    """Who takes part. All but `unknown` are or were registered; `joined` used its key already."""

    gate: Gate
    node: TestNode
    other: TestNode
    joined: TestNode
    expired: TestNode
    removed: TestNode
    superseded: TestNode
    unknown: TestNode


@dataclass(frozen=True)
class Attack:
    """`send` gives the status and the whole answer; `reason` must stand in it.

    Where versions of `cryptography` notice at different places, ` | ` stands between reasons.
    """

    send: Callable[[Cast], tuple[int, str]]
    status: int
    reason: str


# --- how an attack is sent --------------------------------------------------------------------

Change = Callable[[TestNode], dict[str, object]]


def asked(change: Change, status: int, reason: str) -> Attack:
    """A request with the node's own, good token."""
    return enveloped(lambda cast: cast.node.sealed(change(cast.node)), status, reason)


def fields(status: int, reason: str, **changes: object) -> Attack:
    """The right request with other or further fields."""
    return asked(lambda node: node.request(**changes), status, reason)


def hosts(reason: str, *values: object, status: int = 403) -> Attack:
    return fields(status, reason, hosts=list(values))


def csr(status: int, reason: str, **arguments: Any) -> Attack:
    """A certificate request that differs from the right one."""
    return asked(
        lambda node: node.request(certificate_request=node.csr(**arguments)), status, reason
    )


def pem(change: Callable[[TestNode], str], status: int, reason: str) -> Attack:
    return asked(lambda node: node.request(certificate_request=change(node)), status, reason)


def enveloped(build: Callable[[Cast], object], status: int, reason: str) -> Attack:
    def send(cast: Cast) -> tuple[int, str]:
        answered, body = cast.gate.ask("POST", AUTHSIGN, json.dumps(build(cast)).encode())
        return answered, body.decode()

    return Attack(send, status, reason)


def body(data: bytes, status: int, reason: str, headers: dict[str, str] | None = None) -> Attack:
    def send(cast: Cast) -> tuple[int, str]:
        answered, answer = cast.gate.ask("POST", AUTHSIGN, data, headers)
        return answered, answer.decode()

    return Attack(send, status, reason)


def wire(data: bytes, status: int, reason: str) -> Attack:
    """Bytes on a TLS connection; the gate must answer once, and close."""

    def send(cast: Cast) -> tuple[int, str]:
        answer = cast.gate.raw(data).decode()
        assert answer.count("Cache-Control: no-store") == 1, answer
        assert "Connection: close" in answer
        return int(answer.split()[1]), answer

    return Attack(send, status, reason)


def missing(method: str, path: str, status: int, reason: str) -> Attack:
    def send(cast: Cast) -> tuple[int, str]:
        answered, answer = cast.gate.ask(method, path, b"{}" if method == "POST" else None)
        return answered, answer.decode()

    return Attack(send, status, reason)


# --- certificate requests that no library makes -----------------------------------------------

SEQUENCE, SET, INTEGER, BITS, OCTETS, OID = 0x30, 0x31, 0x02, 0x03, 0x04, 0x06
UTF8, PRINTABLE, TELETEX, IA5, BMP = 0x0C, 0x13, 0x14, 0x16, 0x1E
COMMON_NAME, ORGANIZATION = bytes.fromhex("0603550403"), bytes.fromhex("060355040a")
EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")
MICROSOFT_EXTENSIONS = bytes.fromhex("060a2b0601040182370201 0e".replace(" ", ""))
ALTERNATIVE_NAME = bytes.fromhex("0603551d11")
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
DNS, IP, OTHER, DIRECTORY, REGISTERED = 0x82, 0x87, 0xA0, 0xA4, 0x88


def der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def attribute(oid: bytes, kind: int, value: bytes) -> bytes:
    return der(SET, der(SEQUENCE, oid, der(kind, value)))


def subject(common_name: bytes, kind: int = UTF8, organization: bytes = b"system:nodes") -> bytes:
    return der(
        SEQUENCE,
        attribute(ORGANIZATION, UTF8, organization),
        attribute(COMMON_NAME, kind, common_name),
    )


def name_of(node: TestNode) -> bytes:
    return f"system:node:{node.name}".encode()


def extension(*general_names: bytes) -> bytes:
    """A subjectAltName extension."""
    return der(SEQUENCE, ALTERNATIVE_NAME, der(OCTETS, der(SEQUENCE, *general_names)))


def requested(*extensions: bytes, oid: bytes = EXTENSION_REQUEST) -> bytes:
    """The PKCS #10 attribute that asks for extensions."""
    return der(SEQUENCE, oid, der(SET, der(SEQUENCE, *extensions)))


def armoured(data: bytes) -> str:
    text = base64.encodebytes(data).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


def handmade(
    node: TestNode,
    *attributes: bytes,
    name: bytes | None = None,
    version: int = 0,
    public_key: bytes | None = None,
) -> bytes:
    """A signed PKCS #10 request in DER, made byte by byte."""
    information = der(
        SEQUENCE,
        der(INTEGER, bytes((version,))),
        subject(name_of(node)) if name is None else name,
        public_key or spki(node.key),
        der(0xA0, *sorted(attributes)),  # DER sorts sets
    )
    signature = node.key.sign(information, ec.ECDSA(hashes.SHA256()))
    return der(SEQUENCE, information, der(SEQUENCE, ECDSA_SHA256), der(BITS, b"\0", signature))


def spki(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def compressed(key: Any) -> bytes:
    """The key with a compressed point: the same key in another encoding."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    return der(
        SEQUENCE, der(SEQUENCE, bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")),
        der(BITS, b"\0", point),
    )  # fmt: skip


def made(build: Callable[[TestNode], bytes], status: int, reason: str) -> Attack:
    return pem(lambda node: armoured(build(node)), status, reason)


def named(build: Callable[[TestNode], bytes], status: int, reason: str, kind: int = UTF8) -> Attack:
    """A request with these bytes as its CN."""
    return made(lambda node: handmade(node, name=subject(build(node), kind)), status, reason)


def alternative(reason: str, build: Callable[[TestNode], bytes]) -> Attack:
    """A request with this general name in its subjectAltName."""
    return made(lambda node: handmade(node, requested(extension(build(node)))), 403, reason)


def attributes(build: Callable[[TestNode], list[x509.NameAttribute[str]]]) -> Attack:
    return asked(
        lambda node: node.request(certificate_request=node.csr(subject=x509.Name(build(node)))),
        403,
        "subject: must be exactly",
    )


def common_name(node: TestNode) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node.name}")


def organization(value: str = "system:nodes") -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)


def beside(oid: ObjectIdentifier, value: str) -> Attack:
    """The right subject and one attribute more."""
    return attributes(
        lambda node: [organization(), common_name(node), x509.NameAttribute(oid, value)]
    )


def two_values_in_one_set(node: TestNode) -> dict[str, object]:
    sets = [
        x509.RelativeDistinguishedName([organization(), organization("system:masters")]),
        x509.RelativeDistinguishedName([common_name(node)]),
    ]
    return node.request(certificate_request=node.csr(subject=x509.Name(sets)))


def spoilt(node: TestNode) -> bytes:
    data = bytearray(handmade(node))
    data[-1] ^= 1
    return bytes(data)


def foreign_signature(node: TestNode) -> bytes:
    thief = TestNode(node.name)
    return handmade(thief, public_key=spki(node.key))


def indefinite_length(node: TestNode) -> bytes:
    """BER, as some libraries take it for DER."""
    data = handmade(node)
    header = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    return b"\x30\x80" + data[header:] + b"\0\0"


@functools.cache
def rsa_key(exponent: int, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def ed25519_request(node: TestNode) -> str:
    request = x509.CertificateSigningRequestBuilder(node.subject()).sign(
        ed25519.Ed25519PrivateKey.generate(), None
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def openssl_request(node: TestNode, *options: str) -> str:
    """A request of a kind that today's libraries refuse to make."""
    words = ["openssl", "req", "-new", "-nodes", "-keyout", "/dev/null", *options]
    words += ["-subj", f"/O=system:nodes/CN=system:node:{node.name}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# --- the attacks ------------------------------------------------------------------------------

MAY_NOT = "may not be set by a node"
EXACTLY = "subject: must be exactly"
ONE_PEM = "must be exactly one PEM"
BAD_NAME = "CN must be system:node:<name>"
NOT_REGISTERED = "is not registered for this node"
UNREADABLE_EXTENSIONS = "its extensions cannot be read"

OVERRIDES = {
    "a subject override": fields(
        403, f"subject: {MAY_NOT}", subject={"CN": "admin", "names": [{"O": "system:masters"}]}
    ),
    "a subject override as text": fields(403, f"subject: {MAY_NOT}", subject="/O=system:masters"),
    "a subject override with nothing in it": fields(
        403, f"subject: {MAY_NOT}", subject={"CN": "", "names": []}
    ),
    "a hostname": fields(403, f"hostname: {MAY_NOT}", hostname="api.example.org"),
    "a serial number": fields(403, f"serial: {MAY_NOT}", serial=1),
    "serial number zero": fields(403, f"serial: {MAY_NOT}", serial=0),
    "a label": fields(403, f"label: {MAY_NOT}", label="other"),
    "a bundle": fields(403, f"bundle: {MAY_NOT}", bundle=True),
    "not_before": fields(403, f"not_before: {MAY_NOT}", not_before="2020-01-01T00:00:00Z"),
    "not_after": fields(403, f"not_after: {MAY_NOT}", not_after="2099-01-01T00:00:00Z"),
    "NotBefore as Go spells it": fields(403, f"NotBefore: {MAY_NOT}", NotBefore="2020-01-01"),
    "extensions": fields(
        403, f"extensions: {MAY_NOT}", extensions=[{"id": "2.5.29.19", "value": "30030101ff"}]
    ),
    "a CRL override": fields(403, f"crl_override: {MAY_NOT}", crl_override="http://x"),
    "metadata": fields(403, f"metadata: {MAY_NOT}", metadata={"a": 1}),
    "profile intermediate": fields(403, "profile: must be kubelet", profile="intermediate"),
    "profile www": fields(403, "profile: must be kubelet", profile="www"),
    "profile in upper case": fields(403, "profile: must be kubelet", profile="KUBELET"),
    "profile as a list": fields(403, "profile: must be kubelet", profile=["kubelet"]),
    "a second profile in other case": fields(403, f"Profile: {MAY_NOT}", Profile="intermediate"),
    "a second request in other case": fields(
        403, f"Certificate_Request: {MAY_NOT}", Certificate_Request="x"
    ),
    "hosts in other case": fields(403, f"Hosts: {MAY_NOT}", Hosts=["kubernetes"]),
    "a field that nobody knows": fields(403, f"is_admin: {MAY_NOT}", is_admin=1),
}

SUBJECTS = {
    "an organization more": attributes(
        lambda node: [organization(), organization("system:masters"), common_name(node)]
    ),
    "another organization": attributes(
        lambda node: [organization("system:masters"), common_name(node)]
    ),
    "no organization": attributes(lambda node: [common_name(node)]),
    "the organization in upper case": attributes(
        lambda node: [organization("SYSTEM:NODES"), common_name(node)]
    ),
    "the organization with a space": attributes(
        lambda node: [organization("system:nodes "), common_name(node)]
    ),
    "a slash in the organization": attributes(
        lambda node: [organization("system:nodes/O=system:masters"), common_name(node)]
    ),
    "two values in one set": asked(two_values_in_one_set, 403, EXACTLY),
    "a second common name": beside(NameOID.COMMON_NAME, "admin"),
    "the common name twice": attributes(
        lambda node: [organization(), common_name(node), common_name(node)]
    ),
    "a country": beside(NameOID.COUNTRY_NAME, "SE"),
    "an organizational unit": beside(NameOID.ORGANIZATIONAL_UNIT_NAME, "system:masters"),
    "an e-mail address in the subject": beside(NameOID.EMAIL_ADDRESS, "root@example.org"),
    "a domain component": beside(NameOID.DOMAIN_COMPONENT, "example"),
    "a serial number in the subject": beside(NameOID.SERIAL_NUMBER, "1"),
    "the name in a BMPString": made(
        lambda node: handmade(
            node, name=subject(name_of(node).decode().encode("utf-16-be"), BMP)
        ),
        403,
        EXACTLY,
    ),
    "the name in an IA5String": named(name_of, 403, EXACTLY, IA5),
    "a subject that is no sequence": made(
        lambda node: handmade(node, name=der(SET, b"")), 400, "not a certificate request"
    ),
}  # fmt: skip

NAMES = {
    "an administrator's name": named(lambda node: b"admin", 400, BAD_NAME),
    "a name of nobody": named(lambda node: b"system:node:", 400, BAD_NAME),
    "no common name": made(
        lambda node: handmade(
            node, name=der(SEQUENCE, attribute(ORGANIZATION, UTF8, b"system:nodes"))
        ),
        400,
        BAD_NAME,
    ),
    "a controller's name": named(
        lambda node: b"system:kube-controller-manager", 400, BAD_NAME
    ),
    "a NUL in the name": named(lambda node: name_of(node) + b"\0", 400, BAD_NAME),
    "a NUL and another name": named(lambda node: name_of(node) + b"\0.admin", 400, BAD_NAME),
    "a line end in the name": named(lambda node: name_of(node) + b"\n", 400, BAD_NAME),
    "a slash and an organization in the name": named(
        lambda node: name_of(node) + b"/O=system:masters", 400, BAD_NAME
    ),
    "a comma and an organization in the name": named(
        lambda node: name_of(node) + b",O=system:masters", 400, BAD_NAME
    ),
    "the name in upper case": named(
        lambda node: b"system:node:" + node.name.upper().encode(), 400, BAD_NAME
    ),
    "the prefix in upper case": named(
        lambda node: b"System:Node:" + node.name.encode(), 400, BAD_NAME
    ),
    "a trailing dot in the name": named(lambda node: name_of(node) + b".", 400, BAD_NAME),
    "a space before the name": named(lambda node: b" " + name_of(node), 400, BAD_NAME),
    "a space in the name": named(
        lambda node: b"system:node: " + node.name.encode(), 400, BAD_NAME
    ),
    "a wildcard in the name": named(lambda node: b"system:node:*", 400, BAD_NAME),
    "an address for a name": named(lambda node: b"system:node:10.9.8.7", 400, BAD_NAME),
    "an international name": named(
        lambda node: "system:node:wörker".encode(), 400, BAD_NAME
    ),
    "a name that is not UTF-8": named(
        lambda node: name_of(node) + b"\xff\xfe",
        400,
        "subject cannot be read | not a certificate request",
    ),
    "a name of 53 characters": named(lambda node: b"system:node:" + b"a" * 53, 400, BAD_NAME),
    "a name of 10 000 characters": named(
        lambda node: b"system:node:" + b"a" * 10000, 413, "the body may have 16384"
    ),
}  # fmt: skip

HOSTS = {
    "a foreign name": hosts(NOT_REGISTERED, "api.example.org"),
    "the API server's name": hosts(NOT_REGISTERED, "kubernetes.default.svc"),
    "localhost": hosts(NOT_REGISTERED, "localhost"),
    "the loopback": hosts(NOT_REGISTERED, "127.0.0.1"),
    "a foreign address": hosts(NOT_REGISTERED, "10.9.8.6"),
    "a wildcard": hosts(NOT_REGISTERED, "*"),
    "an empty host": hosts(NOT_REGISTERED, ""),
    "an address as a number": hosts(NOT_REGISTERED, LOOKS_LIKE_ADDRESS),
    "an address with leading zeros": hosts(NOT_REGISTERED, "010.009.008.007"),
    "an address in an IPv6 address": hosts(NOT_REGISTERED, f"::ffff:{ADDRESS}"),
    "an address with a zone": hosts(NOT_REGISTERED, f"{ADDRESS}%eth0"),
    "an address with a mask": hosts(NOT_REGISTERED, f"{ADDRESS}/8"),
    "an address with a port": hosts(NOT_REGISTERED, f"{ADDRESS}:10250"),
    "an e-mail address": hosts(NOT_REGISTERED, "root@example.org"),
    "a URI": hosts(NOT_REGISTERED, "spiffe://cluster/admin"),
    "another name beside the right ones": asked(
        lambda node: node.request(hosts=[node.name, ADDRESS, "kubernetes"]), 403, NOT_REGISTERED
    ),
    "its own name in upper case": asked(
        lambda node: node.request(hosts=[node.name.upper()]), 403, NOT_REGISTERED
    ),
    "its own name with a trailing dot": asked(
        lambda node: node.request(hosts=[node.name + "."]), 403, NOT_REGISTERED
    ),
    "its own name with a NUL": asked(
        lambda node: node.request(hosts=[node.name + "\0"]), 403, NOT_REGISTERED
    ),
    "its own name below a wildcard": asked(
        lambda node: node.request(hosts=["*." + node.name]), 403, NOT_REGISTERED
    ),
    "its own name in other letters": asked(
        lambda node: node.request(hosts=[node.name.replace("o", "о")]), 403, NOT_REGISTERED
    ),
    "hosts as text": asked(
        lambda node: node.request(hosts=node.name), 400, "hosts: must be a list"
    ),
    "hosts as numbers": hosts("hosts: must be a list", 1, status=400),
    "hosts in hosts": hosts("hosts: must be a list", ["a"], status=400),
    "too many hosts": hosts("hosts: at most 32", *["x"] * 33),
    "a foreign DNS name in the request": alternative(NOT_REGISTERED, lambda node: der(DNS, b"x")),
    "a wildcard in the request": alternative(NOT_REGISTERED, lambda node: der(DNS, b"*")),
    "an upper-case name in the request": alternative(
        NOT_REGISTERED, lambda node: der(DNS, node.name.upper().encode())
    ),
    "a trailing dot in the request": alternative(
        NOT_REGISTERED, lambda node: der(DNS, node.name.encode() + b".")
    ),
    "a NUL in the request's name": alternative(
        NOT_REGISTERED, lambda node: der(DNS, node.name.encode() + b"\0")
    ),
    "an international name in the request": alternative(
        f"{NOT_REGISTERED} | {UNREADABLE_EXTENSIONS}", lambda node: der(DNS, "wörker".encode())
    ),
    "a foreign address in the request": alternative(
        NOT_REGISTERED, lambda node: der(IP, bytes((127, 0, 0, 1)))
    ),
    "an address in an IPv6 address in the request": alternative(
        NOT_REGISTERED, lambda node: der(IP, bytes(10) + b"\xff\xff" + bytes((10, 9, 8, 7)))
    ),
    "an address with a mask in the request": alternative(
        f"{NOT_REGISTERED} | {UNREADABLE_EXTENSIONS}",
        lambda node: der(IP, bytes((10, 9, 8, 7, 255, 0, 0, 0))),
    ),
    "an address of five bytes in the request": alternative(
        UNREADABLE_EXTENSIONS, lambda node: der(IP, bytes(5))
    ),
    "an e-mail address in the request": csr(
        403, "must be DNS or IP", names=[x509.RFC822Name("a@b.c")]
    ),
    "a URI in the request": csr(
        403, "must be DNS or IP", names=[x509.UniformResourceIdentifier("spiffe://x/y")]
    ),
    "a directory name in the request": csr(
        403, "must be DNS or IP", names=[x509.DirectoryName(x509.Name([organization()]))]
    ),
    "a registered id in the request": csr(
        403, "must be DNS or IP", names=[x509.RegisteredID(NameOID.COMMON_NAME)]
    ),
    "an other name in the request": csr(
        403,
        "must be DNS or IP",
        names=[x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), der(UTF8, b"admin"))],
    ),
}

EXTENSIONS = {
    "an authority's constraints": csr(
        403,
        "only extension allowed is subjectAltName",
        extensions=(x509.BasicConstraints(ca=True, path_length=None),),
    ),
    "another usage": csr(
        403,
        "only extension allowed is subjectAltName",
        extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),),
    ),
    "an unknown extension": csr(
        403,
        "only extension allowed is subjectAltName",
        extensions=(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"),),
    ),
    "an attribute": csr(
        403, "is not allowed", attributes=((AttributeOID.CHALLENGE_PASSWORD, b"hello"),)
    ),
    "the attribute of extensions twice": made(
        lambda node: handmade(node, requested(extension(der(DNS, node.name.encode()))),
                              requested(extension(der(DNS, b"kubernetes")))),
        403, "an attribute stands twice",
    ),
    "two values in one attribute": made(
        lambda node: handmade(node, der(SEQUENCE, EXTENSION_REQUEST, der(
            SET, *sorted([der(SEQUENCE, extension(der(DNS, node.name.encode()))),
                          der(SEQUENCE, extension(der(DNS, b"kubernetes")))])))),
        403, "cannot be read",
    ),
    "no value in an attribute": made(
        lambda node: handmade(node, der(SEQUENCE, EXTENSION_REQUEST, der(SET))),
        403, "cannot be read",
    ),
    "subjectAltName twice": made(
        lambda node: handmade(node, requested(extension(der(DNS, node.name.encode())),
                                              extension(der(DNS, b"kubernetes")))),
        403, UNREADABLE_EXTENSIONS,
    ),
    "extensions under Microsoft's name": made(
        lambda node: handmade(
            node, requested(extension(der(DNS, b"kubernetes")), oid=MICROSOFT_EXTENSIONS)
        ),
        403, "is not allowed",
    ),
}  # fmt: skip

KEYS = {
    "RSA with 1024 bits": csr(403, "RSA must have 2048", key=rsa_key(65537, 1024)),
    "RSA with exponent 3": csr(403, "RSA exponent", key=rsa_key(3, 2048)),
    "ECDSA P-521": csr(403, "P-256 or P-384", key=ec.generate_private_key(ec.SECP521R1())),
    "ECDSA P-224": csr(403, "P-256 or P-384", key=ec.generate_private_key(ec.SECP224R1())),
    "ECDSA secp256k1": csr(403, "P-256 or P-384", key=ec.generate_private_key(ec.SECP256K1())),
    "Ed25519": pem(ed25519_request, 403, "must be RSA or ECDSA"),
    "a compressed point": made(
        lambda node: handmade(node, public_key=compressed(node.key)), 403, "usual encoding"
    ),
    "an RSA-PSS key": pem(
        lambda node: openssl_request(
            node, "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"
        ),
        403,
        "key: must be",
    ),
    "a SHA-1 signature": pem(
        lambda node: openssl_request(node, "-sha1", "-newkey", "rsa:2048"),
        403,
        "must be signed with SHA-256",
    ),
    "an RSA-PSS signature": pem(
        lambda node: openssl_request(
            node, "-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss", "-sha1"
        ),
        403,
        "signed with SHA-256",
    ),
    "a spoilt signature": made(spoilt, 403, "its signature does not fit its key"),
    "another key's signature": made(foreign_signature, 403, "its signature does not fit its key"),
}

ENCODINGS = {
    "no certificate request": asked(
        lambda node: {"hosts": [node.name], "profile": "kubelet"}, 400, "must be PEM"
    ),
    "a certificate request that is no text": fields(400, "must be PEM", certificate_request=[]),
    "an empty certificate request": fields(400, ONE_PEM, certificate_request=""),
    "two PEM blocks": pem(lambda node: node.csr() + node.csr(), 400, ONE_PEM),
    "text before the PEM": pem(lambda node: "hello\n" + node.csr(), 400, ONE_PEM),
    "text after the PEM": pem(lambda node: node.csr() + "x", 400, ONE_PEM),
    "a NUL after the PEM": pem(lambda node: node.csr() + "\0", 400, ONE_PEM),
    "a space that only Unicode knows": pem(lambda node: node.csr() + "\u2003", 400, ONE_PEM),
    "a header in the PEM": pem(
        lambda node: node.csr().replace("QUEST-----\n", "QUEST-----\nA: b\n\n", 1), 400, ONE_PEM
    ),
    "a PEM that ends as another": pem(
        lambda node: node.csr().replace("BEGIN C", "BEGIN NEW C"), 400, ONE_PEM
    ),
    "a certificate's PEM": pem(
        lambda node: node.csr().replace("CERTIFICATE REQUEST", "CERTIFICATE"), 400, ONE_PEM
    ),
    "a PEM with nothing in it": made(lambda node: b"", 400, ONE_PEM),
    "base64 that is none": pem(
        lambda node: node.csr().replace("\n-----END", "=\n-----END"), 400, "not a certificate"
    ),
    "bytes after the request": made(
        lambda node: handmade(node) + b"\0", 400, "not a certificate request"
    ),
    "a second request after the first": made(
        lambda node: handmade(node) * 2, 400, "not a certificate request"
    ),
    "BER with indefinite length": made(indefinite_length, 400, "not a certificate request"),
    "version 2 of PKCS #10": made(
        lambda node: handmade(node, version=1), 400, "not a certificate request"
    ),
    "a request cut in half": made(
        lambda node: handmade(node)[:80], 400, "not a certificate request"
    ),
    "random bytes": made(lambda node: os.urandom(300), 400, "not a certificate request"),
}

TOKENS = {
    "a wrong key": enveloped(
        lambda cast: cast.node.sealed(cast.node.request(), key=b"x" * 32), 401, NOT_AUTHENTIC
    ),
    "a key of zeros": enveloped(
        lambda cast: cast.node.sealed(cast.node.request(), key=b"\0" * 32), 401, NOT_AUTHENTIC
    ),
    "an unknown node": enveloped(
        lambda cast: cast.unknown.sealed(cast.unknown.request()), 401, NOT_AUTHENTIC
    ),
    "another node's key": enveloped(
        lambda cast: cast.node.sealed(cast.node.request(), key=cast.other.join_key),
        401,
        NOT_AUTHENTIC,
    ),
    "its own key for another node": enveloped(
        lambda cast: cast.node.sealed(cast.other.request()), 401, NOT_AUTHENTIC
    ),
    "another request's token": enveloped(
        lambda cast: {
            **cast.node.sealed(cast.node.request()),
            "token": cast.other.sealed(cast.other.request())["token"],
        },
        401,
        NOT_AUTHENTIC,
    ),
    "a request changed after it was signed": enveloped(
        lambda cast: {
            **cast.node.sealed(json.dumps(cast.node.request()).encode()),
            "request": base64.b64encode(json.dumps(cast.node.request()).encode() + b" ").decode(),
        },
        401,
        NOT_AUTHENTIC,
    ),
    "a short token": enveloped(
        lambda cast: {**cast.node.sealed(cast.node.request()), "token": "AAAA"}, 401, NOT_AUTHENTIC
    ),
    "an empty token": enveloped(
        lambda cast: {**cast.node.sealed(cast.node.request()), "token": ""}, 401, NOT_AUTHENTIC
    ),
    "no token": enveloped(
        lambda cast: {"request": cast.node.sealed(cast.node.request())["request"]},
        400,
        "token must be base64 text",
    ),
    "a token in hexadecimal of odd length": enveloped(
        lambda cast: {**cast.node.sealed(cast.node.request()), "token": "abc"},
        400,
        "token is not base64",
    ),
    "a used key with a new key pair": enveloped(
        lambda cast: TestNode(
            cast.joined.name, join_key=cast.joined.join_key
        ).sealed(TestNode(cast.joined.name).request()),
        409,
        "has already joined; raise its generation to join it anew",
    ),
    "an expired key": enveloped(
        lambda cast: cast.expired.sealed(cast.expired.request()),
        403,
        "has expired; raise its generation to join it anew",
    ),
    "an expired node with a wrong key": enveloped(
        lambda cast: cast.expired.sealed(cast.expired.request(), key=b"x" * 32), 401, NOT_AUTHENTIC
    ),
    "a removed node's key": enveloped(
        lambda cast: cast.removed.sealed(cast.removed.request()), 401, NOT_AUTHENTIC
    ),
    "the key of an earlier generation": enveloped(
        lambda cast: cast.superseded.sealed(cast.superseded.request()), 401, NOT_AUTHENTIC
    ),
    "an override in the envelope": enveloped(
        lambda cast: {**cast.node.sealed(cast.node.request()), "profile": "intermediate"},
        400,
        "foreign key",
    ),
}  # fmt: skip

BODIES = {
    "no body": body(b"", 400, "not valid JSON"),
    "half a body": body(b"{", 400, "not valid JSON"),
    "a list": body(b"[]", 400, "must be a JSON object"),
    "15 000 lists in each other": body(b"[" * 15000, 400, "not valid JSON"),
    "a number of 10 000 digits": body(b'{"token":' + b"9" * 10000 + b"}", 400, "JSON"),
    "a key that stands twice": body(b'{"token":"","token":"","request":""}', 400, "twice"),
    "a token that is no text": body(b'{"token":1,"request":""}', 400, "token must be base64"),
    "base64 with a space": body(b'{"token":"A A=","request":""}', 400, "token is not base64"),
    "a body that is not UTF-8": body(b'{"token":"\xff"}', 400, "not valid JSON"),
    "a body in UTF-16": body('{"token":""}'.encode("utf-16"), 400, "not valid JSON"),
    "not a number": body(b'{"token":NaN}', 400, "NaN is not a JSON number"),
    "a request that is no JSON": body(b'{"token":"","request":"AAAA"}', 400, "the request is not"),
    "a body of 16385 bytes": body(b"x" * 16385, 413, "the body may have 16384 bytes"),
    "a gzip bomb": body(
        gzip.compress(b"{" + b" " * 10_000_000 + b"}"), 415, "without a Content-Encoding",
        {"Content-Encoding": "gzip"},
    ),
    "a gzip bomb that is not called one": body(
        gzip.compress(b"{" + b" " * 10_000_000 + b"}"), 400, "not valid JSON"
    ),
}  # fmt: skip

POST = b"POST /api/v1/cfssl/authsign HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

WIRE = {
    "no HTTP": wire(b"hello\r\n\r\n", 400, "not an HTTP/1.1 request"),
    "HTTP/2": wire(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not an HTTP/1.1 request"),
    "HTTP/0.9": wire(b"GET /healthz\r\n\r\n", 400, "not an HTTP/1.1 request"),
    "a whole URL": wire(b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not an HTTP"),
    "an escaped path": wire(b"POST /api/v1/cfssl/%61uthsign HTTP/1.1\r\nHost: x\r\n\r\n", 400,
                            "not an HTTP/1.1 request"),
    "a path with two slashes": wire(b"GET //healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not an HT"),
    "a path that no parser likes": wire(b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not an HTTP"),
    "a hundred query fields": wire(
        b"GET /healthz?" + b"a=1&" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400,
        "query: too many fields"),
    "a line end in the path": wire(b"GET /a\nb HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not an HTTP"),
    "no host": wire(b"GET /healthz HTTP/1.1\r\n\r\n", 400, "host is missing"),
    "two hosts": wire(b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400,
                      "host stands twice"),
    "a header without a colon": wire(POST + b"bad header\r\n\r\n", 400, "a line cannot be read"),
    "a header that goes on": wire(POST + b"x: a\r\n b\r\n\r\n", 400, "a line cannot be read"),
    "a NUL in a header": wire(POST + b"x: a\0b\r\n\r\n", 400, "a line cannot be read"),
    "a bare line end in a header": wire(POST + b"x: a\nContent-Length: 5\r\n\r\n", 400,
                                        "a line cannot be read"),
    "a header that is not ASCII": wire(POST + b"x: \xff\r\n\r\n", 400, "must be ASCII"),
    "a header of 9000 bytes": wire(POST + b"x: " + b"a" * 9000 + b"\r\n\r\n", 431, "at most 8192"),
    "3000 headers": wire(POST + b"a: b\r\n" * 3000, 431, "at most 8192"),
    "headers without an end": wire(POST + b"a: b\r\n" * 20000, 431, "at most 8192"),
    "two lengths": wire(POST + b"Content-Length: 1\r\nContent-Length: 35\r\n\r\n" + SMUGGLED, 400,
                        "content-length stands twice"),
    "the same length twice": wire(POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400,
                                  "content-length stands twice"),
    "two lengths in one header": wire(POST + b"Content-Length: 1, 35\r\n\r\n" + SMUGGLED, 400,
                                      "Content-Length: must be a number"),
    "a length with a sign": wire(POST + b"Content-Length: +2\r\n\r\n{}", 400, "must be a number"),
    "a length below zero": wire(POST + b"Content-Length: -1\r\n\r\n{}", 400, "must be a number"),
    "a length in hexadecimal": wire(POST + b"Content-Length: 0x2\r\n\r\n{}", 400,
                                    "must be a number"),
    "a length with a space before the colon": wire(
        POST + b"Content-Length : 35\r\n\r\n" + SMUGGLED, 400, "a line cannot be read"),
    "a length of a gigabyte": wire(POST + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 65536, 413,
                                   "found 1073741824"),
    "a length that no integer holds": wire(
        POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400, "must be a number"),
    "chunks": wire(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 411,
                   "not a Transfer-Encoding"),
    "chunks and a length": wire(
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 411,
        "not a Transfer-Encoding"),
    "a transfer encoding that is hidden": wire(
        POST + b"Content-Length: 2\r\nTransfer-Encoding: xchunked\r\n\r\n{}" + SMUGGLED, 411,
        "not a Transfer-Encoding"),
    "a transfer encoding with a tab": wire(
        POST + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 411,
        "not a Transfer-Encoding"),
    "a refused request and another behind it": wire(
        POST + b"Content-Length: x\r\n\r\n" + SMUGGLED * 3, 400, "must be a number"),
    "a body longer than its length": wire(
        POST + b"Content-Length: 1\r\nConnection: close\r\n\r\n{" + SMUGGLED, 400,
        "not valid JSON"),
    "an upgrade to HTTP/2": wire(
        POST + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
        + SMUGGLED, 400, "not valid JSON"),
    "a proxy's method": wire(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not an HTTP"),
    "another method": wire(b"PUT /api/v1/cfssl/authsign HTTP/1.1\r\nHost: x\r\n\r\n", 405,
                           "not for this path"),
}  # fmt: skip

PATHS = {
    f"CFSSL's {endpoint}": missing("POST", f"/api/v1/cfssl/{endpoint}", 404, "no such path")
    for endpoint in (
        *("sign", "newcert", "newkey", "init_ca", "gencrl", "revoke", "certadd", "ocspsign"),
        *("bundle", "scan", "scaninfo", "certinfo", "crl", "health"),
    )
} | {
    "CFSSL's page": missing("GET", "/", 404, "no such path"),
    "a path above": missing("POST", "/v1/../api/v1/cfssl/authsign", 404, "no such path"),
    "authsign with a slash": missing("POST", "/api/v1/cfssl/authsign/", 404, "no such path"),
    "authsign in upper case": missing("POST", "/API/V1/CFSSL/AUTHSIGN", 404, "no such path"),
    "authsign by GET": missing("GET", AUTHSIGN, 405, "not for this path"),
    "somebody's status without a token": missing(
        "GET", "/v1/status/somebody", 401, "not authentic"
    ),
}

ATTACKS: dict[str, Attack] = (
    OVERRIDES
    | SUBJECTS
    | NAMES
    | HOSTS
    | EXTENSIONS
    | KEYS
    | ENCODINGS
    | TOKENS
    | BODIES
    | WIRE
    | PATHS
)


def check(cast: Cast, attack: Attack, count: Callable[[], int]) -> None:
    """Refused, for that reason, in CFSSL's shape, and without a row in the certdb."""
    before = count()
    status, answer = attack.send(cast)
    assert status == attack.status, answer
    assert any(reason in answer for reason in attack.reason.split(" | ")), answer
    found = json.loads(re.sub(r"(?s)^HTTP/1.1.*?\r\n\r\n", "", answer))
    assert (found["success"], found["result"]) == (False, None)
    assert count() == before
