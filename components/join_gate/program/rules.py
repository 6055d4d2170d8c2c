"""What a node may ask to have signed: the rules of the design's "Trust", on the parsed request.

Everything that leaves this room was checked; CFSSL is asked anew from the result, nothing of the
node's request is passed through.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from . import der, names
from .envelope import canonical_base64
from .errors import Refusal

PROFILE = "kubelet"
_READ_KEYS = {"certificate_request", "hosts", "profile"}
# Go's zero time, which the stock client sends where no time was set.
_NO_TIME = "0001-01-01T00:00:00Z"
_HASHES: dict[x509.ObjectIdentifier, Callable[[], hashes.HashAlgorithm]] = {
    SignatureAlgorithmOID.RSA_WITH_SHA256: hashes.SHA256,
    SignatureAlgorithmOID.RSA_WITH_SHA384: hashes.SHA384,
    SignatureAlgorithmOID.RSA_WITH_SHA512: hashes.SHA512,
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: hashes.SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: hashes.SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: hashes.SHA512,
}
_SMALLEST_RSA, _LARGEST_RSA, _SMALLEST_EXPONENT = 2048, 8192, 65537
# A SubjectPublicKeyInfo up to its point, RFC 5480: named curve, bit string without unused bits.
_CURVES: tuple[tuple[ec.EllipticCurve, bytes], ...] = (
    (ec.SECP256R1(), bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")),
    (ec.SECP384R1(), bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200")),
)
_UNCOMPRESSED = b"\x04"
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_MOST_HOSTS = 32
# ASCII alone: `\s` would take white space that no other reader of PEM takes for it.
_PEM = re.compile(
    r"[ \t\r\n]*-----BEGIN (?P<kind>(?:NEW )?CERTIFICATE REQUEST)-----[ \t]*\r?\n"
    r"(?P<data>[A-Za-z0-9+/=\r\n]+)"
    r"-----END (?P=kind)-----[ \t\r\n]*"
)


@dataclass(frozen=True)
class CertificateRequest:
    """A certificate request as the library reads it, and the DER of its parts (RFC 2986).

    `information` is all that is signed: version, `subject`, `key` (SubjectPublicKeyInfo), and
    attributes.
    """

    parsed: x509.CertificateSigningRequest
    information: bytes
    subject: bytes
    key: bytes


@dataclass(frozen=True)
class Signable:
    """A certificate request that kept every rule.

    `hosts` are the names and addresses to put in the certificate; `key` is the public key's
    SubjectPublicKeyInfo in DER, `public_key` the SHA-256 of it in hex.
    """

    name: str
    request: CertificateRequest
    hosts: tuple[str, ...]

    @property
    def pem(self) -> str:
        return self.request.parsed.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key(self) -> bytes:
        return self.request.key

    @property
    def public_key(self) -> str:
        return hashlib.sha256(self.key).hexdigest()


def read_request(data: dict[str, Any]) -> CertificateRequest:
    """The certificate request in a sign request: exactly one PEM block with nothing around it."""
    text = data.get("certificate_request")
    if not isinstance(text, str):
        raise Refusal(400, "certificate_request: must be PEM text")
    match = _PEM.fullmatch(text)
    if match is None:
        raise Refusal(
            400, "certificate_request: must be exactly one PEM CERTIFICATE REQUEST, nothing else"
        )
    with _reading(400, "certificate_request: not a certificate request"):
        data_read = canonical_base64("".join(match["data"].split()))
        parsed = x509.load_der_x509_csr(data_read)
        exact = parsed.public_bytes(serialization.Encoding.DER) == data_read
        information = parsed.tbs_certrequest_bytes
        _, subject, key, _ = der.parts(information)
    if not exact:
        raise Refusal(400, "certificate_request: not in DER, or something stands after it")
    return CertificateRequest(parsed, information, subject, key)


class _reading:
    """Whatever a parser makes of bytes that a node chose, the answer is a refusal.

    `cryptography` 38 even panics on some, which is no Exception.
    """

    def __init__(self, status: int, message: str) -> None:
        self._refusal = (status, message)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, (KeyboardInterrupt, SystemExit)):
            raise Refusal(*self._refusal) from None


def claimed_name(request: CertificateRequest) -> str:
    """The node that the request says it is: its first CN, without any check of the rest."""
    right = names.node_of(request.subject)
    if right is not None:
        return right
    with _reading(400, "certificate_request: subject cannot be read"):
        common_names = request.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        common_name = str(common_names[0].value) if common_names else ""
    name = common_name[len(names.COMMON_NAME_PREFIX) :]
    if not common_name.startswith(names.COMMON_NAME_PREFIX) or not names.is_name(name):
        raise Refusal(
            400,
            "certificate_request: CN must be system:node:<name>, in lower case letters, digits, "
            f"- and ., found {common_name[:80]!r}",
        )
    return name


def check(
    data: dict[str, Any],
    request: CertificateRequest,
    name: str,
    addresses: Sequence[str],
) -> Signable:
    """Hold an authenticated request against the rules for node `name` with these addresses."""
    _check_keys(data)
    _check_profile(data.get("profile"))
    _check_subject(request, name)
    _check_signature(request, _usual_curve_key(request.key) or _checked_key(request))
    allowed = (name, *addresses)
    asked = [*_hosts(data.get("hosts")), *_alternative_names(request.parsed)]
    return Signable(name, request, _permitted(asked, allowed))


def _check_keys(data: dict[str, Any]) -> None:
    """Only the three keys that are read may say anything.

    The stock client always sends more of them, empty: those override nothing.
    """
    for key in sorted(set(data) - _READ_KEYS):
        value = data[key]
        if value is None or value is False or value == _NO_TIME:
            continue
        if isinstance(value, (str, list, dict)) and not value:
            continue
        raise Refusal(403, f"{key[:40]}: may not be set by a node; remove it from the request")


def _check_profile(profile: object) -> None:
    if profile not in (None, "", PROFILE):
        shown = repr(profile)[:40]
        raise Refusal(403, f"profile: must be {PROFILE}, found {shown}")


def _check_subject(request: CertificateRequest, name: str) -> None:
    if request.subject not in names.subjects(name):
        raise Refusal(
            403,
            f"subject: must be exactly CN=system:node:{name}, O=system:nodes, "
            f"found {request.parsed.subject.rfc4514_string()[:200]}",
        )


def _usual_curve_key(key: bytes) -> ec.EllipticCurvePublicKey | None:
    """An ECDSA key on a permitted curve in its usual encoding; None for every other.

    Those are the keys that nodes come with, and by their point they load in a tenth of the time
    that OpenSSL 3 needs to find out what kind of key it is given.
    """
    for curve, head in _CURVES:
        point = key[len(head) :]
        usual = key.startswith(head) and point[:1] == _UNCOMPRESSED
        if usual and len(point) == 1 + 2 * (curve.key_size // 8):
            with _reading(403, "key: is no point of its curve"):
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    return None


def _checked_key(request: CertificateRequest) -> rsa.RSAPublicKey:
    """An RSA key that is long enough. CFSSL can't read unusual encodings, or reads another key."""
    with _reading(403, "key: must be RSA or ECDSA, found another kind"):
        key = request.parsed.public_key()
        encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        usual = key.public_bytes(*encoding) == request.key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, tuple(type(curve) for curve, _ in _CURVES)):
            raise Refusal(403, f"key: ECDSA must be P-256 or P-384, found {key.curve.name}")
        usual = False
    elif not isinstance(key, rsa.RSAPublicKey):
        raise Refusal(403, "key: must be RSA or ECDSA, found another kind")
    if not usual or not isinstance(key, rsa.RSAPublicKey):
        raise Refusal(403, "key: must be in its usual encoding (rsaEncryption, uncompressed point)")
    if not _SMALLEST_RSA <= key.key_size <= _LARGEST_RSA:
        raise Refusal(
            403, f"key: RSA must have {_SMALLEST_RSA} to {_LARGEST_RSA} bits, found {key.key_size}"
        )
    if key.public_numbers().e < _SMALLEST_EXPONENT:
        raise Refusal(403, f"key: RSA exponent must be {_SMALLEST_EXPONENT} or larger")
    return key


def _check_signature(
    request: CertificateRequest, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> None:
    weak = "certificate_request: must be signed with SHA-256, SHA-384 or SHA-512"
    with _reading(403, weak):
        algorithm = _HASHES[request.parsed.signature_algorithm_oid]()
    with _reading(403, "certificate_request: its signature does not fit its key"):
        verify(key, request.parsed.signature, request.information, algorithm)


def verify(key: Any, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm | None) -> None:
    """Return where `key` made the signature; any exception where it did not.

    With a key that is loaded already: every loading costs OpenSSL 3 more than the verifying.
    """
    if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
        key.verify(signature, data, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
        # hashlib's way to the same digest is the shorter one.
        digest = hashlib.new(algorithm.name, data).digest()
        key.verify(signature, digest, ec.ECDSA(utils.Prehashed(algorithm)))
    else:
        key.verify(signature, data)


def _hosts(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(host, str) for host in value):
        raise Refusal(400, "hosts: must be a list of text")
    if len(value) > _MOST_HOSTS:
        raise Refusal(403, f"hosts: at most {_MOST_HOSTS}, found {len(value)}")
    return value


def _alternative_names(request: x509.CertificateSigningRequest) -> list[str]:
    """The names in the request's one permitted extension, subjectAltName."""
    _check_attributes(request)
    with _reading(403, "certificate_request: its extensions cannot be read"):
        extensions = list(request.extensions)
    result: list[str] = []
    for extension in extensions:
        if extension.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            raise Refusal(
                403,
                "certificate_request: the only extension allowed is subjectAltName, "
                f"found {extension.oid.dotted_string}",
            )
        for general_name in extension.value:
            if not isinstance(general_name, (x509.DNSName, x509.IPAddress)):
                kind = type(general_name).__name__
                raise Refusal(403, f"subjectAltName: must be DNS or IP, found {kind}")
            result.append(str(general_name.value))
    return result


def _check_attributes(request: x509.CertificateSigningRequest) -> None:
    """Nothing but PKCS #10's extension request: there are other places to hide extensions in."""
    with _reading(403, "certificate_request: its attributes cannot be read"):
        found = [attribute.oid.dotted_string for attribute in request.attributes]
    if len(found) > 1:
        raise Refusal(403, "certificate_request: an attribute stands twice; only one is allowed")
    for identifier in found:
        if identifier != _EXTENSION_REQUEST:
            raise Refusal(
                403, f"certificate_request: attribute {identifier} is not allowed; remove it"
            )


def _permitted(asked: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """`asked` without repeats, all of it within `allowed`; all that is allowed if none is asked."""
    canonical = {names.address(host) or host: None for host in asked}
    known = [names.address(host) or host for host in allowed]
    for host in canonical:
        if host not in known:
            raise Refusal(
                403, f"hosts: {host[:80]!r} is not registered for this node ({', '.join(known)})"
            )
    return tuple(canonical) if canonical else tuple(dict.fromkeys(known))
