"""What the gate must refuse to renew, as data: each attack by name, with the refusal it must meet.

Used twice, as attacks.py is: on the loopback, and over the network of a lab. None of it may leave a
row in the certdb.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.components.join_gate.attacks import AUTHSIGN
from tests.unit.components.join_gate.gate_host import ADDRESS, Gate, Shown, TestNode

RENEWAL, TROUBLE = "/v1/renewal", "/v1/trouble"
# Refused in the handshake: there is no answer, but TLS' own word.
IN_TLS = 0
HOUR = datetime.timedelta(hours=1)
UNKNOWN = "not a certificate of a node as it is registered"
COPIED = "a copy of it is in use"


@dataclass(frozen=True)
class Authority:
    """The cluster's own, or one that looks like it."""

    certificate: x509.Certificate
    key: Any

    @cached_property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def twin(self) -> Authority:
        """Of the same names, with another key."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(issue(self, key, like=self.certificate, signer=key), key)

    def below(self) -> Authority:
        """An intermediate authority of this one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ]
        return Authority(issue(self, key, subject=name, extensions=extensions), key)


def issue(
    authority: Authority,
    key: Any,
    *,
    like: x509.Certificate | None = None,
    signer: Any = None,
    subject: x509.Name | None = None,
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    begins: datetime.timedelta = -HOUR,
    ends: datetime.timedelta = HOUR,
    serial: int | None = None,
) -> x509.Certificate:
    """A certificate with everything of `like` but what is given."""
    now = datetime.datetime.now(datetime.UTC)
    if like is not None:
        subject = subject or like.subject
        if extensions is None:
            extensions = [(it.value, it.critical) for it in like.extensions]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    for value, critical in extensions or []:
        builder = builder.add_extension(value, critical)
    return builder.sign(signer or authority.key, hashes.SHA256())


@dataclass(frozen=True)
class Cast:
    """Who takes part, each a node with what it may show. `renewed` has renewed since; `used` is the
    request that it did it with. `removed`, `raised` and `moved` were registered otherwise since.
    """

    gate: Gate
    authority: Authority
    node: tuple[TestNode, Shown]
    other: tuple[TestNode, Shown]
    renewed: tuple[TestNode, Shown]
    used: dict[str, object]
    removed: tuple[TestNode, Shown]
    raised: tuple[TestNode, Shown]
    moved: tuple[TestNode, Shown]

    def forged(self, *, by: Authority | None = None, **changes: Any) -> Shown:
        """As the node's present certificate, but for the changes and the key."""
        present = x509.load_pem_x509_certificate(self.node[1].certificate.encode())
        key = ec.generate_private_key(ec.SECP256R1())
        made = issue(by or self.authority, key, **{"like": present, **changes})
        return Shown(made.public_bytes(serialization.Encoding.PEM).decode(), key)

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.node[1].certificate.encode()).serial_number


@dataclass(frozen=True)
class Attack:
    """`send` gives status and answer, or IN_TLS and TLS' words; `reason` must stand in it."""

    send: Callable[[Cast], tuple[int, str]]
    status: int
    reason: str


def sent(
    cast: Cast, shown: Shown | None, data: bytes, path: str = RENEWAL, method: str = "POST"
) -> tuple[int, str]:
    try:
        status, answer = cast.gate.ask(method, path, data, shown=shown)
    except (ssl.SSLError, ConnectionError) as error:
        return IN_TLS, str(error)
    return status, answer.decode()


def cast_of(gate: Gate, authority: Authority, admit: Callable[[], TestNode]) -> Cast:
    """All but what makes `removed`, `raised` and `moved` what they are."""
    parts = ("node", "other", "renewed", "removed", "raised", "moved")
    nodes = {part: admit() for part in parts}
    shown = {part: gate.join(node) for part, node in nodes.items()}
    gate.renew(nodes["renewed"], shown["renewed"])
    used = nodes["renewed"].request()
    pairs = {part: (nodes[part], shown[part]) for part in parts}
    return Cast(gate, authority, used=used, **pairs)


def fresh(node: TestNode, **changes: object) -> dict[str, object]:
    """A right request for a node, with a key that nobody has used."""
    return replace(node, key=ec.generate_private_key(ec.SECP256R1())).request(**changes)


# --- who shows what -----------------------------------------------------------------------------


def shows(pick: Callable[[Cast], Shown | None], status: int, reason: str) -> Attack:
    """The right request of `node`, by somebody who shows something else than its certificate."""

    def send(cast: Cast) -> tuple[int, str]:
        return sent(cast, pick(cast), json.dumps(fresh(cast.node[0])).encode())

    return Attack(send, status, reason)


def theirs(part: str, status: int, reason: str) -> Attack:
    """The right request of a node with what that node once had."""

    def send(cast: Cast) -> tuple[int, str]:
        node, shown = getattr(cast, part)
        return sent(cast, shown, json.dumps(fresh(node)).encode())

    return Attack(send, status, reason)


def forged(status: int, reason: str, **changes: Any) -> Attack:
    return shows(lambda cast: cast.forged(**changes), status, reason)


def named(status: int, reason: str, *attributes: tuple[Any, str]) -> Attack:
    """Of the authority, with another subject; `NODE` stands for the node's common name."""

    def pick(cast: Cast) -> Shown:
        own = f"system:node:{cast.node[0].name}"
        pairs = [(oid, value.replace("NODE", own)) for oid, value in attributes]
        names = [x509.NameAttribute(oid, value) for oid, value in pairs]
        return cast.forged(subject=x509.Name(names))

    return shows(pick, status, reason)


def self_signed(cast: Cast) -> Shown:
    key = ec.generate_private_key(ec.SECP256R1())
    present = x509.load_pem_x509_certificate(cast.node[1].certificate.encode())
    own = Authority(present, key)
    made = issue(own, key, like=present)
    return Shown(made.public_bytes(serialization.Encoding.PEM).decode(), key)


def of_a_twin(cast: Cast) -> Shown:
    twin = cast.authority.twin()
    return replace(cast.forged(by=twin), chain=twin.pem)


def from_below(cast: Cast, *, honest: bool) -> Shown:
    """Of an intermediate authority; honest about whose it is, or with the present one's word."""
    below = cast.authority.below()
    present = x509.load_pem_x509_certificate(cast.node[1].certificate.encode())
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(below.key.public_key())
    extensions = [
        (above if honest and isinstance(it.value, x509.AuthorityKeyIdentifier) else it.value, False)
        for it in present.extensions
    ]
    serial = None if honest else cast.serial
    return replace(cast.forged(by=below, extensions=extensions, serial=serial), chain=below.pem)


COMMON, UNIT = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME
ORGANIZATION = NameOID.ORGANIZATION_NAME
NODES, MASTERS = (ORGANIZATION, "system:nodes"), (ORGANIZATION, "system:masters")
NAME = (COMMON, "NODE")
USAGE, SERVER = x509.ExtendedKeyUsage, ExtendedKeyUsageOID.SERVER_AUTH

WHO = {
    "no certificate": shows(lambda cast: None, 401, "show the node's certificate"),
    "another node's certificate": shows(
        lambda cast: cast.other[1], 403, "subject: must be exactly"),
    "a self-signed one with the right names": shows(self_signed, IN_TLS, "unknown ca"),
    "one of another authority of the same name": shows(of_a_twin, IN_TLS, "alert"),
    "one of another authority, without it": shows(
        lambda cast: cast.forged(by=cast.authority.twin()), IN_TLS, "alert"),
    "one that has expired": forged(IN_TLS, "certificate expired", begins=-2 * HOUR, ends=-HOUR),
    "one that expired a second ago": forged(
        IN_TLS, "certificate expired", ends=-datetime.timedelta(seconds=1)),
    "one that is not yet valid": forged(IN_TLS, "alert", begins=HOUR, ends=2 * HOUR),
    "the authority's own certificate": shows(
        lambda cast: Shown(cast.authority.pem, cast.authority.key), 401, "not authentic"),
    "one that the gate did not give, with the right names": forged(401, UNKNOWN),
    "one with the serial number of the present one": shows(
        lambda cast: cast.forged(serial=cast.serial), 409, COPIED),
    "one for servers alone": forged(
        IN_TLS, "alert", extensions=[(USAGE([SERVER]), False)]),
    "one without usages": forged(401, "not a node's", extensions=[]),
    "one with a critical extension that nobody knows": forged(
        IN_TLS, "alert", extensions=[
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]),
    "one of an authority below": shows(
        lambda cast: from_below(cast, honest=True), 401, UNKNOWN),
    "one of an authority below with the present one's extensions and serial number": shows(
        lambda cast: from_below(cast, honest=False), IN_TLS, "unknown ca"),
    "an administrator's": named(401, UNKNOWN, MASTERS, (COMMON, "kubernetes-admin")),
    "the node's name among administrators": named(
        401, UNKNOWN, MASTERS, NAME),
    "the node's name and one attribute more": named(401, UNKNOWN, NODES, NAME, (UNIT, "x")),
    "two organizations": named(401, UNKNOWN, NODES, MASTERS, NAME),
    "two common names": named(401, UNKNOWN, NODES, NAME, (COMMON, "system:node:other")),
    "the node's name without an organization": named(401, UNKNOWN, NAME),
    "the node's name in upper case": named(401, UNKNOWN, NODES, (COMMON, "NODE-X".upper())),
    "the node's name with a dot": named(401, UNKNOWN, NODES, (COMMON, "NODE.")),
    "a name that nobody has": named(401, UNKNOWN, NODES, (COMMON, "system:node:nobody-at-all")),
    "no subject": forged(401, UNKNOWN, subject=x509.Name([])),
    "a superseded certificate": theirs("renewed", 409, COPIED),
    "a removed node's": theirs("removed", 401, UNKNOWN),
    "one of the generation before": theirs("raised", 401, UNKNOWN),
    "one of the identity before": theirs("moved", 401, UNKNOWN),
}  # fmt: skip


# --- what is asked with the right certificate ---------------------------------------------------


def asks(change: Callable[[Cast], object], status: int, reason: str) -> Attack:
    def send(cast: Cast) -> tuple[int, str]:
        return sent(cast, cast.node[1], json.dumps(change(cast)).encode())

    return Attack(send, status, reason)


def fields(status: int, reason: str, **changes: object) -> Attack:
    return asks(lambda cast: fresh(cast.node[0], **changes), status, reason)


def hosts(reason: str, *values: str) -> Attack:
    """`NODE` stands for the node's name."""
    return asks(
        lambda cast: fresh(
            cast.node[0], hosts=[it.replace("NODE", cast.node[0].name) for it in values]
        ),
        403,
        reason,
    )


def csr(status: int, reason: str, **arguments: Any) -> Attack:
    def change(cast: Cast) -> object:
        node = replace(cast.node[0], key=ec.generate_private_key(ec.SECP256R1()))
        return node.request(certificate_request=node.csr(**arguments))

    return asks(change, status, reason)


def body(data: bytes, status: int, reason: str) -> Attack:
    return Attack(lambda cast: sent(cast, cast.node[1], data), status, reason)


def subject(*attributes: tuple[Any, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def someone_elses_request(cast: Cast) -> object:
    return cast.node[0].request(certificate_request=cast.other[0].csr())


def two_requests(cast: Cast) -> object:
    node = cast.node[0]
    return node.request(certificate_request=node.csr() + node.csr())


def wrongly_signed(cast: Cast) -> object:
    """A request whose last byte, of its signature, is another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.load_pem_x509_csr(cast.node[0].csr(key=key).encode())
    data = bytearray(made.public_bytes(serialization.Encoding.DER))
    data[-1] ^= 1
    return cast.node[0].request(certificate_request=x509_pem(bytes(data)))


def x509_pem(data: bytes) -> str:
    text = ssl.DER_cert_to_PEM_cert(data)
    return text.replace("BEGIN CERTIFICATE", "BEGIN CERTIFICATE REQUEST").replace(
        "END CERTIFICATE", "END CERTIFICATE REQUEST"
    )


MORE = "is not registered for this node"
MAY_NOT = "may not be set by a node"

WHAT = {
    "another node's subject": csr(403, "subject: must be exactly", subject=subject(
        NODES, (COMMON, "system:node:worker-2"))),
    "the subject of an administrator": csr(403, "subject: must be exactly",
        subject=subject(MASTERS, (COMMON, "admin"))),
    "the node among administrators": asks(lambda cast: fresh(
        cast.node[0], certificate_request=cast.node[0].csr(subject=subject(
            MASTERS, (COMMON, f"system:node:{cast.node[0].name}")))),
        403, "subject: must be exactly"),
    "one attribute more": asks(lambda cast: fresh(
        cast.node[0], certificate_request=cast.node[0].csr(
            subject=cast.node[0].subject((UNIT, "x")))), 403, "subject: must be exactly"),
    "fewer names": hosts("must be all those of the certificate", "NODE"),
    "its address alone": hosts("must be all those of the certificate", ADDRESS),
    "another address besides": hosts(MORE, "NODE", ADDRESS, "10.9.8.8"),
    "another name besides": hosts(MORE, "NODE", ADDRESS, "kubernetes.default.svc"),
    "any name": hosts(MORE, "NODE", ADDRESS, "*"),
    "the loopback": hosts(MORE, "NODE", ADDRESS, "127.0.0.1"),
    "an address in other words": hosts(MORE, "NODE", ADDRESS, "::ffff:10.9.8.7"),
    "another name in the request itself": csr(403, MORE, names=[x509.DNSName("other")]),
    "another address in the request itself": csr(403, MORE, names=[
        x509.IPAddress(ipaddress.ip_address("10.9.8.8"))]),
    "a mail address in the request itself": csr(403, "must be DNS or IP", names=[
        x509.RFC822Name("a@example.org")]),
    "other usages": csr(403, "the only extension allowed", extensions=(
        USAGE([ExtendedKeyUsageOID.CODE_SIGNING]),)),
    "the usages that it has, asked for": csr(403, "the only extension allowed", extensions=(
        USAGE([ExtendedKeyUsageOID.CLIENT_AUTH]),)),
    "an authority": csr(403, "the only extension allowed", extensions=(
        x509.BasicConstraints(ca=True, path_length=None),)),
    "the profile of an intermediate authority": fields(403, "profile: must be kubelet",
                                                       profile="intermediate"),
    "the profile of servers": fields(403, "profile: must be kubelet", profile="www"),
    "a longer life": fields(403, MAY_NOT, not_after="2099-01-01T00:00:00Z"),
    "a subject beside the request": fields(403, MAY_NOT, subject={"CN": "admin"}),
    "a serial number": fields(403, MAY_NOT, serial=7),
    "extensions beside the request": fields(403, MAY_NOT, extensions=[{"id": "2.5.29.19"}]),
    "another signer": fields(403, MAY_NOT, label="other"),
    "the key that it has": asks(lambda cast: cast.node[0].request(), 403,
                                "must be another one than that of the certificate"),
    "a weak key": csr(403, "RSA must have 2048", key=rsa.generate_private_key(65537, 1024)),
    "another kind of key": asks(lambda cast: cast.node[0].request(
        certificate_request=ed25519_request(cast.node[0])), 403, "must be"),
    "a curve that is not permitted": csr(403, "P-256 or P-384", key=ec.generate_private_key(
        ec.SECP521R1())),
    "a key that did not sign": asks(wrongly_signed, 403, "its signature does not fit its key"),
    "another node's request": asks(someone_elses_request, 403, "subject: must be exactly"),
    "two requests": asks(two_requests, 400, "exactly one PEM CERTIFICATE REQUEST"),
    "no request": fields(400, "must be PEM text", certificate_request=None),
    "a certificate as the request": asks(lambda cast: cast.node[0].request(
        certificate_request=cast.node[1].certificate), 400, "exactly one PEM CERTIFICATE REQUEST"),
    "a sealed request, as for a join": asks(lambda cast: cast.node[0].sealed(fresh(cast.node[0])),
                                            400, "must be PEM text"),
    "nothing": body(b"", 400, "not valid JSON"),
    "a list": body(b"[]", 400, "must be a JSON object"),
    "a key twice": body(b'{"profile": "kubelet", "profile": "www"}', 400, "stands twice"),
    "no text": body(b"\xff\xfe", 400, "not valid JSON"),
}  # fmt: skip


def ed25519_request(node: TestNode) -> str:
    builder = x509.CertificateSigningRequestBuilder(node.subject())
    made = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    return made.public_bytes(serialization.Encoding.PEM).decode()


# --- where and when -------------------------------------------------------------------------------


def at(path: str, method: str, status: int, reason: str) -> Attack:
    def send(cast: Cast) -> tuple[int, str]:
        return sent(cast, cast.node[1], json.dumps(fresh(cast.node[0])).encode(), path, method)

    return Attack(send, status, reason)


def replayed(pick: Callable[[Cast], Shown | None], status: int, reason: str) -> Attack:
    """The very request with which a node renewed, once more."""
    return Attack(
        lambda cast: sent(cast, pick(cast), json.dumps(cast.used).encode()), status, reason
    )


def joined_again(cast: Cast) -> tuple[int, str]:
    """With the join key that a node has used, for the key of a renewal."""
    node, shown = cast.node
    return sent(cast, shown, json.dumps(node.sealed(fresh(node))).encode(), AUTHSIGN)


def resumed(cast: Cast) -> tuple[int, str]:
    """Without a certificate, on the TLS session of somebody who has shown one."""
    first = cast.gate.context(cast.node[1])
    with first.wrap_socket(cast.gate.connect(), server_hostname=cast.gate.address) as tls:
        tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        tls.recv(4096)
        session = tls.session
    data = json.dumps(fresh(cast.node[0])).encode()
    head = f"POST {RENEWAL} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    first = cast.gate.context()
    with first.wrap_socket(cast.gate.connect(), server_hostname=cast.gate.address) as tls:
        assert session is None or not session.has_ticket
        assert not tls.session_reused
        tls.sendall(head.encode() + data)
        answer = b""
        while piece := tls.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


def trouble(
    pick: Callable[[Cast], Shown | None], value: object, status: int, reason: str
) -> Attack:
    return Attack(
        lambda cast: sent(cast, pick(cast), json.dumps(value).encode(), TROUBLE), status, reason
    )


def own(cast: Cast) -> Shown:
    return cast.node[1]


WHERE = {
    "a renewal with a slash behind": at("/v1/renewal/", "POST", 404, "no such path"),
    "a renewal in upper case": at("/V1/RENEWAL", "POST", 404, "no such path"),
    "a renewal by GET": at(RENEWAL, "GET", 405, "not for this path"),
    "a renewal by PUT": at(RENEWAL, "PUT", 405, "not for this path"),
    "a renewal where nodes join": at(AUTHSIGN, "POST", 400, "foreign key"),
    "a used join key, with the certificate": Attack(joined_again, 409, "has already joined"),
    "another renewal with the request that was used": replayed(
        lambda cast: cast.other[1], 403, "subject: must be exactly"),
    "the request that was used, without a certificate": replayed(
        lambda cast: None, 401, "show the node's certificate"),
    "the request that was used, by an unknown certificate": replayed(
        lambda cast: cast.forged(), 401, UNKNOWN),
    "TLS' session of somebody who has shown a certificate": Attack(
        resumed, 401, "show the node's certificate"),
    "trouble told by nobody": trouble(lambda cast: None, {"message": "x"}, 401, "show the node's"),
    "trouble told by a superseded certificate": trouble(
        lambda cast: cast.renewed[1], {"message": "x"}, 409, "only the present one may tell"),
    "trouble told by a removed node": trouble(
        lambda cast: cast.removed[1], {"message": "x"}, 401, UNKNOWN),
    "trouble of another node": trouble(
        own, {"message": "x", "node": "worker-2"}, 400, "nothing else"),
    "trouble that is no text": trouble(own, {"message": ["x"]}, 400, "nothing else"),
}  # fmt: skip

ATTACKS: dict[str, Attack] = WHO | WHAT | WHERE


def check(cast: Cast, attack: Attack, count: Callable[[], int]) -> None:
    """Refused, for that reason, and without a row in the certdb."""
    before = count()
    status, answer = attack.send(cast)
    assert status == attack.status, answer
    assert any(reason in answer for reason in attack.reason.split(" | ")), answer
    if status != IN_TLS:
        found = json.loads(answer)
        assert (found["success"], found["result"]) == (False, None)
    assert count() == before
