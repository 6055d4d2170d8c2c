"""The cluster's DNS: where it is, what is refused, and what CoreDNS is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components import from_lab
from components.dns import resources
from components.load import from_stack_file
from components.workers import hardware_types
from stack.models import Lab
from stack.problem import ConfigError

VALID = Path(__file__).parents[2] / "stack/valid.yaml"


def lab(folder: Path, dns: dict[str, Any], **workers: dict[str, Any]) -> Lab:
    data = yaml.safe_load(VALID.read_text())
    data["config"]["autojoin:dns"] = dns
    for name, more in workers.items():
        data["config"]["autojoin:workers"][name] |= more
    file = folder / "Pulumi.lab.yaml"
    file.write_text(yaml.safe_dump(data))
    return from_stack_file(file)


@pytest.mark.parametrize(
    ("dns", "address"),
    [
        ({}, "10.30.0.10"),
        ({"address": "10.30.7.53"}, "10.30.7.53"),
        ({"mode": "external", "address": "192.168.10.53"}, "192.168.10.53"),
        ({"mode": "off"}, None),
    ],
)
def test_every_kubelet_tells_pods_where_it_is(
    dns: dict[str, Any], address: str | None, tmp_path: Path
) -> None:
    made = lab(tmp_path, dns)
    assert made.dns_address == address
    for name in made.workers:
        seed = hardware_types.of(made, name).emit(None, None).seed
        assert (f"clusterDNS:\n- {address}" in seed.user_data.replace("    ", "")) == bool(address)
    assert (from_lab.dns(made) is None) == (dns.get("mode", "install") != "install")


@pytest.mark.parametrize(
    ("dns", "problem"),
    [
        ({"mode": "external"}, "autojoin:dns.address: is required with mode: external"),
        (
            {"address": "10.31.0.10"},
            "autojoin:dns.address: is in none of the Service networks (10.31.0.10); "
            "take one of 10.30.0.0/16; mode: external takes any",
        ),
        (
            {"address": "10.30.0.1"},
            "autojoin:dns.address: is that of Service kubernetes (10.30.0.1); the tenth is usual",
        ),
        (
            {"address": "10.30.0.0"},
            "autojoin:dns.address: is the network's own (10.30.0.0); the tenth is usual",
        ),
        (
            {"upstream": ["10.30.0.10"]},
            "autojoin:dns.upstream[0]: is the cluster's DNS itself, which would ask itself "
            "(10.30.0.10)",
        ),
        (
            {"upstream": ["192.168.10.1", "127.0.0.53"]},
            "autojoin:dns.upstream[1]: is a loopback address (127.0.0.53); "
            "in CoreDNS's pod that is CoreDNS; name a resolver of the network",
        ),
        (
            {"upstream": ["10.20.1.1"]},
            "autojoin:dns.upstream[0]: lies in autojoin:cluster.podCidrs[0] (10.20.1.1); "
            "other names must come from outside the cluster",
        ),
    ],
)
def test_what_would_leave_pods_without_names_is_refused(
    dns: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        lab(tmp_path, dns)
    assert str(caught.value).splitlines() == [problem]


def test_a_stub_resolver_of_the_node_is_a_loop(tmp_path: Path) -> None:
    """systemd-resolved's stub, where CoreDNS asks its node's resolvers."""
    stub = {"kubelet": {"resolvConf": "/etc/resolv.conf"}}
    with pytest.raises(ConfigError, match=r"workers\.metal\.kubelet\.resolvConf: names the node's"):
        lab(tmp_path, {}, metal=stub)
    lab(tmp_path, {"upstream": ["192.168.10.1"]}, metal=stub)
    lab(tmp_path, {"mode": "off"}, metal=stub)


def test_it_runs_where_there_are_only_tainted_nodes(tmp_path: Path) -> None:
    made = lab(tmp_path, {}, metal={"taints": ["dedicated=storage:NoSchedule"]})
    settings = from_lab.dns(made)
    assert settings
    (deployment,) = (it for it in resources.resources(settings) if it["kind"] == "Deployment")
    taint = {"key": "dedicated", "operator": "Equal", "value": "storage", "effect": "NoSchedule"}
    assert taint in deployment["spec"]["template"]["spec"]["tolerations"]


def test_upstream_and_further_zones_are_asked(tmp_path: Path) -> None:
    dns = {"upstream": ["192.168.10.1"], "zones": {"home.arpa": ["192.168.10.9", "192.168.10.8"]}}
    settings = from_lab.dns(lab(tmp_path, dns))
    assert settings
    text = resources.corefile(settings)
    assert "    forward . 192.168.10.1 {\n" in text
    assert "home.arpa:53 {\n    errors\n    cache 30\n    forward . 192.168.10.9 " in text
