"""What goes to the certificate authority's host, without a host."""

from __future__ import annotations

import ast
import base64
import io
import json
import shlex
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from components import archive
from components.certificate_authority import cfssl
from components.certificate_authority import installation as authority
from components.certificate_authority.authority_host import FILES, LINUX, AuthorityHost
from components.certificate_authority.platforms import systemd
from components.join_gate import installation as join_gate

HOST = AuthorityHost(
    platform="linux",
    address="192.0.2.2",
    source="existing",
    certificate="/etc/kubernetes-ca/ca.pem",
    key="/etc/kubernetes-ca/ca-key.pem",
    subject={},
    node_certificate_hours=720,
)
PAIR = ("KEY\n", "REQUEST\n")


def unpacked(text: str) -> dict[str, tuple[bytes, int]]:
    buffer = io.BytesIO(base64.b64decode(text))
    with tarfile.open(fileobj=buffer) as tar:
        result = {}
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None and entry.mtime == 0 and (entry.uid, entry.gid) == (0, 0)
            result[entry.name] = (file.read(), entry.mode)
        return result


def test_every_profile_needs_a_key_and_the_gates_key_opens_kubelet_only() -> None:
    configuration = cfssl.configuration(
        gate_key="/a/gate.key",
        operator_key="/a/operator.key",
        node_certificate_hours=720,
        status_url="http://192.0.2.2:8889",
    )
    profiles = {
        "default": configuration["signing"]["default"],
        **configuration["signing"]["profiles"],
    }
    assert set(profiles) == {"default", "intermediate", "ocsp", "www", "client", "kubelet"}
    keys = {name: profile["auth_key"] for name, profile in profiles.items()}
    assert [name for name, key in keys.items() if key == cfssl.GATE_KEY] == ["kubelet"]
    assert set(keys.values()) == set(configuration["auth_keys"])
    assert profiles["kubelet"]["expiry"] == "720h"
    authorities = [name for name in profiles if "ca_constraint" in profiles[name]]
    assert authorities == ["intermediate"]


def test_cfssl_is_on_the_loopback_with_two_endpoints() -> None:
    unit = unpacked(authority.install_input(HOST, *PAIR, "CA"))["cfssl.service"][0].decode()
    words = shlex.split(unit.partition("ExecStart=")[2].splitlines()[0])
    assert words[words.index("-address") + 1] == "127.0.0.1"
    disabled = set(words[words.index("-disable") + 1].split(","))
    # Every endpoint of CFSSL 1.6.5 but the two.
    assert disabled == {
        *("sign", "newcert", "newkey", "init_ca", "gencrl", "revoke", "certadd", "ocspsign"),
        *("bundle", "scan", "scaninfo", "certinfo", "crl", "health", "/"),
    }


@pytest.mark.parametrize("name", ["cfssl.service", "ocsp-responder.service", "join-gate.service"])
def test_services_are_hardened(name: str) -> None:
    files = {**authority.files(HOST), **join_gate.files(HOST)}
    lines = files[name].content.decode().splitlines()
    for directive in (
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "Restart=on-failure",
        "WantedBy=multi-user.target",
    ):
        assert directive in lines
    assert any(line.startswith("StateDirectory=") for line in lines)
    assert not any(line == "User=root" for line in lines)


def test_a_value_cannot_become_a_directive() -> None:
    with pytest.raises(ValueError, match=r"Unit\.Description"):
        systemd.unit({"Unit": {"Description": "x\n[Service]\nUser=root"}})


def test_input_is_deterministic_and_follows_the_configuration() -> None:
    assert authority.install_input(HOST, *PAIR, "CA") == authority.install_input(
        replace(HOST), *PAIR, "CA"
    )
    other = replace(HOST, node_certificate_hours=24)
    assert authority.install_input(HOST, *PAIR, "CA") != authority.install_input(other, *PAIR, "CA")
    assert join_gate.install_input(HOST, *PAIR) == join_gate.install_input(HOST, *PAIR)
    # What nodes pin comes from the other command: preview then knows that it stays.
    assert authority.pair_input(HOST) == authority.pair_input(replace(other, setup=2))


def test_keys_travel_on_standard_input_only() -> None:
    words = ("THE KEY", "THE REQUEST")
    for name, text in {
        "ocsp-key.pem": authority.install_input(HOST, *words, "CA"),
        "tls-key.pem": join_gate.install_input(HOST, *words),
    }.items():
        assert unpacked(text)[name] == (b"THE KEY\n", 0o600)
    assert not any("-key" in name for name in {**authority.files(HOST), **join_gate.files(HOST)})
    for module in (authority, join_gate):
        assert "KEY" not in module.install_command(HOST) + module.remove_command(HOST)
    assert not any("key" in name for name in unpacked(authority.pair_input(HOST)))


def test_commands_survive_any_login_shell() -> None:
    """One `sh -c` with one quoted word: csh and fish pass it on unread."""
    for command in (
        authority.install_command(HOST),
        authority.pair_command(HOST),
        authority.remove_command(HOST),
        join_gate.install_command(HOST),
        join_gate.remove_command(HOST),
        join_gate.remove_node_command(HOST, "worker-1", "one"),
    ):
        words = shlex.split(command)
        assert words[:2] == ["sh", "-c"] and len(words) == 3
        checked = subprocess.run(["dash", "-n", "-c", words[2]], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_settings_are_quoted_for_the_shell() -> None:
    odd = replace(HOST, certificate="/etc/o'clock $(touch x)/ca.pem")
    script = unpacked(authority.install_input(odd, *PAIR, "CA"))["certificate-authority.env"][
        0
    ].decode()
    result = subprocess.run(
        ["dash", "-euc", script + 'printf %s "$source_certificate"'],
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.returncode) == (odd.certificate, 0)


SCRIPTS = (*sorted(FILES.glob("*.sh")), join_gate.FILES / "join-gate.sh")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path: Path) -> None:
    result = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert subprocess.run(["dash", "-n", str(path)]).returncode == 0


def test_the_program_is_one_deterministic_executable() -> None:
    program = join_gate.program(LINUX.python)
    assert program == join_gate.program(LINUX.python)
    assert program.startswith(b"#!/usr/bin/python3 -I\n")
    with zipfile.ZipFile(io.BytesIO(program)) as bundle:
        names = bundle.namelist()
        assert bundle.testzip() is None
        assert {entry.compress_type for entry in bundle.infolist()} == {zipfile.ZIP_STORED}
    assert "__main__.py" in names and "gate/rules.py" in names
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_the_program_needs_nothing_but_the_platform() -> None:
    """Standard library and `cryptography`; and no syntax newer than Python 3.9."""
    import sys

    allowed = {*sys.stdlib_module_names, "cryptography", "gate"}
    for path in Path("components/join_gate/program").glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in allowed, f"{path}: imports {name}"


def test_url_brackets_ipv6() -> None:
    assert join_gate.url(HOST) == "https://192.0.2.2:8443"
    assert join_gate.url(replace(HOST, address="2001:db8::2")) == "https://[2001:db8::2]:8443"
    assert join_gate.url(replace(HOST, address="ca.example")) == "https://ca.example:8443"


def test_registration_carries_its_secrets_on_standard_input_only() -> None:
    value = json.loads(
        join_gate.register_input("worker-1", ["10.0.0.1"], 2, "id", "aa" * 32, "bb" * 32)
    )
    assert value == {
        "node": "worker-1",
        "addresses": ["10.0.0.1"],
        "generation": 2,
        "identity": "id",
        "joinKey": "aa" * 32,
        "statusToken": "bb" * 32,
        "lifeHours": 24,
    }
    command = f"{LINUX.programs}/gate --settings {LINUX.gate}/gate.json register worker-1"
    assert join_gate.register_command(HOST, "worker-1") == command


def test_packing_is_independent_of_order() -> None:
    one, two = archive.text("1"), archive.text("2", 0o755)
    assert archive.pack({"a": one, "b": two}) == archive.pack({"b": two, "a": one})
    assert unpacked(archive.pack({"b": two})) == {"b": (b"2", 0o755)}
