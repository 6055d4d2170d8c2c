"""The certificate authority in the lab: what it issued and revoked stays so, whatever happens."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Lab

pytestmark = pytest.mark.full

SERVICES = ("cfssl", "ocsp-responder", "join-gate", "join-gate-renew", "revocation-refresh")
SCRIPT = "/usr/local/lib/autojoin/certificate-authority.sh"
CERTDB = "/var/lib/cfssl/certdb.sqlite"
# On the CA's host: certificates by CFSSL's own API, asked again until it answers.
ISSUE = r"""
import base64, hashlib, hmac, json, pathlib, sys, time, urllib.request
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = bytes.fromhex(pathlib.Path("/etc/autojoin/cfssl/operator.key").read_text().strip())
folder = pathlib.Path("/root/issued")
folder.mkdir(exist_ok=True)
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "client-%03d" % number)])
    request = x509.CertificateSigningRequestBuilder(name).sign(
        ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    asked = json.dumps({"certificate_request": pem, "profile": "client"}).encode()
    token = hmac.new(key, asked, hashlib.sha256).digest()
    body = json.dumps({"token": base64.b64encode(token).decode(),
                       "request": base64.b64encode(asked).decode()}).encode()
    while True:
        try:
            url = "http://127.0.0.1:8888/api/v1/cfssl/authsign"
            answer = json.load(urllib.request.urlopen(urllib.request.Request(url, body), timeout=5))
            break
        except OSError:
            time.sleep(0.05)
    (folder / ("client-%03d.pem" % number)).write_text(answer["result"]["certificate"])
"""
REVOKE = r"""
import pathlib, subprocess, sys
from cryptography import x509
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    pem = pathlib.Path("/root/issued/client-%03d.pem" % number).read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    subprocess.run(["runuser", "-u", "cfssl", "--",
                    "/usr/local/lib/autojoin/cfssl", "revoke", "-db-config",
                    "/etc/autojoin/cfssl/db.json", "-serial", str(certificate.serial_number),
                    "-aki", issuer.value.key_identifier.hex(), "-reason", "superseded"],
                   check=True, capture_output=True)
"""


def on_host(lab: Lab, script: str, *words: int) -> None:
    arguments = " ".join(map(str, words))
    lab.on_authority(f"python3 - {arguments} <<'END'\n{script}\nEND")


def query(lab: Lab, text: str) -> list[str]:
    return lab.on_authority(f'sqlite3 {CERTDB} "{text}"').splitlines()


def until_up(lab: Lab) -> None:
    """Return once the CA's host answers and its services run."""
    deadline = time.monotonic() + 30
    while True:
        try:
            lab.on_authority("systemctl is-active --quiet cfssl ocsp-responder join-gate")
            return
        except AssertionError:
            assert time.monotonic() < deadline, "the CA's host did not come back"
            time.sleep(0.3)


def test_units_are_hardened(lab: Lab) -> None:
    for name in SERVICES:
        answer = lab.on_authority(f"systemd-analyze security --no-pager {name}.service")
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", answer)
        assert found, answer
        print(f"{name}: {found[1]}")
        assert float(found[1]) <= 3.0, name


def test_two_hundred_certificates_outlive_restarts_a_reboot_and_an_up(
    lab: Lab, tmp_path: Path
) -> None:
    before = int(query(lab, "SELECT count(*) FROM certificates")[0])

    def restart() -> None:
        for _ in range(4):
            time.sleep(0.3)
            lab.on_authority("systemctl restart cfssl")

    restarts = threading.Thread(target=restart)
    restarts.start()
    on_host(lab, ISSUE, 0, 120)
    restarts.join()
    on_host(lab, REVOKE, 0, 25)
    lab.on_authority("sync")
    lab.on_hypervisor("systemctl restart autojoin-machine@ca")
    until_up(lab)
    on_host(lab, ISSUE, 120, 200)
    on_host(lab, REVOKE, 25, 50)
    assert "unchanged" in lab.make("up")
    names = query(lab, "SELECT common_name FROM certificates WHERE common_name LIKE 'client-%'")
    # An answer that a restart cut off is asked for again, and is a row of its own.
    assert set(names) == {f"client-{number:03}" for number in range(200)}
    assert int(query(lab, "SELECT count(*) FROM certificates")[0]) == before + len(names)
    check_status(lab, tmp_path)


def check_status(lab: Lab, folder: Path) -> None:
    """OCSP and CRL, at the addresses in each certificate, are right for every one."""
    bundle = lab.on_authority('cd /root/issued && for f in *; do echo "$f"; cat "$f"; done')
    for name, pem in re.findall(
        r"(client-\d+\.pem)\n(-----BEGIN.*?-----END[^\n]*\n)", bundle, re.S
    ):
        (folder / name).write_text(pem)
    paths = sorted(folder.glob("client-*.pem"))
    assert len(paths) == 200
    ca = folder / "ca.pem"
    ca.write_text(lab.on_authority("cat /etc/kubernetes-ca/ca.pem"))
    url = openssl("x509", "-in", str(paths[0]), "-noout", "-ocsp_uri").stdout.strip()
    status = {}
    for path in paths:
        answer = openssl("ocsp", "-issuer", str(ca), "-CAfile", str(ca), "-cert", str(path),
                         "-url", url)  # fmt: skip
        assert "Response verify OK" in answer.stderr, answer.stderr
        status[path.name] = answer.stdout.split(": ")[1].split()[0]
    revoked = {f"client-{number:03}.pem" for number in range(50)}
    assert {name for name, found in status.items() if found == "revoked"} == revoked
    assert set(status.values()) == {"good", "revoked"}
    # The host's own job makes the CRL: within a minute of the last revocation.
    crl_url = re.search(r"URI:(\S+\.crl)", openssl("x509", "-in", str(paths[0]), "-noout", "-ext",
                                                   "crlDistributionPoints").stdout)  # fmt: skip
    assert crl_url
    crl = folder / "ca.crl"
    deadline = time.monotonic() + 60
    while True:
        subprocess.run(["curl", "-sSf", "-o", str(crl), crl_url[1]], check=True)
        text = openssl("crl", "-inform", "DER", "-in", str(crl), "-noout", "-text").stdout
        if text.count("Serial Number:") >= 50:
            break
        assert time.monotonic() < deadline, "the CRL lacks the last revocations after a minute"
        time.sleep(0.5)
    for path in paths:
        words = ("-crl_check", "-CAfile", str(ca), "-CRLfile", str(crl), str(path))
        answer = openssl("verify", *words)
        good = answer.returncode == 0
        assert good == (path.name not in revoked), answer.stdout + answer.stderr
        assert good or "certificate revoked" in answer.stdout + answer.stderr


def openssl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *words], capture_output=True, text=True)


def started(lab: Lab) -> dict[str, str]:
    """When each service was started."""
    show = "systemctl show --property=Id,ActiveEnterTimestampMonotonic"
    text = lab.on_authority(f"{show} cfssl ocsp-responder join-gate")
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines()) for block in text.split("\n\n")
    ]
    return {block["Id"]: block["ActiveEnterTimestampMonotonic"] for block in blocks}


def test_another_hour_count_restarts_what_it_concerns_and_nothing_else(lab: Lab) -> None:
    before, rows = started(lab), query(lab, "SELECT serial_number FROM certificates")
    file = lab.file.read_text()

    def shorten(config: dict[str, Any]) -> None:
        config["autojoin:certificateAuthority"]["nodeCertificateHours"] = 100

    lab.edit(shorten)
    changed = [step["urn"].rpartition("::")[2] for step in lab.preview()]
    assert sorted(changed) == ["ca-cfssl", "gate-service"]
    lab.make("up")
    after = started(lab)
    assert after["ocsp-responder.service"] == before["ocsp-responder.service"]
    assert after["cfssl.service"] != before["cfssl.service"]
    assert "100h" in lab.on_authority("cat /etc/autojoin/cfssl/config.json")
    assert query(lab, "SELECT serial_number FROM certificates") == rows
    # Hours that CFSSL can't count: the update fails, and is taken back.

    def absurd(config: dict[str, Any]) -> None:
        config["autojoin:certificateAuthority"]["nodeCertificateHours"] = 10**12

    lab.edit(absurd)
    output = lab.make("up", expect=1)
    assert "cfssl: the update failed and was taken back: it runs as before" in output, output
    assert "100h" in lab.on_authority("cat /etc/autojoin/cfssl/config.json")
    until_up(lab)
    lab.file.write_text(file)
    lab.make("up")


@pytest.mark.parametrize("keys", [True])
def test_a_backup_brings_the_same_authority_back(lab: Lab, tmp_path: Path, keys: bool) -> None:
    phrase, backup = tmp_path / "phrase", tmp_path / "ca.backup"
    phrase.write_text("a pass phrase for this test\n")
    common = f"PASSPHRASE_FILE={phrase}"
    rows = query(lab, "SELECT serial_number, status FROM certificates ORDER BY 1")
    output = lab.make("ca-backup", f"OUT={backup}", common, *(["KEY=1"] if keys else []))
    assert f"{len(rows)} certificates" in output and "with every private key" in output
    assert "PRIVATE" not in output
    wipe = (
        f"/usr/local/lib/autojoin/join-gate.sh remove; {SCRIPT} remove;"
        " rm -r /var/lib/cfssl /etc/kubernetes-ca; userdel cfssl; ! ls /etc/autojoin"
    )
    lab.on_authority(wipe)
    output = lab.make("ca-restore", f"FILE={backup}", common)
    assert f"{len(rows)} certificates" in output and "it runs" in output
    assert query(lab, "SELECT serial_number, status FROM certificates ORDER BY 1") == rows
    until_up(lab)
    refused = lab.make("ca-restore", f"FILE={backup}", common, expect=1)
    assert "is here already; nothing was restored" in refused
    # Nothing tells it from the one before: neither the graph nor a node.
    assert "unchanged" in lab.make("up")
    status = json.loads(lab.on_authority("/usr/local/lib/autojoin/gate status worker-1"))
    assert status["generation"] == 1
    check_status(lab, tmp_path)
