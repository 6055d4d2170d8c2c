"""Keys, requests and certificates, checked by `cryptography` and OpenSSH's own reading of them."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tools.plugins.plugin import UNKNOWN, Failure, Request
from tools.plugins.tls import KINDS, Material, due

KEY = KINDS["tls:index/privateKey:PrivateKey"]
REQUEST = KINDS["tls:index/certRequest:CertRequest"]
SELF_SIGNED = KINDS["tls:index/selfSignedCert:SelfSignedCert"]
ECDSA = {"algorithm": "ECDSA", "ecdsaCurve": "P256"}
SUBJECT = {"commonName": "autojoin join gate"}


def make(kind: Material, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The id and the outputs."""
    assert kind.wrong(inputs) == {}
    identifier, made = kind.create(Request("urn:pulumi:dev::test::t::n", inputs))
    assert set(made) == set(kind.computed)
    return identifier, {**kind.complete(inputs), **made}


def certificate(**inputs: Any) -> dict[str, Any]:
    return {
        "privateKeyPem": make(KEY, ECDSA)[1]["privateKeyPem"],
        "subject": SUBJECT,
        "allowedUses": [],
        "validityPeriodHours": 24.0,
        **inputs,
    }


def ssh_keygen(tmp_path: Path, text: str, *arguments: str) -> str:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    command = ["ssh-keygen", *arguments, "-f", str(tmp_path / "key")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("inputs", "header"),
    [(ECDSA, "EC PRIVATE KEY"), ({"algorithm": "ED25519"}, "PRIVATE KEY")],
)
def test_all_forms_of_a_key_are_the_same_key(
    tmp_path: Path, inputs: dict[str, Any], header: str
) -> None:
    identifier, outputs = make(KEY, inputs)
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
    for form in ("md5", "sha256"):
        listed = ssh_keygen(tmp_path, outputs["publicKeyOpenssh"], "-l", "-E", form).split()[1]
        assert listed.removeprefix("MD5:") == outputs[f"publicKeyFingerprint{form.capitalize()}"]


@pytest.mark.parametrize("inputs", [ECDSA, {"algorithm": "ED25519"}])
def test_a_request_is_of_its_key_and_name(inputs: dict[str, Any]) -> None:
    key = make(KEY, inputs)[1]
    made = make(REQUEST, {"privateKeyPem": key["privateKeyPem"], "subject": SUBJECT})[1]
    request = x509.load_pem_x509_csr(made["certRequestPem"].encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=autojoin join gate"
    assert made["keyAlgorithm"] == inputs["algorithm"]


def test_a_certificate_lives_as_long_as_it_says() -> None:
    identifier, made = make(SELF_SIGNED, certificate())
    found = x509.load_pem_x509_certificate(made["certPem"].encode())
    found.verify_directly_issued_by(found)
    assert found.serial_number == int(identifier)
    assert found.not_valid_after_utc - found.not_valid_before_utc == datetime.timedelta(hours=24)
    assert made["validityEndTime"] == found.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert made["readyForRenewal"] is False


def test_only_early_renewal_hours_change_in_place() -> None:
    inputs = certificate()
    _, made = make(SELF_SIGNED, inputs)
    asked = Request("urn", {**inputs, "earlyRenewalHours": 1.0}, made)
    assert SELF_SIGNED.replacing(asked, inputs) == []
    assert SELF_SIGNED.update(asked)["certPem"] == made["certPem"]
    for name, value in {"validityPeriodHours": 25, "subject": {"commonName": "x"}}.items():
        asked = Request("urn", {**inputs, name: value}, made)
        assert SELF_SIGNED.replacing(asked, inputs) == [name]
    assert KEY.replacing(Request("urn", {"algorithm": "ED25519"}), ECDSA) == [
        "algorithm", "ecdsaCurve"]  # fmt: skip


def test_a_certificate_that_is_due_is_replaced() -> None:
    inputs = certificate(earlyRenewalHours=25.0)
    _, made = make(SELF_SIGNED, inputs)
    assert SELF_SIGNED.replacing(Request("urn", inputs, made), inputs) == ["readyForRenewal"]
    assert SELF_SIGNED.read(made)["readyForRenewal"] is True
    assert not due(made, 23) and not due(made, UNKNOWN) and not due({}, 25)


@pytest.mark.parametrize(
    ("kind", "inputs", "named"),
    [
        (KEY, {}, "algorithm"),
        (KEY, {"algorithm": "RSA"}, "algorithm"),
        (KEY, {"algorithm": "ECDSA"}, "algorithm"),
        (REQUEST, {"privateKeyPem": "x", "subject": SUBJECT, "dnsNames": ["x"]}, "dnsNames"),
        (SELF_SIGNED, {"allowedUses": ["server_auth"]}, "allowedUses"),
    ],
)
def test_what_is_not_served_is_named(kind: Material, inputs: dict[str, Any], named: str) -> None:
    assert named in kind.wrong(inputs)


def test_what_cannot_be_read_is_named_without_being_shown() -> None:
    with pytest.raises(Failure, match="privateKeyPem: not an unencrypted private key") as error:
        make(REQUEST, {"privateKeyPem": "a-broken-key", "subject": SUBJECT})
    assert "a-broken-key" not in str(error.value)
    with pytest.raises(Failure, match=r"subject.country: the lab's stand-in"):
        make(SELF_SIGNED, certificate(subject={**SUBJECT, "country": "SE"}))
