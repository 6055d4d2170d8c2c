"""Joins that must succeed, by every client there is."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.components.join_gate.gate_host import ADDRESS, HOURS, Host, TestNode, registered


def certificate(answer: Any) -> x509.Certificate:
    assert answer["success"] is True and answer["errors"] == [] and answer["messages"] == []
    return x509.load_pem_x509_certificate(answer["result"]["certificate"].encode())


def names_of(cert: x509.Certificate) -> set[str]:
    extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}


def test_a_right_request_gets_the_certificate_of_exactly_that_node(
    shared_host: Host, node: TestNode
) -> None:
    status, answer = shared_host.sign(node.sealed(node.request()))
    assert status == 200
    cert = certificate(answer)
    assert [(item.oid, item.value) for item in cert.subject] == [
        (NameOID.ORGANIZATION_NAME, "system:nodes"),
        (NameOID.COMMON_NAME, f"system:node:{node.name}"),
    ]
    assert cert.public_key() == node.key.public_key()
    assert names_of(cert) == {node.name, ADDRESS}
    usages = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    life = cert.not_valid_after_utc - cert.not_valid_before_utc
    assert life.total_seconds() == HOURS * 3600
    assert shared_host.rows(node.name) == [("good", 0)]


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "RSA-2048"],
)
def test_other_strong_keys(shared_host: Host, node: TestNode, key: Any) -> None:
    status, answer = shared_host.sign(
        node.sealed(node.request(certificate_request=node.csr(key=key)))
    )
    assert status == 200, answer
    assert certificate(answer).public_key() == key.public_key()


def test_names_may_come_in_the_certificate_request_or_not_at_all(shared_host: Host) -> None:
    first, second = registered(shared_host), registered(shared_host)
    csr = first.csr(names=[x509.DNSName(first.name)])
    status, answer = shared_host.sign(first.sealed({"certificate_request": csr}))
    assert status == 200 and names_of(certificate(answer)) == {first.name}
    status, answer = shared_host.sign(second.sealed({"certificate_request": second.csr()}))
    assert status == 200 and names_of(certificate(answer)) == {second.name, ADDRESS}


def test_a_dual_stack_node_has_both_its_addresses_and_no_third(shared_host: Host) -> None:
    node = TestNode("dual-stack")
    both = [ADDRESS, "fd00::7"]
    assert shared_host.register(node, addresses=both).returncode == 0
    third = node.request(hosts=[node.name, *both, "fd00::8"])
    status, answer = shared_host.sign(node.sealed(third))
    assert status == 403 and "fd00::8" in str(answer)
    # Written out, as some clients do.
    status, answer = shared_host.sign(
        node.sealed(node.request(hosts=[node.name, ADDRESS, "fd00:0:0:0:0:0:0:7"]))
    )
    assert status == 200, answer
    assert names_of(certificate(answer)) == {node.name, *both}


def test_the_same_key_asks_again_and_gets_the_same(shared_host: Host, node: TestNode) -> None:
    answers = [shared_host.sign(node.sealed(node.request())) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({answer["result"]["certificate"] for _, answer in answers}) == 1
    assert shared_host.rows(node.name) == [("good", 0)]


def test_openssl_and_curl_join(shared_host: Host, node: TestNode, tmp_path: Path) -> None:
    """As join.sh does it: a key and a request by openssl, the token by openssl, curl to send."""
    script = """
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem \
        -subj "/O=system:nodes/CN=system:node:$NODE" -out csr.pem 2>/dev/null
    awk 'BEGIN { printf "{\\"profile\\":\\"kubelet\\",\\"hosts\\":[\\"%s\\",\\"%s\\"],", \
        ENVIRON["NODE"], ENVIRON["ADDRESS"]; printf "\\"certificate_request\\":\\"" }
        { printf "%s\\\\n", $0 } END { printf "\\"}" }' csr.pem >request.json
    token=$(openssl dgst -sha256 -mac HMAC -macopt "hexkey:$KEY" -binary <request.json | base64 -w0)
    printf '{"token":"%s","request":"%s"}' "$token" "$(base64 -w0 <request.json)" |
        curl -fsS --cacert "$CA" -d @- "$URL/api/v1/cfssl/authsign"
    """
    environment = {
        "PATH": "/usr/bin:/bin",
        "NODE": node.name,
        "ADDRESS": ADDRESS,
        "KEY": node.join_key.hex(),
        "CA": str(shared_host.folder / "ca.pem"),
        "URL": f"https://127.0.0.1:{shared_host.port}",
    }
    result = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (tmp_path / "cert.pem").write_text(json.loads(result.stdout)["result"]["certificate"])
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", str(shared_host.folder / "ca.pem"), "cert.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert verified.stdout.strip() == "cert.pem: OK"


@pytest.mark.parametrize("debian", [False, True], ids=["1.6.5", "Debian's 1.2"])
def test_the_stock_client_joins(
    shared_host: Host, node: TestNode, tmp_path: Path, debian: bool
) -> None:
    """`cfssl gencert` with auth_remote, which sends further fields, all of them empty."""
    client = "/usr/bin/cfssl" if debian else str(shared_host.cfssl)
    said = subprocess.run([client, "version"], capture_output=True, text=True).stdout
    assert debian == ("Version: 1.2.0" in said), f"{client}: {said}"
    configuration = {
        "signing": {
            "default": {"auth_remote": {"remote": "gate", "auth_key": "node"}},
        },
        "auth_keys": {"node": {"type": "standard", "key": node.join_key.hex()}},
        "remotes": {"gate": f"https://127.0.0.1:{shared_host.port}"},
    }
    request = {
        "CN": f"system:node:{node.name}",
        "names": [{"O": "system:nodes"}],
        "hosts": [node.name, ADDRESS],
        "key": {"algo": "ecdsa", "size": 256},
    }
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    (tmp_path / "csr.json").write_text(json.dumps(request))
    result = subprocess.run(
        [
            client,
            *("gencert", "-config", "config.json"),
            *("-tls-remote-ca", str(shared_host.folder / "ca.pem")),
            "csr.json",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    cert = x509.load_pem_x509_certificate(json.loads(result.stdout)["cert"].encode())
    assert names_of(cert) == {node.name, ADDRESS}


def test_info_answers_with_the_authority(shared_host: Host) -> None:
    status, answer = shared_host.post("/api/v1/cfssl/info", {})
    assert status == 200
    expected = (shared_host.folder / "ca.pem").read_text().strip()
    assert answer["result"]["certificate"] == expected
    result = subprocess.run(
        [
            str(shared_host.cfssl),
            *("info", "-remote", f"https://127.0.0.1:{shared_host.port}"),
            *("-tls-remote-ca", str(shared_host.folder / "ca.pem")),
        ],
        capture_output=True,
        text=True,
    )
    assert json.loads(result.stdout)["certificate"] == expected


def test_a_lost_authority_is_named_and_the_join_succeeds_later(own_host: Host) -> None:
    node = registered(own_host)
    own_host.stop("cfssl")
    status, answer = own_host.sign(node.sealed(node.request()))
    assert status == 502
    assert "the certificate authority does not answer" in answer["errors"][0]["message"]
    own_host.start_cfssl()
    # Nothing was signed, so a machine that starts over with a new key is not shut out.
    node.key = ec.generate_private_key(ec.SECP256R1())
    status, answer = own_host.sign(node.sealed(node.request()))
    assert status == 200, answer


def test_a_wrong_certificate_is_never_handed_out(own_host: Host) -> None:
    """CFSSL's configuration changed behind the gate: a longer life than nodes may have."""
    path = own_host.folder / "config.json"
    configuration = json.loads(path.read_text())
    configuration["signing"]["profiles"]["kubelet"]["expiry"] = "87600h"
    path.write_text(json.dumps(configuration))
    own_host.stop("cfssl")
    own_host.start_cfssl()
    node = registered(own_host)
    status, answer = own_host.sign(node.sealed(node.request()))
    assert status == 502 and answer["result"] is None
    assert "too long a life" in answer["errors"][0]["message"]


def test_state_survives_a_restart(own_host: Host) -> None:
    node = registered(own_host)
    _, before = own_host.sign(node.sealed(node.request()))
    own_host.post("/v1/progress", node.report("certificate", "done"))
    assert own_host.stop("gate") == 0
    own_host.start_gate()
    status, after = own_host.sign(node.sealed(node.request()))
    assert (status, after) == (200, before)
    _, body = own_host.ask("GET", f"/v1/status/{node.name}", headers=node.bearer)
    assert [event["phase"] for event in json.loads(body)["events"]] == ["certificate"]


def test_no_secret_in_the_logs(shared_host: Host, node: TestNode) -> None:
    shared_host.sign(node.sealed(node.request()))
    shared_host.sign(node.sealed(node.request(), key=b"x" * 32))
    shared_host.ask("GET", f"/v1/status/{node.name}", headers=node.bearer)
    log = shared_host.log("gate")
    assert f'"node":"{node.name}"' in log
    upstream = (shared_host.folder / "gate.key").read_text().strip()
    for secret in (node.join_key, node.status_token, bytes.fromhex(upstream)):
        assert secret.hex() not in log
        assert base64.b64encode(secret).decode() not in log
