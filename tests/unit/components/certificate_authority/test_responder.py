"""OCSP and CRL as relying parties see them: certificates by the real CFSSL, judged by openssl."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID as Access

from components.certificate_authority.authority_host import FILES
from components.certificate_authority.platforms import PLATFORMS
from tests.unit.components.certificate_authority.authority_machine import (
    ADDRESS,
    Machine,
    key_pem,
    listener,
)
from tests.unit.components.certificate_authority.conftest import both_processors
from tests.unit.components.certificate_authority.test_authority_scripts import (
    CA,
    CA_KEY,
    OTHER_KEY,
    certificate,
    good,
)

pytestmark = both_processors
URL = "http://127.0.0.1:8889"


@pytest.fixture(scope="module")
def machine(processor: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One host for all: CFSSL and the responder run."""
    machine = Machine(tmp_path_factory.mktemp("host"))
    linux = PLATFORMS["linux"]
    try:
        PLATFORMS["linux"] = machine.platform
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        responder = (FILES / "responder.py").read_text()
        machine.replace_file("responder.py", responder.replace("SECONDS = 10", "SECONDS = 3"))
        good(machine.install_authority())
        yield machine
    finally:
        PLATFORMS["linux"] = linux
        machine.close()


def issue(machine: Machine, name: str, profile: str = "client") -> Path:
    """A certificate of CFSSL's, with a row in the certdb; its file."""
    folder = machine.etc("cfssl")
    command = (
        f"{machine.platform.cfssl} sign -loglevel 3 -ca {folder}/ca.pem -ca-key {folder}/ca-key.pem"
        f" -config {folder}/config.json -db-config {folder}/db.json -profile {profile} -"
    )
    path = machine.root / "state" / f"{name}.pem"
    path.write_text(json.loads(good(machine.run(command, listener(name=name)[1])).stdout)["cert"])
    return path


def revoke(machine: Machine, path: Path, reason: str = "superseded") -> None:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    key = x509.SubjectKeyIdentifier.from_public_key(CA_KEY.public_key()).digest.hex()
    good(
        machine.run(
            f"{machine.platform.cfssl} revoke -db-config {machine.etc('cfssl')}/db.json"
            f" -serial {certificate.serial_number} -aki {key} -reason {reason}"
        )
    )


def asked(machine: Machine, path: Path, *options: str) -> str:
    ca = machine.etc("cfssl/ca.pem")
    words = ["openssl", "ocsp", "-issuer", str(ca), "-CAfile", str(ca), *options]
    result = machine.run(" ".join([*words, "-cert", str(path), "-url", URL]))
    assert "Response verify OK" in result.stderr, result.stderr + result.stdout
    return result.stdout


def crl(machine: Machine) -> bytes:
    """The CRL as it is served, after the host's own job."""
    good(machine.run(f"{machine.platform.programs}/certificate-authority.sh refresh"))
    result = machine.run(f"curl -sSf -D - {URL}/ca.crl | base64 -w0")
    head, _, body = base64.b64decode(result.stdout).partition(b"\r\n\r\n")
    assert b"application/pkix-crl" in head
    return body


def test_every_profile_carries_both_urls(machine: Machine) -> None:
    for profile in ("intermediate", "ocsp", "www", "client", "kubelet", "default"):
        path = issue(machine, f"worker-{profile}", profile)
        extensions = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        urls = [item.access_location.value for item in access if item.access_method == Access.OCSP]
        assert urls == [f"http://{ADDRESS}:8889"]
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        names = [name.value for point in points for name in point.full_name or []]
        assert names == [f"http://{ADDRESS}:8889/ca.crl"]


def test_openssl_says_good_at_once_and_revoked_after_a_revocation(machine: Machine) -> None:
    path = issue(machine, "worker-1")
    assert re.search(r"worker-1.pem: good", asked(machine, path))
    revoke(machine, path, "keycompromise")
    answer = asked(machine, path)
    assert "worker-1.pem: revoked" in answer and "Reason: keyCompromise" in answer


@pytest.mark.parametrize("options", [("-no_nonce",), ("-nonce",), ("-sha256",), ("-sha512",)])
def test_requests_of_every_kind(machine: Machine, options: tuple[str, ...]) -> None:
    """CFSSL's own responder finds a certificate by a SHA-1 of the key only."""
    path = issue(machine, "worker-2")
    assert "worker-2.pem: good" in asked(machine, path, *options)


def test_the_crl_is_der_and_openssl_uses_it(machine: Machine) -> None:
    kept, gone = issue(machine, "kept"), issue(machine, "gone")
    revoke(machine, gone)
    path = machine.root / "state" / "ca.crl.copy"
    path.write_bytes(crl(machine))
    ca = machine.etc("cfssl/ca.pem")
    check = f"openssl verify -crl_check -CAfile {ca} -CRLfile {path}"
    assert machine.run(f"{check} {kept}").stdout == f"{kept}: OK\n"
    refused = machine.run(f"{check} {gone}")
    assert refused.returncode != 0 and "certificate revoked" in refused.stdout + refused.stderr
    # From its own address, as `openssl verify -crl_download` takes it.
    good(machine.run(f"ip address replace {ADDRESS}/32 dev lo"))
    download = f"openssl verify -crl_check -crl_download -CAfile {ca}"
    assert machine.run(f"{download} {kept}").stdout.endswith(f"{kept}: OK\n")
    refused = machine.run(f"{download} {gone}")
    assert "certificate revoked" in refused.stdout + refused.stderr


def question(path: Path, issuer: bytes = CA) -> bytes:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    authority = x509.load_pem_x509_certificate(issuer)
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, authority, hashes.SHA1())
    return builder.build().public_bytes(serialization.Encoding.DER)


def posted(machine: Machine, body: bytes) -> ocsp.OCSPResponse:
    (machine.root / "state" / "question").write_bytes(body)
    answer = machine.root / "state" / "answer"
    good(
        machine.run(
            f"curl -sSf --data-binary @{machine.root}/state/question -o {answer}"
            f" -H 'Content-Type: application/ocsp-request' {URL}/"
        )
    )
    return ocsp.load_der_ocsp_response(answer.read_bytes())


def test_what_it_does_not_know_it_does_not_vouch_for(machine: Machine) -> None:
    path = issue(machine, "worker-3")
    assert posted(machine, question(path)).certificate_status == ocsp.OCSPCertStatus.GOOD
    other = certificate(OTHER_KEY)
    refused = posted(machine, question(path, other))
    assert refused.response_status == ocsp.OCSPResponseStatus.UNAUTHORIZED
    refused = posted(machine, question(machine.source / "ca.pem"))
    assert refused.response_status == ocsp.OCSPResponseStatus.UNAUTHORIZED
    for junk in (b"", b"hello", question(path)[:-3]):
        refused = posted(machine, junk)
        assert refused.response_status == ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_get_requests_and_bad_ones(machine: Machine) -> None:
    path = issue(machine, "worker-4")
    encoded = quote(base64.b64encode(question(path)).decode(), safe="")
    code = "curl -sS -o /dev/null -w '%{http_code} %{content_type}'"
    assert machine.run(f"{code} {URL}/{encoded}").stdout == "200 application/ocsp-response"
    assert machine.run(f"{code} {URL}/").stdout.startswith("404")
    assert machine.run(f"{code} {URL}/../../etc/passwd --path-as-is").stdout.startswith("404")
    big = machine.run(f"head -c 5000 /dev/zero | {code} --data-binary @- {URL}/")
    assert big.stdout.startswith("413")
    assert machine.run(f"{code} -X DELETE {URL}/").stdout.startswith("501")


def test_a_renewed_signer_is_taken_without_a_restart(machine: Machine) -> None:
    path = issue(machine, "worker-5")
    before = posted(machine, question(path)).certificates[0].serial_number
    state = Path(machine.platform.authority_state)
    (state / "ocsp.inputs").write_text("another request\n")
    machine.forget()
    good(machine.run(f"{machine.platform.programs}/certificate-authority.sh refresh"))
    after = posted(machine, question(path)).certificates[0]
    assert after.serial_number != before and machine.restarted() == []
    assert after.extensions.get_extension_for_class(x509.OCSPNoCheck)
    usage = after.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.OCSP_SIGNING]
    good(machine.run(f"{machine.platform.programs}/certificate-authority.sh refresh"))
    again = posted(machine, question(path)).certificates[0]
    assert again.serial_number == after.serial_number


def test_slow_clients_do_not_keep_others_out(machine: Machine) -> None:
    """A hundred that say nothing; each is cut off when its time is over."""
    path = issue(machine, "worker-6")
    script = (
        "import socket, sys\n"
        "held = [socket.create_connection(('127.0.0.1', 8889)) for _ in range(100)]\n"
        "print('held', flush=True)\ninput()"
    )
    machine.start([sys.executable, "-c", script])
    answer = machine.run(f"curl -sS --max-time 15 -o /dev/null -w '%{{http_code}}' {URL}/ca.crl")
    assert answer.stdout == "200"
    assert "good" in asked(machine, path)
