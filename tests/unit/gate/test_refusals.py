"""Everything that the gate must refuse: nothing of it may leave a row in the certdb."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from tests.unit.gate.gate_host import ADDRESS, Host, TestNode, registered

Change = Callable[[TestNode], dict[str, object]]


def csr(**arguments: Any) -> Change:
    """A request whose certificate request differs from the right one."""
    return lambda node: node.request(certificate_request=node.csr(**arguments))


def subject(build: Callable[[TestNode], list[x509.NameAttribute[str]]]) -> Change:
    return lambda node: node.request(certificate_request=node.csr(subject=x509.Name(build(node))))


def common_name(node: TestNode) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node.name}")


def organization(value: str = "system:nodes") -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)


def two_values_in_one_attribute_set(node: TestNode) -> dict[str, object]:
    name = x509.Name(
        [
            x509.RelativeDistinguishedName([organization(), organization("system:masters")]),
            x509.RelativeDistinguishedName([common_name(node)]),
        ]
    )
    return node.request(certificate_request=node.csr(subject=name))


def bad_signature(node: TestNode) -> dict[str, object]:
    der = bytearray(
        x509.load_pem_x509_csr(node.csr().encode()).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    return node.request(certificate_request=text)


def a_certificate_instead(node: TestNode) -> dict[str, object]:
    text = node.csr().replace("CERTIFICATE REQUEST", "CERTIFICATE")
    return node.request(certificate_request=text)


REFUSED: dict[str, tuple[Change, int, str]] = {
    "subject override": (
        lambda node: node.request(subject={"CN": "admin", "names": [{"O": "system:masters"}]}),
        403,
        "subject: may not be set",
    ),
    "host override by hostname": (
        lambda node: node.request(hostname="api.example.org"),
        403,
        "hostname: may not be set",
    ),
    "serial": (lambda node: node.request(serial=1), 403, "serial: may not be set"),
    "label": (lambda node: node.request(label="other"), 403, "label: may not be set"),
    "bundle": (lambda node: node.request(bundle=True), 403, "bundle: may not be set"),
    "not before": (
        lambda node: node.request(NotBefore="2020-01-01T00:00:00Z"),
        403,
        "NotBefore: may not be set",
    ),
    "not after": (
        lambda node: node.request(not_after="2099-01-01T00:00:00Z"),
        403,
        "not_after: may not be set",
    ),
    "extensions": (
        lambda node: node.request(extensions=[{"id": "2.5.29.19", "value": "30030101ff"}]),
        403,
        "extensions: may not be set",
    ),
    "crl override": (
        lambda node: node.request(crl_override="http://x"),
        403,
        "crl_override: may not be set",
    ),
    "intermediate profile": (
        lambda node: node.request(profile="intermediate"),
        403,
        "profile: must be kubelet",
    ),
    "profile of another type": (
        lambda node: node.request(profile=["kubelet"]),
        403,
        "profile: must be kubelet",
    ),
    "profile in other case beside": (
        lambda node: node.request(Profile="intermediate"),
        403,
        "Profile: may not be set",
    ),
    "extra organization": (
        subject(lambda node: [organization(), organization("system:masters"), common_name(node)]),
        403,
        "subject: must be exactly",
    ),
    "other organization": (
        subject(lambda node: [organization("system:masters"), common_name(node)]),
        403,
        "subject: must be exactly",
    ),
    "no organization": (subject(lambda node: [common_name(node)]), 403, "subject: must be exactly"),
    "two values in one set": (two_values_in_one_attribute_set, 403, "subject: must be exactly"),
    "second common name": (
        subject(
            lambda node: [
                organization(),
                common_name(node),
                x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            ]
        ),
        403,
        "subject: must be exactly",
    ),
    "country beside": (
        subject(
            lambda node: [
                organization(),
                common_name(node),
                x509.NameAttribute(NameOID.COUNTRY_NAME, "SE"),
            ]
        ),
        403,
        "subject: must be exactly",
    ),
    "foreign host": (
        lambda node: node.request(hosts=[node.name, "api.example.org"]),
        403,
        "is not registered for this node",
    ),
    "foreign address": (
        lambda node: node.request(hosts=["10.9.8.6"]),
        403,
        "is not registered for this node",
    ),
    "foreign name in the certificate request": (
        csr(names=[x509.DNSName("kubernetes.default.svc")]),
        403,
        "is not registered for this node",
    ),
    "wildcard name": (csr(names=[x509.DNSName("*")]), 403, "is not registered for this node"),
    "e-mail name": (csr(names=[x509.RFC822Name("a@b.c")]), 403, "must be DNS or IP"),
    "URI name": (
        csr(names=[x509.UniformResourceIdentifier("spiffe://x/y")]),
        403,
        "must be DNS or IP",
    ),
    "hosts as text": (lambda node: node.request(hosts=node.name), 400, "hosts: must be a list"),
    "authority extension": (
        csr(extensions=(x509.BasicConstraints(ca=True, path_length=None),)),
        403,
        "only extension allowed is subjectAltName",
    ),
    "usage extension": (
        csr(extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),)),
        403,
        "only extension allowed is subjectAltName",
    ),
    "attribute": (
        csr(attributes=((AttributeOID.CHALLENGE_PASSWORD, b"hello"),)),
        403,
        "is not allowed",
    ),
    "RSA 1024": (
        csr(key=rsa.generate_private_key(65537, 1024)),
        403,
        "RSA must have 2048",
    ),
    "RSA exponent 3": (csr(key=rsa.generate_private_key(3, 2048)), 403, "exponent"),
    "ECDSA P-521": (csr(key=ec.generate_private_key(ec.SECP521R1())), 403, "P-256 or P-384"),
    "ECDSA secp256k1": (csr(key=ec.generate_private_key(ec.SECP256K1())), 403, "P-256 or P-384"),
    "Ed25519": (
        lambda node: node.request(certificate_request=ed25519_request(node)),
        403,
        "must be RSA or ECDSA",
    ),
    "SHA-1 signature": (
        lambda node: node.request(certificate_request=sha1_request(node)),
        403,
        "must be signed with SHA-256",
    ),
    "bad signature": (bad_signature, 403, "its signature does not fit its key"),
    "two PEM blocks": (
        lambda node: node.request(certificate_request=node.csr() + node.csr()),
        400,
        "exactly one PEM",
    ),
    "text before the PEM": (
        lambda node: node.request(certificate_request="hello\n" + node.csr()),
        400,
        "exactly one PEM",
    ),
    "text after the PEM": (
        lambda node: node.request(certificate_request=node.csr() + "x"),
        400,
        "exactly one PEM",
    ),
    "a certificate's PEM": (a_certificate_instead, 400, "exactly one PEM"),
    "no certificate request": (
        lambda node: {"hosts": [node.name], "profile": "kubelet"},
        400,
        "certificate_request: must be PEM",
    ),
    "a user's name": (
        subject(lambda node: [x509.NameAttribute(NameOID.COMMON_NAME, "admin")]),
        400,
        "CN must be system:node:",
    ),
}


def ed25519_request(node: TestNode) -> str:
    request = x509.CertificateSigningRequestBuilder(node.subject()).sign(
        ed25519.Ed25519PrivateKey.generate(), None
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sha1_request(node: TestNode) -> str:
    """A request made before SHA-1 was given up; today's libraries refuse to make one."""
    import subprocess

    result = subprocess.run(
        [
            *("openssl", "req", "-new", "-sha1", "-newkey", "rsa:2048", "-nodes"),
            *("-keyout", "/dev/null", "-subj", f"/O=system:nodes/CN=system:node:{node.name}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


@pytest.fixture(scope="module")
def module_node(shared_host: Host) -> TestNode:
    """One node for all refusals: none of them may use its join key up."""
    return registered(shared_host)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(shared_host: Host, module_node: TestNode, case: str) -> None:
    change, expected, message = REFUSED[case]
    status, answer = shared_host.sign(module_node.sealed(change(module_node)))
    assert (status, answer["success"], answer["result"]) == (expected, False, None), answer
    assert message in answer["errors"][0]["message"]
    assert shared_host.rows(module_node.name) == []


def test_the_join_key_is_still_good_after_refusals(shared_host: Host) -> None:
    node = registered(shared_host)
    shared_host.sign(node.sealed(node.request(profile="intermediate")))
    status, _ = shared_host.sign(node.sealed(node.request()))
    assert status == 200


def test_bad_token_unknown_node_and_foreign_node_look_the_same(shared_host: Host) -> None:
    node, other = registered(shared_host), registered(shared_host)
    unknown = TestNode("nobody", join_key=node.join_key)
    too_long = TestNode("n" * 52, join_key=node.join_key)
    replay = other.sealed(other.request())
    attempts = {
        "wrong token": node.sealed(node.request(), key=b"x" * 32),
        "empty key": node.sealed(node.request(), key=b"\0" * 32),
        "unknown node": unknown.sealed(unknown.request()),
        "odd name": too_long.sealed(too_long.request()),
        "another node's key": other.sealed(node.request(), key=other.join_key),
        "another request's token": {**node.sealed(node.request()), "token": replay["token"]},
        "short token": {**node.sealed(node.request()), "token": "AAAA"},
        "no token": {**node.sealed(node.request()), "token": ""},
    }
    answers = {name: shared_host.sign(value) for name, value in attempts.items()}
    assert {status for status, _ in answers.values()} == {401}, answers
    assert len({json.dumps(answer) for _, answer in answers.values()}) == 1
    assert shared_host.rows(node.name) == []


def test_the_token_covers_the_exact_bytes(shared_host: Host, node: TestNode) -> None:
    data = json.dumps(node.request()).encode()
    sealed = node.sealed(data)
    changed = base64.b64encode(data + b" ").decode()
    assert shared_host.sign({**sealed, "request": changed})[0] == 401
    assert shared_host.sign(sealed)[0] == 200


def test_a_second_key_is_refused(shared_host: Host, node: TestNode) -> None:
    assert shared_host.sign(node.sealed(node.request()))[0] == 200
    node.key = ec.generate_private_key(ec.SECP256R1())
    status, answer = shared_host.sign(node.sealed(node.request()))
    assert status == 409
    assert answer["errors"][0]["message"] == (
        f"{node.name} has already joined; raise its generation to join it anew"
    )
    assert shared_host.rows(node.name) == [("good", 0)]


def test_many_keys_at_once_get_one_certificate(shared_host: Host, node: TestNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    requests = [
        node.sealed(
            node.request(certificate_request=node.csr(key=ec.generate_private_key(ec.SECP256R1())))
        )
        for _ in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(status for status, _ in pool.map(shared_host.sign, requests))
    assert statuses == [200] + [409] * 7
    assert shared_host.rows(node.name) == [("good", 0)]


def test_an_expired_join_key_is_refused_with_what_to_do(own_host: Host) -> None:
    import sqlite3

    node = registered(own_host)
    with sqlite3.connect(own_host.folder / "gate.sqlite") as database:
        database.execute("UPDATE nodes SET expires_at = ?", (time.time() - 1,))
    status, answer = own_host.sign(node.sealed(node.request()))
    assert status == 403
    assert "expired; raise its generation" in answer["errors"][0]["message"]
    # The holder of another key learns nothing of it.
    assert own_host.sign(node.sealed(node.request(), key=b"x" * 32))[0] == 401


MALFORMED: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no object": (b"[]", 400),
    "deep nesting": (b"[" * 15000, 400),
    "key twice": (b'{"token":"","token":"","request":""}', 400),
    "foreign key": (b'{"token":"","request":"","subject":{}}', 400),
    "token no text": (b'{"token":1,"request":""}', 400),
    "loose base64": (b'{"token":"A A=","request":""}', 400),
    "not UTF-8": (b'{"token":"\xff"}', 400),
    "not a number": (b'{"token":NaN}', 400),
    "request no JSON": (b'{"token":"","request":"AAAA"}', 400),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(shared_host: Host, case: str) -> None:
    body, expected = MALFORMED[case]
    status, answer = shared_host.ask("POST", "/api/v1/cfssl/authsign", body)
    assert status == expected
    assert json.loads(answer)["success"] is False


@pytest.mark.parametrize("endpoint", ["sign", "newcert", "revoke", "init_ca", "gencrl", "ocspsign"])
def test_nothing_else_of_cfssl_is_there(shared_host: Host, endpoint: str) -> None:
    """Neither at the gate nor at CFSSL behind it."""
    import http.client

    assert shared_host.post(f"/api/v1/cfssl/{endpoint}", {})[0] == 404
    upstream = http.client.HTTPConnection("127.0.0.1", shared_host.cfssl_port, timeout=10)
    upstream.request("POST", f"/api/v1/cfssl/{endpoint}", b"{}")
    assert upstream.getresponse().status == 404
    upstream.close()


@pytest.mark.parametrize("profile", ["intermediate", "www", "client", "ocsp", "", "unknown"])
def test_the_gates_key_is_good_for_kubelet_only(shared_host: Host, profile: str) -> None:
    """Even a holder of the key between the gate and CFSSL gets no other profile."""
    import http.client

    thief = TestNode("thief")
    key = bytes.fromhex((shared_host.folder / "gate.key").read_text().strip())
    request = thief.request(profile=profile, hosts=[ADDRESS])
    upstream = http.client.HTTPConnection("127.0.0.1", shared_host.cfssl_port, timeout=10)
    body = json.dumps(thief.sealed(request, key=key))
    upstream.request("POST", "/api/v1/cfssl/authsign", body)
    response = upstream.getresponse()
    assert response.status == 400
    assert "invalid token" in json.loads(response.read())["errors"][0]["message"]
    upstream.close()
    assert shared_host.rows("thief") == []
