"""Whatever is in a certificate request: what comes out has exactly the registered identity."""

from __future__ import annotations

import datetime
import itertools
import json
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from components.join_gate.program import names
from tests.unit.components.join_gate import attacks
from tests.unit.components.join_gate.attacks import der
from tests.unit.components.join_gate.gate_host import ADDRESS, HOURS, Host, TestNode

numbers = itertools.count()
SECOND_ADDRESS = "fd00::7"
NAME, OTHER = "{name}", "other-worker"

# Placeholders for the node's own name; weighted to what is right, so that some are signed.
ATTRIBUTES = {
    "organization": (attacks.ORGANIZATION, "system:nodes"),
    "common name": (attacks.COMMON_NAME, f"system:node:{NAME}"),
    "masters": (attacks.ORGANIZATION, "system:masters"),
    "other": (attacks.COMMON_NAME, f"system:node:{OTHER}"),
    "unit": (bytes.fromhex("060355040b"), "unit"),
    "country": (bytes.fromhex("0603550406"), "SE"),
}
RIGHT = ["organization", "common name"]
subjects = st.one_of(
    st.permutations(RIGHT),
    st.lists(st.sampled_from(sorted(ATTRIBUTES)), max_size=4),
    st.permutations([*RIGHT, "masters"]),
)
kinds = st.sampled_from([attacks.UTF8, attacks.PRINTABLE, attacks.TELETEX, attacks.IA5])
general_names = st.one_of(
    st.sampled_from(
        [
            (attacks.DNS, NAME.encode()),
            (attacks.IP, bytes((10, 9, 8, 7))),
            (attacks.IP, bytes.fromhex("fd000000000000000000000000000007")),
            (attacks.DNS, b"kubernetes"),
            (attacks.IP, bytes((127, 0, 0, 1))),
        ]
    ),
    st.tuples(
        st.sampled_from([attacks.DNS, attacks.IP, 0x81, 0x86, attacks.REGISTERED]),
        st.binary(max_size=20),
    ),
)
hosts = st.one_of(
    st.none(),
    st.lists(st.sampled_from([NAME, ADDRESS, SECOND_ADDRESS]), max_size=4),
    st.lists(
        st.one_of(st.sampled_from([NAME, OTHER, "10.9.8.6"]), st.text(max_size=12)), max_size=3
    ),
)
further: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["subject", "serial", "label", "profile", "extensions", "not_after", "bundle"]),
    st.one_of(st.none(), st.just(""), st.just([]), st.integers(), st.text(max_size=8)),
    max_size=2,
)


def request(
    node: TestNode,
    attributes: list[str],
    kind: int,
    alternative: list[tuple[int, bytes]],
    asked: list[str] | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    def filled(text: str) -> str:
        return text.replace(NAME, node.name)

    subject = der(
        attacks.SEQUENCE,
        *(
            attacks.attribute(ATTRIBUTES[name][0], kind, filled(ATTRIBUTES[name][1]).encode())
            for name in attributes
        ),
    )
    general = [der(tag, it.replace(NAME.encode(), node.name.encode())) for tag, it in alternative]
    wanted = [attacks.requested(attacks.extension(*general))] if general else []
    return {
        "certificate_request": attacks.armoured(attacks.handmade(node, *wanted, name=subject)),
        "hosts": None if asked is None else [filled(host) for host in asked],
        **more,
    }


@given(subjects, kinds, st.lists(general_names, max_size=3), hosts, further)
@example(RIGHT, attacks.UTF8, [], None, {})
@example(RIGHT[::-1], attacks.PRINTABLE, [(attacks.DNS, NAME.encode())], [ADDRESS], {"label": ""})
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_signed_has_exactly_the_registered_identity(
    shared_host: Host,
    attributes: list[str],
    kind: int,
    alternative: list[tuple[int, bytes]],
    asked: list[str] | None,
    more: dict[str, Any],
) -> None:
    (node,) = shared_host.admit(TestNode(f"property-{next(numbers)}"), also=(SECOND_ADDRESS,))
    value = request(node, attributes, kind, alternative, asked, more)
    status, answer = shared_host.sign(node.sealed(json.dumps(value).encode()))
    event(f"status {status}")
    right = sorted(attributes) == sorted(RIGHT) and kind in (attacks.UTF8, attacks.PRINTABLE)
    if status != 200:
        assert status in (400, 401, 403), answer
        assert shared_host.rows(node.name) == []
        plain = right and not alternative and not asked and not more
        assert not plain, f"a right request was refused: {answer}"
        return
    assert right, "another subject was signed"
    check(node, x509.load_pem_x509_certificate(answer["result"]["certificate"].encode()))
    assert shared_host.rows(node.name) == [("good", 0)]


def check(node: TestNode, certificate: x509.Certificate) -> None:
    assert certificate.subject.public_bytes() in names.subjects(node.name)
    assert certificate.public_key() == node.key.public_key()
    extensions = certificate.extensions
    found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in found} <= {node.name, ADDRESS, SECOND_ADDRESS}
    usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life <= datetime.timedelta(hours=HOURS)
