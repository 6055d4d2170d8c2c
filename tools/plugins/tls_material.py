"""Keys, requests and certificates by `cryptography`, as hashicorp/tls makes them."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.plugins.base import Failure
from tools.plugins.values import Properties

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
SignatureHash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P224": ec.SECP224R1,
    "P256": ec.SECP256R1,
    "P384": ec.SECP384R1,
    "P521": ec.SECP521R1,
}
# In the order in which Go writes them.
_SUBJECT = {
    "country": NameOID.COUNTRY_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "streetAddresses": NameOID.STREET_ADDRESS,
    "postalCode": NameOID.POSTAL_CODE,
    "commonName": NameOID.COMMON_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
_USAGES = {
    "digital_signature": "digital_signature",
    "content_commitment": "content_commitment",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "cert_signing": "key_cert_sign",
    "crl_signing": "crl_sign",
    "encipher_only": "encipher_only",
    "decipher_only": "decipher_only",
}
_EXTENDED_USAGES = {
    "any_extended": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server_auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client_auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code_signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email_protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec_end_system": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec_tunnel": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec_user": x509.ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp_signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft_server_gated_crypto": x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape_server_gated_crypto": x509.ObjectIdentifier("2.16.840.1.113730.4.1"),
    "microsoft_commercial_code_signing": x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.22"),
    "microsoft_kernel_code_signing": x509.ObjectIdentifier("1.3.6.1.4.1.311.61.1.1"),
}


# --- keys ------------------------------------------------------------------------------------


def generate_key(algorithm: str, rsa_bits: int, curve: str) -> PrivateKey:
    """A new key; `curve` for ECDSA, `rsa_bits` for RSA."""
    if algorithm == "RSA":
        return rsa.generate_private_key(65537, rsa_bits)
    if algorithm == "ECDSA":
        return ec.generate_private_key(_CURVES[curve]())
    return ed25519.Ed25519PrivateKey.generate()


def load_key(pem: str, name: str) -> PrivateKey:
    """The key in the property `name`. Raises Failure."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise Failure(f"{name}: not an unencrypted private key in PEM") from error
    if not isinstance(key, PrivateKey):
        raise Failure(f"{name}: an RSA, ECDSA or Ed25519 key is needed")
    return key


def algorithm_of(key: PrivateKey | PublicKey) -> str:
    """RSA, ECDSA or ED25519."""
    if isinstance(key, (rsa.RSAPrivateKey, rsa.RSAPublicKey)):
        return "RSA"
    if isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        return "ECDSA"
    return "ED25519"


def key_outputs(key: PrivateKey) -> tuple[str, Properties]:
    """The id (SHA-1 of the public key) and the outputs of a PrivateKey resource."""
    formats = serialization.PrivateFormat
    plain = formats.PKCS8 if algorithm_of(key) == "ED25519" else formats.TraditionalOpenSSL
    public = key.public_key()
    information = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    outputs = {
        "privateKeyPem": _private_text(key, plain),
        "privateKeyPemPkcs8": _private_text(key, formats.PKCS8),
        "publicKeyPem": public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        **_openssh_outputs(key),
    }
    return hashlib.sha1(information).hexdigest(), outputs


def _private_text(key: PrivateKey, form: serialization.PrivateFormat) -> str:
    encoding = serialization.Encoding.PEM
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _openssh_outputs(key: PrivateKey) -> Properties:
    names = ("privateKeyOpenssh", "publicKeyOpenssh",
             "publicKeyFingerprintMd5", "publicKeyFingerprintSha256")  # fmt: skip
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP224R1):
        return dict.fromkeys(names, "")  # OpenSSH has no such curve
    public = (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )
    blob = base64.b64decode(public.split()[1])
    md5 = hashlib.md5(blob).hexdigest()
    sha256 = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    values = (
        _private_text(key, serialization.PrivateFormat.OpenSSH),
        public + "\n",
        ":".join(md5[index : index + 2] for index in range(0, 32, 2)),
        f"SHA256:{sha256}",
    )
    return dict(zip(names, values, strict=True))


def _signature_hash(key: PrivateKey) -> SignatureHash:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256:
        return hashes.SHA384() if key.curve.key_size == 384 else hashes.SHA512()
    return hashes.SHA256()


# --- names -----------------------------------------------------------------------------------


def subject_name(subject: dict[str, Any] | None) -> x509.Name:
    """A distinguished name from the `subject` input."""
    parts: list[x509.NameAttribute[str]] = []
    for key, identifier in _SUBJECT.items():
        given = (subject or {}).get(key)
        for value in given if isinstance(given, list) else [given]:
            if value:
                # Not validated: Go does not insist on a country's two letters either.
                parts.append(x509.NameAttribute(identifier, value, _validate=False))
    return x509.Name(parts)


def alternative_names(inputs: Properties) -> x509.SubjectAlternativeName | None:
    """dnsNames, ipAddresses and uris as an extension. Raises Failure."""
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in inputs.get("dnsNames") or []]
    for each in inputs.get("ipAddresses") or []:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(each)))
        except ValueError as error:
            raise Failure(f"ipAddresses: {each!r} is not an IP address") from error
    names += [x509.UniformResourceIdentifier(each) for each in inputs.get("uris") or []]
    return x509.SubjectAlternativeName(names) if names else None


# --- requests --------------------------------------------------------------------------------


def certificate_request(inputs: Properties) -> tuple[str, Properties]:
    """The id (SHA-1 of the request) and the outputs of a CertRequest. Raises Failure."""
    key = load_key(inputs["privateKeyPem"], "privateKeyPem")
    builder = x509.CertificateSigningRequestBuilder(subject_name(inputs.get("subject")))
    names = alternative_names(inputs)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    request = builder.sign(key, _signature_hash(key))
    digest = hashlib.sha1(request.public_bytes(serialization.Encoding.DER)).hexdigest()
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    return digest, {"certRequestPem": pem, "keyAlgorithm": algorithm_of(key)}


# --- certificates ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Issue:
    """What goes into a certificate, whoever signs it."""

    subject: x509.Name
    public_key: PublicKey
    names: x509.SubjectAlternativeName | None
    issuer: x509.Name
    signer: PrivateKey
    authority: x509.AuthorityKeyIdentifier | None


def self_signed(inputs: Properties) -> tuple[str, Properties]:
    """The serial number and the outputs of a SelfSignedCert. Raises Failure."""
    key = load_key(inputs["privateKeyPem"], "privateKeyPem")
    subject = subject_name(inputs.get("subject"))
    public = key.public_key()
    authority = None
    if inputs.get("setAuthorityKeyId"):
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    issue = _Issue(subject, public, alternative_names(inputs), subject, key, authority)
    serial, outputs = _certificate(issue, inputs)
    return serial, {**outputs, "keyAlgorithm": algorithm_of(key)}


def locally_signed(inputs: Properties) -> tuple[str, Properties]:
    """The serial number and the outputs of a LocallySignedCert. Raises Failure."""
    try:
        request = x509.load_pem_x509_csr(inputs["certRequestPem"].encode())
    except ValueError as error:
        raise Failure("certRequestPem: not a certificate request in PEM") from error
    if not request.is_signature_valid:
        raise Failure("certRequestPem: the request's signature does not fit its key")
    public = request.public_key()
    if not isinstance(public, PublicKey):
        raise Failure("certRequestPem: an RSA, ECDSA or Ed25519 key is needed")
    authority, signer = _authority(inputs)
    issue = _Issue(
        request.subject, public, _requested_names(request), authority.subject, signer,
        _authority_identifier(authority),
    )  # fmt: skip
    serial, outputs = _certificate(issue, inputs)
    return serial, {**outputs, "caKeyAlgorithm": algorithm_of(signer)}


def _authority(inputs: Properties) -> tuple[x509.Certificate, PrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(inputs["caCertPem"].encode())
    except ValueError as error:
        raise Failure("caCertPem: not a certificate in PEM") from error
    signer = load_key(inputs["caPrivateKeyPem"], "caPrivateKeyPem")
    if certificate.public_key() != signer.public_key():
        raise Failure("caPrivateKeyPem: is not the key of the certificate in caCertPem")
    return certificate, signer


def _requested_names(
    request: x509.CertificateSigningRequest,
) -> x509.SubjectAlternativeName | None:
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    return extension.value


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier | None:
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _certificate(issue: _Issue, inputs: Properties) -> tuple[str, Properties]:
    serial = secrets.randbits(127) or 1
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    end = start + datetime.timedelta(hours=inputs["validityPeriodHours"])
    builder = (
        x509.CertificateBuilder()
        .subject_name(issue.subject)
        .issuer_name(issue.issuer)
        .public_key(issue.public_key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension, critical in _extensions(issue, inputs):
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(issue.signer, _signature_hash(issue.signer))
    return str(serial), {
        "certPem": certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "validityStartTime": _rfc3339(start),
        "validityEndTime": _rfc3339(end),
        "readyForRenewal": False,
    }


def _extensions(issue: _Issue, inputs: Properties) -> list[tuple[x509.ExtensionType, bool]]:
    authority = bool(inputs.get("isCaCertificate"))
    length = inputs.get("maxPathLength")
    length = length if authority and length is not None and length >= 0 else None
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        *_usage_extensions(inputs["allowedUses"]),
        (x509.BasicConstraints(ca=authority, path_length=length), True),
    ]
    if authority or inputs.get("setSubjectKeyId"):
        extensions.append((x509.SubjectKeyIdentifier.from_public_key(issue.public_key), False))
    if issue.authority is not None:
        extensions.append((issue.authority, False))
    if issue.names is not None:
        extensions.append((issue.names, False))
    return extensions


def _usage_extensions(allowed: list[str]) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    flags = {_USAGES[each] for each in allowed if each in _USAGES}
    if flags:
        if flags & {"encipher_only", "decipher_only"}:
            flags.add("key_agreement")  # they qualify it, and mean nothing alone
        found.append((x509.KeyUsage(**{each: each in flags for each in _USAGES.values()}), True))
    extended = [_EXTENDED_USAGES[each] for each in allowed if each in _EXTENDED_USAGES]
    if extended:
        found.append((x509.ExtendedKeyUsage(extended), False))
    return found


def _rfc3339(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
