"""hosts.toml: read back by a TOML parser, as containerd would."""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path
from typing import Any

import yaml

from components.load import examine
from components.workers import registries
from components.workers.seed import Registry

VALID = Path(__file__).parents[2] / "stack/valid.yaml"
MIRROR = "https://192.168.10.4:5000"
PAIR = "Basic " + base64.b64encode(b'nodes:a "word"').decode()


def read(registry: Registry) -> dict[str, Any]:
    return tomllib.loads(registries.hosts(registry))


def test_a_mirror_is_asked_first_and_alone_sees_the_password() -> None:
    registry = Registry("quay.io", (MIRROR,), True, "PEM", "nodes", 'a "word"')
    assert read(registry) == {
        "server": "https://quay.io",
        "host": {
            MIRROR: {
                "capabilities": ["pull", "resolve"],
                "ca": "/etc/containerd/certs.d/quay.io/ca.pem",
                "header": {"Authorization": PAIR},
            }
        },
    }
    assert registries.files((registry,))["/etc/containerd/certs.d/quay.io/ca.pem"] == "PEM"


def test_without_fallback_nobody_else_is_asked() -> None:
    found = read(Registry("default", ("https://a", MIRROR), False, "PEM"))
    ca = "/etc/containerd/certs.d/_default/ca.pem"
    assert found["server"] == MIRROR
    assert found["ca"] == ca
    each = {"capabilities": ["pull", "resolve"], "ca": ca}
    # containerd 1.6 heeds no file without a host.
    assert found["host"] == {"https://a": each, MIRROR: each}


def test_a_registry_without_mirrors_has_the_password_itself() -> None:
    found = read(Registry("registry.home.arpa:5000", (), True, None, "nodes", 'a "word"'))
    assert found == {
        "server": "https://registry.home.arpa:5000",
        "capabilities": ["pull", "resolve"],
        "header": {"Authorization": PAIR},
    }


def test_every_other_registry_may_be_asked_itself_last() -> None:
    found = read(Registry("default", (MIRROR,)))
    assert found == {"host": {MIRROR: {"capabilities": ["pull", "resolve"]}}}


def test_a_ca_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A lab's comes with the lab: `make check` warns, and `pulumi up` refuses it."""
    data = yaml.safe_load(VALID.read_text())
    missing = tmp_path / "registry-ca.pem"
    data["config"]["autojoin:registries"] = {"quay.io": {"ca": str(missing)}}
    file = tmp_path / "Pulumi.lab.yaml"
    file.write_text(yaml.safe_dump(data))
    key = 'autojoin:registries["quay.io"].ca'
    hint = "give PEM, or the path of a file on this machine"
    told = f"{key}: is not there ({missing}); {hint}"
    report = examine(file)
    assert told in [str(it) for it in report.warnings]
    assert [str(it) for it in report.checked().missing_files] == [told]
    missing.write_text("no certificate")
    hint = "give that of the CA that signed the registry's certificate"
    told = f"{key}: is no CA's certificate in PEM ({missing}); {hint}"
    assert [str(it) for it in examine(file).problems] == [told]
