"""The tls stand-in under the real engine, through Pulumi's own Python SDK."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tools.plugins.plugin_engine import Project, install, secret

PROGRAM = """
import pulumi
import pulumi_tls as tls

key = tls.PrivateKey("key", algorithm="ECDSA", ecdsa_curve="P256")
authority = tls.SelfSignedCert(
    "authority",
    private_key_pem=key.private_key_pem,
    subject={"common_name": "root"},
    is_ca_certificate=True,
    allowed_uses=["cert_signing"],
    validity_period_hours=24,
    early_renewal_hours=EARLY,
)
request = tls.CertRequest(
    "request", private_key_pem=key.private_key_pem, subject={"common_name": "NAME"}
)
certificate = tls.LocallySignedCert(
    "certificate",
    ca_cert_pem=authority.cert_pem,
    ca_private_key_pem=key.private_key_pem,
    cert_request_pem=request.cert_request_pem,
    allowed_uses=["client_auth"],
    validity_period_hours=24,
)
pulumi.export("certificate", certificate.cert_pem)
pulumi.export("key", key.private_key_pem)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    install(tmp_path / "home", tmp_path / "build")
    return Project(tmp_path / "project", tmp_path / "home")


def test_the_whole_life_of_a_small_authority(project: Project) -> None:
    project.program(PROGRAM.replace("EARLY", "0").replace("NAME", "one"))
    preview = project.run("preview")
    assert "+ 5 to create" in preview
    assert "certificate: [unknown]" in preview

    assert "+ 5 created" in project.up()
    state = project.state()
    assert "PRIVATE KEY" not in state
    before = project.resources()
    pem = secret(before["key"]["outputs"]["privateKeyPem"])
    assert pem.startswith("-----BEGIN EC PRIVATE KEY-----")
    for name in ("privateKeyPemPkcs8", "privateKeyOpenssh"):
        assert "PRIVATE KEY" in secret(before["key"]["outputs"][name])
    assert secret(before["request"]["outputs"]["privateKeyPem"]) == pem
    assert secret(before["certificate"]["outputs"]["caPrivateKeyPem"]) == pem
    assert before["certificate"]["id"].isdecimal()

    refreshed = project.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    assert "5 unchanged" in refreshed

    project.program(PROGRAM.replace("EARLY", "1").replace("NAME", "two"))
    changed = project.up()
    assert "~ 1 updated" in changed, "earlyRenewalHours alone"
    assert "+-2 replaced" in changed, "the request and what was signed from it"
    after = project.resources()
    assert after["authority"]["outputs"]["certPem"] == before["authority"]["outputs"]["certPem"]
    assert after["certificate"]["id"] != before["certificate"]["id"]

    assert "5 unchanged" in project.up()
    assert "- 5 deleted" in project.run("destroy", "--yes", "--skip-preview")


def test_errors_are_one_clear_message(project: Project) -> None:
    project.program(
        "import pulumi_tls as tls\n"
        "tls.CertRequest('request', private_key_pem='a-broken-key')\n"
        "try:\n"
        "    tls.get_public_key(private_key_pem='x')\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    text = project.up(fails=True)
    assert "tls:index/getPublicKey:getPublicKey: this stand-in for Pulumi's tls plugin" in text
    assert "error: privateKeyPem: not an unencrypted private key in PEM" in text
    assert "Traceback" not in text
    assert "a-broken-key" not in text
