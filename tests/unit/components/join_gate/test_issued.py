"""Whatever the certificate authority answers: only the right certificate is handed on."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from components.join_gate.program import issued, rules
from components.join_gate.program.errors import AuthorityError
from components.join_gate.program.store import Serial
from components.join_gate.program.trust import Trust
from tests.unit.components.join_gate.gate_host import ADDRESS, TestNode

HOURS = 48
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
NODE = TestNode("worker-1")
CA_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
NAMES = [x509.DNSName("worker-1"), x509.IPAddress(ipaddress.ip_address(ADDRESS))]


def certificate(**changes: Any) -> x509.Certificate:
    """The right certificate of NODE, but for the changes."""
    it: dict[str, Any] = {
        "subject": NODE.subject(), "issuer": CA_NAME, "key": NODE.key, "signer": CA_KEY,
        "start": NOW - datetime.timedelta(minutes=5), "hours": HOURS, "ca": False,
        "names": NAMES, "usages": [CLIENT, SERVER], **changes,
    }  # fmt: skip
    builder = (
        x509.CertificateBuilder(it["issuer"], it["subject"], it["key"].public_key(), 4711)
        .not_valid_before(it["start"])
        .not_valid_after(it["start"] + datetime.timedelta(hours=it["hours"]))
        .add_extension(x509.AuthorityKeyIdentifier(b"\xab\xcd", None, None), critical=False)
    )
    extensions: dict[str, Callable[[Any], x509.ExtensionType]] = {
        "ca": lambda value: x509.BasicConstraints(ca=value, path_length=None),
        "names": x509.SubjectAlternativeName,
        "usages": x509.ExtendedKeyUsage,
    }
    for what, make in extensions.items():
        if it[what] is not None:
            builder = builder.add_extension(make(it[what]), critical=what == "ca")
    return builder.sign(it["signer"], hashes.SHA256())


def checked(answer: x509.Certificate) -> Serial:
    request = NODE.request()
    signable = rules.check(request, rules.read_request(request), NODE.name, [ADDRESS])
    authority = issued.Authority(
        certificate(subject=CA_NAME, key=CA_KEY, ca=True, names=None, usages=None)
    )
    pem = answer.public_bytes(serialization.Encoding.PEM).decode()
    return issued.check(pem, signable, authority, HOURS)


def test_the_right_one() -> None:
    assert checked(certificate()) == Serial("4711", "abcd")
    assert checked(certificate(usages=[CLIENT], names=NAMES[::-1]))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"key": OTHER_KEY}, "another key"),
        ({"subject": TestNode("worker-2").subject()}, "another subject"),
        ({"subject": NODE.subject((NameOID.ORGANIZATION_NAME, "x"))}, "another subject"),
        ({"subject": CA_NAME}, "another subject"),
        ({"names": NAMES[:1]}, "other names"),
        ({"names": [*NAMES, x509.DNSName("kubernetes")]}, "other names"),
        ({"names": [*NAMES, x509.RFC822Name("a@b.c")]}, "other names"),
        ({"names": [x509.DNSName("worker-1"), x509.DNSName(ADDRESS)]}, "other names"),
        ({"names": None}, "it cannot be read"),
        ({"usages": [SERVER]}, "other usages"),
        ({"usages": [CLIENT, ExtendedKeyUsageOID.CODE_SIGNING]}, "other usages"),
        ({"usages": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]}, "other usages"),
        ({"usages": None}, "it cannot be read"),
        ({"ca": True}, "it is an authority"),
        ({"ca": None}, "it cannot be read"),
        ({"hours": HOURS + 1}, "too long a life"),
        ({"start": NOW + datetime.timedelta(days=1)}, "it is not valid now"),
        ({"start": NOW - datetime.timedelta(hours=HOURS + 1)}, "it is not valid now"),
        ({"issuer": NODE.subject()}, "another issuer"),
        ({"signer": OTHER_KEY}, "a wrong signature"),
    ],
)
def test_wrong_ones(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(AuthorityError, match=f"issued a wrong certificate: {fault}") as raised:
        checked(certificate(**changes))
    assert not raised.value.definite


def test_an_authority_of_the_first_version(tmp_path: Path) -> None:
    """A certificate without a version and without extensions, as old ones are."""
    script = """
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out csr \
        -subj /O=old/CN=ca
    openssl x509 -req -in csr -signkey key -out ca.pem
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, capture_output=True)
    old = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert old.version is x509.Version.v1
    assert issued.Authority(old).keys(old.subject.public_bytes()) == [old.public_key()]
    assert Trust((tmp_path / "ca.pem").read_text()).identifiers == ("",)
