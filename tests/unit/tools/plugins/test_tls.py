"""Keys, requests and certificates, checked by `cryptography` and OpenSSL's own reading of them."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.plugins import tls
from tools.plugins.base import CheckFailures, Failure, Request
from tools.plugins.values import UNKNOWN

KEY = tls.HANDLERS["tls:index/privateKey:PrivateKey"]
REQUEST = tls.HANDLERS["tls:index/certRequest:CertRequest"]
SELF_SIGNED = tls.HANDLERS["tls:index/selfSignedCert:SelfSignedCert"]
SIGNED = tls.HANDLERS["tls:index/locallySignedCert:LocallySignedCert"]
LIFE = {"allowedUses": ["digital_signature"], "validityPeriodHours": 24}


def ask(inputs: dict[str, Any], **options: Any) -> Request:
    return Request("urn:pulumi:dev::test::t::name", "t", "name", inputs, **options)


def make(handler: tls.Material, **inputs: Any) -> tuple[str, dict[str, Any]]:
    """The id and the outputs of a checked create."""
    created = handler.create(ask(handler.check(ask(inputs))))
    return created.identifier, created.outputs


def key_pem(**inputs: Any) -> str:
    pem: str = make(KEY, **({"algorithm": "ECDSA", "ecdsaCurve": "P256"} | inputs))[1][
        "privateKeyPem"
    ]
    return pem


def ssh_keygen(tmp_path: Path, text: str, *arguments: str) -> str:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    command = ["ssh-keygen", *arguments, "-f", str(tmp_path / "key")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("inputs", "header"),
    [
        ({"algorithm": "RSA", "rsaBits": 1024}, "RSA PRIVATE KEY"),
        ({"algorithm": "ECDSA", "ecdsaCurve": "P256"}, "EC PRIVATE KEY"),
        ({"algorithm": "ECDSA", "ecdsaCurve": "P384"}, "EC PRIVATE KEY"),
        ({"algorithm": "ECDSA", "ecdsaCurve": "P521"}, "EC PRIVATE KEY"),
        ({"algorithm": "ED25519"}, "PRIVATE KEY"),
    ],
)
def test_all_forms_of_a_key_are_the_same_key(
    tmp_path: Path, inputs: dict[str, Any], header: str
) -> None:
    identifier, outputs = make(KEY, **inputs)
    assert len(bytes.fromhex(identifier)) == 20
    assert outputs["privateKeyPem"].startswith(f"-----BEGIN {header}-----\n")
    assert outputs["privateKeyPemPkcs8"].startswith("-----BEGIN PRIVATE KEY-----\n")
    public = {
        serialization.load_pem_private_key(outputs[name].encode(), None)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
        for name in ("privateKeyPem", "privateKeyPemPkcs8")
    }
    assert public == {outputs["publicKeyPem"]}
    assert ssh_keygen(tmp_path, outputs["privateKeyOpenssh"], "-y") == (
        outputs["publicKeyOpenssh"].strip()
    )
    assert outputs["publicKeyOpenssh"].endswith("\n")
    for form in ("md5", "sha256"):
        listed = ssh_keygen(tmp_path, outputs["publicKeyOpenssh"], "-l", "-E", form).split()[1]
        assert listed.removeprefix("MD5:") == outputs[f"publicKeyFingerprint{form.capitalize()}"]


def test_p224_is_the_default_curve_and_unknown_to_openssh() -> None:
    _, outputs = make(KEY, algorithm="ECDSA")
    assert outputs["ecdsaCurve"] == "P224"
    assert outputs["rsaBits"] == 2048
    key = serialization.load_pem_private_key(outputs["privateKeyPem"].encode(), None)
    assert key.curve.name == "secp224r1"  # type: ignore[union-attr]
    empty = ("privateKeyOpenssh", "publicKeyOpenssh", "publicKeyFingerprintMd5",
             "publicKeyFingerprintSha256")  # fmt: skip
    assert [outputs[name] for name in empty] == [""] * 4


def test_a_preview_knows_inputs_and_defaults_only() -> None:
    created = KEY.create(ask({"algorithm": "ED25519"}, preview=True))
    assert created.identifier == ""
    known = {name: each for name, each in created.outputs.items() if each is not UNKNOWN}
    assert known == {"algorithm": "ED25519", "ecdsaCurve": "P224", "rsaBits": 2048}
    created = SELF_SIGNED.create(ask({**LIFE, "privateKeyPem": UNKNOWN}, preview=True))
    unknown = {name for name, each in created.outputs.items() if each is UNKNOWN}
    assert unknown == {"privateKeyPem", "certPem", "keyAlgorithm", "validityStartTime",
                       "validityEndTime"}  # fmt: skip
    assert created.outputs["readyForRenewal"] is False


SUBJECT = {
    "commonName": "system:node:worker-1",
    "organization": "system:nodes",
    "country": "SE",
    "streetAddresses": ["One", "Two"],
    "serialNumber": "7",
}
NAMES = {"dnsNames": ["a.test"], "ipAddresses": ["10.0.0.1", "fd00::1"], "uris": ["spiffe://x/y"]}


def names_of(extensions: x509.Extensions) -> list[Any]:
    found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [each.value for each in found]


ALTERNATIVE_NAMES = ["a.test", ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1"),
                     "spiffe://x/y"]  # fmt: skip


def test_a_request_holds_subject_and_names() -> None:
    identifier, outputs = make(REQUEST, privateKeyPem=key_pem(), subject=SUBJECT, **NAMES)
    request = x509.load_pem_x509_csr(outputs["certRequestPem"].encode())
    assert request.is_signature_valid
    assert [attribute.value for attribute in request.subject] == [
        "SE", "system:nodes", "One", "Two", "system:node:worker-1", "7",
    ]  # fmt: skip
    assert names_of(request.extensions) == ALTERNATIVE_NAMES
    assert outputs["keyAlgorithm"] == "ECDSA"
    assert len(bytes.fromhex(identifier)) == 20


@pytest.mark.parametrize(
    ("curve", "digest"), [("P256", "sha256"), ("P384", "sha384"), ("P521", "sha512")]
)
def test_a_self_signed_authority(curve: str, digest: str) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    identifier, outputs = make(
        SELF_SIGNED,
        privateKeyPem=key_pem(ecdsaCurve=curve),
        subject={"commonName": "the authority"},
        allowedUses=["cert_signing", "crl_signing", "server_auth"],
        validityPeriodHours=2,
        isCaCertificate=True,
        maxPathLength=0,
        setAuthorityKeyId=True,
        **NAMES,
    )
    certificate = x509.load_pem_x509_certificate(outputs["certPem"].encode())
    certificate.verify_directly_issued_by(certificate)
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == digest
    assert identifier == str(certificate.serial_number)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert start >= before
    assert end - start == datetime.timedelta(hours=2)
    assert outputs["validityStartTime"] == start.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert outputs["validityEndTime"] == end.strftime("%Y-%m-%dT%H:%M:%SZ")
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
    subject_key = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority_key = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority_key.key_identifier == subject_key.digest
    assert names_of(extensions) == ALTERNATIVE_NAMES


def authority() -> dict[str, str]:
    key = key_pem(ecdsaCurve="P384")
    _, outputs = make(
        SELF_SIGNED, privateKeyPem=key, isCaCertificate=True, subject={"commonName": "root"},
        allowedUses=["cert_signing"], validityPeriodHours=48,
    )  # fmt: skip
    return {"caCertPem": outputs["certPem"], "caPrivateKeyPem": key}


def test_an_authority_signs_a_request() -> None:
    _, request = make(REQUEST, privateKeyPem=key_pem(algorithm="ED25519"), subject=SUBJECT, **NAMES)
    issuer = authority()
    pem = request["certRequestPem"]
    _, outputs = make(SIGNED, certRequestPem=pem, setSubjectKeyId=True, **issuer, **LIFE)
    certificate = x509.load_pem_x509_certificate(outputs["certPem"].encode())
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(issuer["caCertPem"].encode())
    )
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [attribute.value for attribute in common] == ["system:node:worker-1"]
    assert names_of(certificate.extensions) == ALTERNATIVE_NAMES
    assert outputs["caKeyAlgorithm"] == "ECDSA"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)


def test_what_cannot_be_read_is_named_without_being_shown() -> None:
    with pytest.raises(Failure, match=r"^privateKeyPem: not an unencrypted private key in PEM$"):
        make(REQUEST, privateKeyPem="a secret")
    _, made = make(REQUEST, privateKeyPem=key_pem())
    request = {"certRequestPem": made["certRequestPem"]}
    with pytest.raises(Failure, match="caPrivateKeyPem: is not the key of the certificate"):
        make(SIGNED, **{**authority(), "caPrivateKeyPem": key_pem()}, **request, **LIFE)
    with pytest.raises(Failure, match="caCertPem: not a certificate"):
        make(SIGNED, **{**authority(), "caCertPem": "x"}, **request, **LIFE)
    with pytest.raises(Failure, match=r"'10\.0\.0\.300' is not an IP address"):
        make(REQUEST, privateKeyPem=key_pem(), ipAddresses=["10.0.0.300"])


@pytest.mark.parametrize(
    ("handler", "inputs", "named"),
    [
        (KEY, {"algorithm": "DSA"}, "algorithm: 'DSA' is not one of RSA, ECDSA, ED25519"),
        (KEY, {}, "algorithm: missing"),
        (KEY, {"algorithm": "RSA", "rsaBits": 512}, "rsaBits: at least 1024"),
        (KEY, {"algorithm": "RSA", "rsaBits": True}, "rsaBits: wrong type"),
        (KEY, {"algorithm": "RSA", "bits": 2048}, "bits: not served"),
        (REQUEST, {"privateKeyPem": "x", "privateKeyPemWo": "y"}, "privateKeyPemWo: not served"),
        (SELF_SIGNED, {**LIFE, "allowedUses": ["any"], "privateKeyPem": "x"}, "allowedUses: 'any'"),
        (SELF_SIGNED, {**LIFE, "validityPeriodHours": -1, "privateKeyPem": "x"}, "at least 0"),
    ],
)
def test_wrong_inputs_are_named(handler: tls.Material, inputs: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckFailures, match=named):
        handler.check(ask(inputs))


def test_a_default_written_out_is_no_difference() -> None:
    difference = KEY.diff(
        ask({"algorithm": "RSA", "rsaBits": 2048}, old_inputs={"algorithm": "RSA"})
    )
    assert not difference.paths
    difference = KEY.diff(
        ask({"algorithm": "RSA", "rsaBits": 4096}, old_inputs={"algorithm": "RSA"})
    )
    assert difference.paths == {"rsaBits": "UPDATE"}
    assert difference.replaces == ["rsaBits"]


def test_only_early_renewal_hours_change_in_place() -> None:
    inputs = {**LIFE, "privateKeyPem": key_pem()}
    _, outputs = make(SELF_SIGNED, **inputs)
    sooner = ask({**inputs, "earlyRenewalHours": 1}, old_inputs=inputs, old_outputs=outputs)
    difference = SELF_SIGNED.diff(sooner)
    assert (list(difference.paths), difference.replaces) == (["earlyRenewalHours"], [])
    updated = SELF_SIGNED.update(sooner)
    assert updated["certPem"] == outputs["certPem"]
    assert updated["earlyRenewalHours"] == 1


def test_a_certificate_that_is_due_is_replaced() -> None:
    inputs = {**LIFE, "privateKeyPem": key_pem(), "earlyRenewalHours": 25}
    _, outputs = make(SELF_SIGNED, **inputs)
    difference = SELF_SIGNED.diff(ask(inputs, old_inputs=inputs, old_outputs=outputs))
    assert difference.replaces == ["readyForRenewal"]
    state = SELF_SIGNED.read(ask(inputs, old_outputs=outputs, identifier="1"))
    assert state is not None
    assert state.outputs["readyForRenewal"] is True
