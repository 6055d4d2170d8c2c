"""The lab's stand-in for Pulumi's `tls` plugin: keys, requests, and self-signed certificates."""

from __future__ import annotations

import base64
import datetime
import hashlib
import secrets
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from tools.plugins.plugin import Failure, Kind, Properties, Request

PrivateKeyObject = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_PEM = serialization.Encoding.PEM
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


class Material(Kind):
    """A thing that is made once from its inputs; another input makes another thing."""

    defaults: ClassVar[Properties] = {}
    updated_in_place: frozenset[str] = frozenset()

    def complete(self, inputs: Properties) -> Properties:
        return {**self.defaults, **inputs}

    def replacing(self, request: Request, old_inputs: Properties) -> list[str]:
        old, new = self.complete(old_inputs), self.complete(request.inputs)
        fixed = self.inputs - self.updated_in_place
        return sorted(name for name in fixed if old.get(name) != new.get(name))

    def update(self, request: Request) -> Properties:
        return {name: request.old[name] for name in self.computed}


class PrivateKey(Material):
    inputs = frozenset({"algorithm", "ecdsaCurve"})
    required = frozenset({"algorithm"})
    defaults: ClassVar[Properties] = {"ecdsaCurve": "P224", "rsaBits": 2048}
    computed = ("privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh", "publicKeyPem",
                "publicKeyOpenssh", "publicKeyFingerprintMd5",
                "publicKeyFingerprintSha256")  # fmt: skip

    def wrong(self, inputs: Properties) -> dict[str, str]:
        found = super().wrong(inputs)
        if (inputs.get("algorithm"), inputs.get("ecdsaCurve")) not in (
            ("ECDSA", "P256"),
            ("ED25519", None),
        ):
            found["algorithm"] = "the lab's stand-in makes ECDSA P256 and ED25519 keys only"
        return found

    def create(self, request: Request) -> tuple[str, Properties]:
        formats = serialization.PrivateFormat
        key: PrivateKeyObject
        if request.inputs["algorithm"] == "ECDSA":
            key, plain = ec.generate_private_key(ec.SECP256R1()), formats.TraditionalOpenSSL
        else:
            key, plain = ed25519.Ed25519PrivateKey.generate(), formats.PKCS8
        public = key.public_key()
        openssh = public.public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        ).decode()
        blob = base64.b64decode(openssh.split()[1])
        made = (
            private_text(key, plain),
            private_text(key, formats.PKCS8),
            private_text(key, formats.OpenSSH),
            public.public_bytes(_PEM, _SPKI).decode(),
            f"{openssh}\n",
            hashlib.md5(blob).digest().hex(":"),
            f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}",
        )
        return public_digest(key), dict(zip(self.computed, made, strict=True))


class CertificateRequest(Material):
    inputs = frozenset({"privateKeyPem", "subject"})
    required = inputs
    computed = ("certRequestPem", "keyAlgorithm")

    def create(self, request: Request) -> tuple[str, Properties]:
        key = loaded(request.inputs["privateKeyPem"])
        builder = x509.CertificateSigningRequestBuilder(name_of(request.inputs["subject"]))
        made = builder.sign(key, digest_of(key))
        identifier = hashlib.sha1(made.public_bytes(serialization.Encoding.DER)).hexdigest()
        pem = made.public_bytes(_PEM).decode()
        return identifier, {"certRequestPem": pem, "keyAlgorithm": algorithm_of(key)}


class SelfSignedCertificate(Material):
    inputs = frozenset(
        {"privateKeyPem", "subject", "allowedUses", "validityPeriodHours", "earlyRenewalHours"}
    )
    required = inputs - {"earlyRenewalHours"}
    defaults: ClassVar[Properties] = {
        "earlyRenewalHours": 0,
        "isCaCertificate": False,
        "maxPathLength": -1,
        "readyForRenewal": False,
        "setAuthorityKeyId": False,
        "setSubjectKeyId": False,
    }
    updated_in_place = frozenset({"earlyRenewalHours"})
    computed = ("certPem", "validityStartTime", "validityEndTime", "keyAlgorithm")

    def wrong(self, inputs: Properties) -> dict[str, str]:
        found = super().wrong(inputs)
        if inputs.get("allowedUses"):
            found["allowedUses"] = "the lab's stand-in makes certificates for no use only"
        return found

    def replacing(self, request: Request, old_inputs: Properties) -> list[str]:
        found = super().replacing(request, old_inputs)
        hours = self.complete(request.inputs)["earlyRenewalHours"]
        return found or (["readyForRenewal"] if due(request.old, hours) else [])

    def read(self, old: Properties) -> Properties:
        return {**old, "readyForRenewal": due(old, old.get("earlyRenewalHours", 0))}

    def create(self, request: Request) -> tuple[str, Properties]:
        inputs = request.inputs
        key = loaded(inputs["privateKeyPem"])
        name, serial = name_of(inputs["subject"]), secrets.randbits(127) or 1
        start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        end = start + datetime.timedelta(hours=inputs["validityPeriodHours"])
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        builder = x509.CertificateBuilder(name, name, key.public_key(), serial, start, end)
        made = builder.add_extension(constraints, critical=True).sign(key, digest_of(key))
        return str(serial), {
            "certPem": made.public_bytes(_PEM).decode(),
            "validityStartTime": start.isoformat().replace("+00:00", "Z"),
            "validityEndTime": end.isoformat().replace("+00:00", "Z"),
            "keyAlgorithm": algorithm_of(key),
        }


def due(old: Properties, early_hours: Any) -> bool:
    """Whether a certificate's time for renewal has come; not where that is known later."""
    if not isinstance(early_hours, (int, float)) or "validityEndTime" not in old:
        return False
    end = datetime.datetime.fromisoformat(old["validityEndTime"])
    return datetime.datetime.now(datetime.UTC) >= end - datetime.timedelta(hours=early_hours)


def loaded(pem: str) -> PrivateKeyObject:
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise Failure("privateKeyPem: not an unencrypted private key in PEM") from None
    if not isinstance(key, PrivateKeyObject):
        raise Failure("privateKeyPem: the lab's stand-in takes ECDSA and Ed25519 keys only")
    return key


def private_text(key: PrivateKeyObject, form: serialization.PrivateFormat) -> str:
    return key.private_bytes(_PEM, form, serialization.NoEncryption()).decode()


def public_digest(key: PrivateKeyObject) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.DER, _SPKI)
    return hashlib.sha1(public).hexdigest()


def digest_of(key: PrivateKeyObject) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def algorithm_of(key: PrivateKeyObject) -> str:
    return "ED25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "ECDSA"


def name_of(subject: Properties) -> x509.Name:
    strange = [name for name, value in subject.items() if name != "commonName" and value]
    if strange:
        raise Failure(f"subject.{strange[0]}: the lab's stand-in takes a commonName only")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject["commonName"])])


KINDS = {
    "tls:index/privateKey:PrivateKey": PrivateKey(),
    "tls:index/certRequest:CertRequest": CertificateRequest(),
    "tls:index/selfSignedCert:SelfSignedCert": SelfSignedCertificate(),
}


def stop() -> None:
    """Nothing here runs for long."""
