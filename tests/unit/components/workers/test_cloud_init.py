"""What a node's seed holds, read back as cloud-init reads it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.workers import cloud_init, kubelet
from components.workers.cloud_init import BEGIN_ANEW, DEAF_TO_ROUTERS
from components.workers.seed import Cluster, Node, Seed
from lab import image
from tests.unit.components.examples import AUTHORITY_NOT_BEFORE, AUTHORITY_PEM, CLUSTER, NODE

JOIN_KEY = "5a" * 32


def make(cluster: Cluster = CLUSTER, node: Node = NODE, **more: Any) -> Seed:
    return cloud_init.seed(
        cluster,
        node,
        **{
            "authority_pem": AUTHORITY_PEM,
            "gate_url": "https://192.168.10.2:8443/",
            "join_key": JOIN_KEY,
        }
        | more,
    )


def user_data(seed: Seed) -> dict[str, Any]:
    assert seed.user_data.startswith("#cloud-config\n")
    return dict(yaml.safe_load(seed.user_data))


def files(seed: Seed) -> dict[str, dict[str, Any]]:
    return {file["path"]: file for file in user_data(seed)["write_files"]}


def test_same_input_gives_the_same_bytes() -> None:
    assert make() == make()


def test_secrets_are_for_root_alone_and_nothing_is_world_writable() -> None:
    written = files(make())
    assert written["/etc/autojoin/join-key"]["content"] == JOIN_KEY + "\n"
    for path, file in written.items():
        assert isinstance(file["permissions"], str)
        mode = int(file["permissions"], 8)
        assert mode & 0o022 == 0, path
        if JOIN_KEY in file["content"] or path.endswith("kubeconfig"):
            assert mode == 0o600, path
    assert sum(JOIN_KEY in file["content"] for file in written.values()) == 1


def test_join_starts_when_the_last_file_is_there() -> None:
    data = user_data(make())
    last = data["write_files"][-1]["path"]
    assert f"--path-property=PathExists={last}" in data["bootcmd"][1]
    assert data["bootcmd"][1][-1] == "autojoin-join.service"
    assert "systemctl start --no-block autojoin-join.service" in data["runcmd"][0]


def put_in_place(folder: Path, *names: str) -> None:
    """Programs that only tell, in `said`, how they were called."""
    (folder / "said").touch()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {name} $* >>{folder}/said\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_a_first_boot_that_was_cut_begins_anew(tmp_path: Path, written: bool, kept: bool) -> None:
    cloud, state = tmp_path / "cloud", tmp_path / "autojoin"
    (cloud / "instance/sem").mkdir(parents=True)
    state.mkdir()
    for there, file in (
        (written, cloud / "instance/sem/config_write_files"),
        (kept, state / "kept"),
    ):
        if there:
            file.touch()
    put_in_place(tmp_path, "cloud-init", "systemctl", "sleep")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{BEGIN_ANEW}".replace("/var/lib", str(tmp_path)))
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["dash", script], check=True, env={"PATH": path})
    said = (tmp_path / "said").read_text().splitlines()
    anew = ["cloud-init clean", "systemctl reboot --force", "sleep 60"]
    assert said == (anew if written and not kept else [])
    subprocess.run(["shellcheck", script], check=True)


def test_join_environment_is_shell_and_says_what_the_join_needs(tmp_path: Path) -> None:
    awkward = dataclasses.replace(NODE, addresses=("192.168.10.11", "192.168.10.12"))
    text = files(make(node=awkward))["/etc/autojoin/join.env"]["content"]
    (tmp_path / "join.env").write_text(text)
    program = f'. {shlex.quote(str(tmp_path / "join.env"))}; printf "%s|" "$NODE" "$ADDRESSES"'
    program += ' "$IDENTITY" "$GATE_URL" "$API_SERVER" "$NOT_BEFORE" "$RUNTIME_SOCKET"'
    result = subprocess.run(["dash", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == (
        "worker-1|192.168.10.11 192.168.10.12|worker-1-g1-3f2a9c1d|https://192.168.10.2:8443|"
        f"https://192.168.10.5:6443|{AUTHORITY_NOT_BEFORE}|/run/containerd/containerd.sock|"
    )


def test_instance_is_the_identity() -> None:
    assert yaml.safe_load(make().meta_data) == {
        "instance-id": NODE.identity,
        "local-hostname": "worker-1",
    }


def test_network_matches_by_name_or_by_mac() -> None:
    by_name = yaml.safe_load(make().network_config)
    assert by_name["ethernets"]["host0"]["match"] == {"name": "host0"}
    assert by_name["ethernets"]["host0"]["addresses"] == ["192.168.10.11/24"]
    assert "routes" not in by_name["ethernets"]["host0"]
    mac = dataclasses.replace(NODE, mac="a0:36:9f:00:00:41", interface="")
    gateway = dataclasses.replace(CLUSTER, gateways=("192.168.10.1",))
    (interface,) = yaml.safe_load(make(gateway, mac).network_config)["ethernets"].values()
    assert interface["match"] == {"macaddress": "a0:36:9f:00:00:41"}
    assert interface["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.10.1"}]


NETWORKD = """
import sys, yaml
from cloudinit.net import network_state, networkd
renderer = networkd.Renderer()
state = network_state.parse_net_config_data(yaml.safe_load(sys.stdin), renderer=renderer)
print(yaml.safe_dump(renderer._render_content(state)))
"""


def networkd_routes(text: str) -> set[tuple[str, ...]]:
    """The routes that Debian's cloud-init makes of a network-config for systemd-networkd."""
    packages = image.root() / "usr/lib/python3/dist-packages"
    answer = subprocess.run(
        [sys.executable, "-c", NETWORKD], input=text, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    (unit,) = yaml.safe_load(answer.stdout).values()
    parts = [part.partition("[")[0].split() for part in unit.split("[Route]")[1:]]
    return {tuple(sorted(part)) for part in parts}


@pytest.mark.parametrize(
    ("networks", "addresses", "gateways", "routes"),
    [
        (
            ("192.168.10.0/24", "fd00:10::/64"),
            ("192.168.10.11", "fd00:10::11"),
            ("192.168.10.1", "fd00:10::1"),
            {("Destination=0.0.0.0/0", "Gateway=192.168.10.1"), ("Gateway=fd00:10::1",)},
        ),
        (
            ("192.168.10.0/24", "192.168.20.0/24"),
            ("192.168.20.11",),
            ("192.168.10.1", "192.168.20.1"),
            {("Destination=0.0.0.0/0", "Gateway=192.168.20.1")},
        ),
        (
            ("192.168.10.11/32", "fd00:10::11/128"),
            ("192.168.10.11", "fd00:10::11"),
            ("172.31.1.1", "fd00:1::1"),
            {
                ("Destination=172.31.1.1/32",),
                ("Destination=0.0.0.0/0", "Gateway=172.31.1.1"),
                ("Destination=fd00:1::1/128",),
                ("Gateway=fd00:1::1",),
            },
        ),
        (("fd00:10::/64",), ("fd00:10::11",), ("fe80::1",), {("Gateway=fe80::1",)}),
        (("192.168.10.0/24",), ("192.168.10.11",), (), set()),
    ],
)
def test_each_address_has_the_gateway_of_its_network(
    networks: tuple[str, ...],
    addresses: tuple[str, ...],
    gateways: tuple[str, ...],
    routes: set[tuple[str, ...]],
) -> None:
    cluster = dataclasses.replace(CLUSTER, node_cidrs=networks, gateways=gateways)
    seed = make(cluster, dataclasses.replace(NODE, addresses=addresses))
    assert networkd_routes(seed.network_config) == routes
    (interface,) = yaml.safe_load(seed.network_config)["ethernets"].values()
    away = [route for route in interface.get("routes", []) if route.get("on-link")]
    assert len(away) == ("172.31.1.1" in gateways)  # netplan's word for it
    # Nobody's only way comes from what a router advertises, or no second address does.
    ipv6 = any(":" in gateway for gateway in gateways)
    assert interface.get("accept-ra", True) is not ipv6
    assert (["sh", "-c", DEAF_TO_ROUTERS] in user_data(seed)["bootcmd"]) is ipv6


def test_networkd_is_told_once_to_take_nothing_from_routers(tmp_path: Path) -> None:
    units = tmp_path / "network"
    units.mkdir()
    (units / "10-cloud-init-host0.network").touch()
    put_in_place(tmp_path, "ip", "systemctl")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{DEAF_TO_ROUTERS}".replace("/etc/systemd/network", str(units)))
    for _ in range(2):
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(["dash", script], check=True, env={"PATH": path})
    (drop_in,) = units.glob("*/*")
    assert str(drop_in.relative_to(units)) == "10-cloud-init-host0.network.d/autojoin.conf"
    assert drop_in.read_text() == "[Network]\nIPv6AcceptRA=no\n"
    said = (tmp_path / "said").read_text().splitlines()
    assert said == [
        "ip -6 address flush scope global dynamic",
        "systemctl --no-block try-restart systemd-networkd",
    ]
    subprocess.run(["shellcheck", script], check=True)


def test_extra_user_data_is_merged_and_brings_all_modules_back() -> None:
    extra = {"runcmd": [["true"]], "growpart": {"devices": ["/"]}, "hostname": "other"}
    data = user_data(make(node=dataclasses.replace(NODE, extra_user_data=extra)))
    assert data["runcmd"][-1] == ["true"] and len(data["runcmd"]) == 2
    assert data["growpart"] == {"mode": "off", "devices": ["/"]}
    assert data["hostname"] == "other"
    assert "cloud_final_modules" in user_data(make())
    assert "cloud_final_modules" not in data


def test_texts_of_many_lines_are_literal_blocks() -> None:
    text = make().user_data
    assert "content: |" in text
    assert max(len(line) for line in text.splitlines()) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"node": dataclasses.replace(NODE, addresses=("10.9.9.9",))},
            "in none of the node networks",
        ),
        (
            {"node": dataclasses.replace(NODE, interface="")},
            "neither a MAC address nor an interface",
        ),
        (
            {"node": dataclasses.replace(NODE, taints=("a=b:Never",))},
            "taint 'a=b:Never' is not valid",
        ),
        ({"authority_pem": "not yet"}, "not a PEM certificate; found 'not yet'"),
    ],
)
def test_what_cannot_make_a_node_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_kubelet_configuration_is_closed_and_may_be_overridden() -> None:
    node = dataclasses.replace(NODE, taints=("dedicated=storage:NoSchedule", "slow:NoExecute"))
    plain = kubelet.configuration(CLUSTER, node)
    assert plain["authentication"]["anonymous"] == {"enabled": False}
    assert plain["authorization"] == {"mode": "Webhook"}
    assert plain["authentication"]["x509"] == {"clientCAFile": "/etc/autojoin/ca.pem"}
    assert (plain["rotateCertificates"], plain["serverTLSBootstrap"]) == (False, False)
    assert "clusterDNS" not in plain
    assert plain["registerWithTaints"] == [
        {"key": "dedicated", "value": "storage", "effect": "NoSchedule"},
        {"key": "slow", "value": "", "effect": "NoExecute"},
    ]
    changed = kubelet.configuration(
        CLUSTER, node, {"cgroupsPerQOS": False, "authentication": {"webhook": {"cacheTTL": "1m"}}}
    )
    named = dataclasses.replace(CLUSTER, cluster_dns="10.30.0.10")
    assert kubelet.configuration(named, node)["clusterDNS"] == ["10.30.0.10"]
    assert changed["cgroupsPerQOS"] is False
    assert changed["authentication"]["webhook"] == {"enabled": True, "cacheTTL": "1m"}
    assert "cacheTTL" not in plain["authentication"]["webhook"]


def test_runtime_of_the_kubelet_is_what_the_join_waits_for() -> None:
    crio = {"containerRuntimeEndpoint": "unix:///var/run/crio/crio.sock", "healthzPort": 10999}
    text = files(make(kubelet_overrides=crio))["/etc/autojoin/join.env"]["content"]
    assert "RUNTIME_SOCKET=/var/run/crio/crio.sock\n" in text
    assert "KUBELET_HEALTH=http://127.0.0.1:10999/healthz\n" in text


def test_kubeconfig_points_at_files_and_the_pinned_authority() -> None:
    config = yaml.safe_load(files(make())[kubelet.KUBECONFIG]["content"])
    assert config["users"][0]["user"] == {
        "client-certificate": "/var/lib/kubelet/pki/kubelet-client-current.pem",
        "client-key": "/var/lib/kubelet/pki/kubelet-client-current.pem",
    }
    assert config["clusters"][0]["cluster"] == {
        "server": "https://192.168.10.5:6443",
        "certificate-authority": "/etc/autojoin/ca.pem",
    }


def test_service_states_name_address_and_labels() -> None:
    node = dataclasses.replace(NODE, labels={"zone": "attic", "bgp": "worker"})
    unit = kubelet.service(node)
    assert "--hostname-override=worker-1" in unit
    assert "--node-ip=192.168.10.11" in unit
    assert "--node-labels=bgp=worker,zone=attic" in unit
    assert "--node-labels" not in kubelet.service(dataclasses.replace(NODE, labels={}))
