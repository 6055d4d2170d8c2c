"""make new: a commented file that passes the check; never over another one."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import found
from commands.new import main
from components.load import examine, from_stack_file
from components.shell import kubectl
from tests.unit.tools.plugins.kubernetes_server import running
from tools.pins import CHECKOUT

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk7"
FLAGS = [
    *("--name", "cellar", "--api-server", "https://10.1.0.5:6443", "--node-cidrs", "10.1.0.0/24"),
    *("--gateway", "10.1.0.1", "--dns-servers", "10.1.0.1, 9.9.9.9", "--ca-address", "10.1.0.2"),
    *("--ca-host-key", KEY, "--ca-source", "generate"),
    *("--router", "10.1.0.1", "--asn", "64512", "--router-asn", "64513"),
    *("--pool-cidrs", "10.2.0.0/24"),
    *("--worker", "metal-1 bare-metal 10.1.0.41 mac=a0:36:9f:00:00:41 disk=/dev/nvme0n1"),
    *("--worker", "rk1-1 turing-rk1 10.1.0.31 bmc=turing-1 slot=1"),
]


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig that lies on this machine is none of the tests' business."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_what_the_cluster_tells_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["home", "--folder", str(tmp_path), "--no-questions", "--json", "--kubeconfig"]
    (folder := tmp_path / "server").mkdir()
    with running(folder) as server:
        networks = "networking: {podSubnet: 10.7.0.0/16, serviceSubnet: 10.8.0.0/16}"
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
            "data": {"ClusterConfiguration": networks},
        }
        server.kubectl("apply", "--filename=-", stdin=manifest)
        assert main([*words, str(server.kubeconfig)]) == 0
        (services,) = kubectl.items(str(server.kubeconfig), "servicecidrs")
    said = json.loads(capsys.readouterr().out)
    keys = ("apiServer", "kubernetesVersion", "podCidrs", "serviceCidrs")
    assert said["found"] == [f"cluster.{key}" for key in keys]
    cluster = from_stack_file(Path(said["file"])).cluster
    assert (cluster.api_server, cluster.kubernetes_version) == (server.url, "1.34.2")
    assert cluster.pod_cidrs == ["10.7.0.0/16"]
    assert cluster.service_cidrs == services["spec"]["cidrs"]


def test_a_cluster_that_is_silent_tells_its_address_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    place = {"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "a", "context": {"cluster": "a", "user": "a"}}
    data = {"clusters": [place], "contexts": [context], "current-context": "a"}
    data["users"] = [{"name": "a", "user": {"token": "t"}}]
    config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **data}))
    words = ["home", "--folder", str(tmp_path), "--no-questions", "--json"]
    assert main([*words, "--kubeconfig", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == ["cluster.apiServer"]


LINUX = """\
Linux
[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},{"ifname":"eth0","addr_info":[{"family":"inet","local":"10.1.0.2","prefixlen":23},{"family":"inet6","local":"fd00::2","prefixlen":64}]}]
[{"dst":"default","gateway":"10.1.0.1","dev":"eth0","flags":[]}]
/etc/kubernetes/pki/ca.key
# by hand
nameserver 127.0.0.53
nameserver 10.1.0.1
nameserver fe80::1%eth0
"""
LINUX_TELLS = {
    "platform": "linux",
    "certificate": "/etc/kubernetes/pki/ca.crt",
    "key": "/etc/kubernetes/pki/ca.key",
    "nodeCidrs": ["10.1.0.0/23"],
    "gateway": "10.1.0.1",
    "dnsServers": ["10.1.0.1"],
}


@pytest.mark.parametrize(
    ("address", "said", "told"),
    [
        ("10.1.0.2", LINUX, LINUX_TELLS),
        ("fd00::2", LINUX, {**LINUX_TELLS, "nodeCidrs": ["fd00::/64"]}),
        ("ca.lan", LINUX, {key: LINUX_TELLS[key] for key in LINUX_TELLS if key != "nodeCidrs"}),
        ("10.1.0.2", "Linux\n[]\n[ ]\n", {"platform": "linux"}),
        ("10.1.0.2", "SunOS\n\n\nnameserver 10.1.0.1\n",
         {"platform": "illumos", "dnsServers": ["10.1.0.1"]}),
        ("10.1.0.2", "", {}),
    ],
)  # fmt: skip
def test_what_a_host_tells(address: str, said: str, told: dict[str, Any]) -> None:
    """The lab's own host is asked by tests/e2e/first_lab.py."""
    assert found.told(address, said) == told


def test_from_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cellar", "--folder", str(tmp_path), *FLAGS, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    lab = from_stack_file(Path(said["file"]))
    assert lab.cluster.dns_servers == ["10.1.0.1", "9.9.9.9"]
    assert lab.certificate_authority.source == "generate"
    assert lab.certificate_authority.certificate is None
    assert lab.bgp is not None and lab.bgp.peers[0].asn == 64513
    assert lab.workers["rk1-1"].slot == 1
    assert "cluster.name" not in said["examples"]


def test_without_flags_every_value_is_an_example_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["home", "--folder", str(tmp_path), "--no-questions"]) == 0
    file = tmp_path / "Pulumi.home.yaml"
    assert examine(file).problems == []
    values = [
        line for line in file.read_text().splitlines() if ": " in line and "#" not in line[:7]
    ]
    assert values and all(line.endswith("  # an example: put your own") for line in values)
    assert "values in it are examples" in capsys.readouterr().out


def test_a_comment_that_is_uncommented_is_right(tmp_path: Path) -> None:
    """The keys that are shown as comments are ones that may be used as they stand."""
    assert main(["home", "--folder", str(tmp_path), "--no-questions"]) == 0
    file = tmp_path / "Pulumi.home.yaml"
    text, number = re.subn(r"^( +)#(?=\w)", r"\1", file.read_text(), flags=re.MULTILINE)
    assert number >= 5
    file.write_text(text)
    assert examine(file).problems == []


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    file.write_text("mine")
    assert main(["home", "--folder", str(tmp_path), *FLAGS]) == 1
    assert file.read_text() == "mine"
    assert "is there already and stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["home", "--api-server", "10.1.0.5"], "autojoin:cluster.apiServer: is no API server"),
        (["home", "--worker", "a kvm 192.168.10.9"], "autojoin:workers.a.hardware: must be bhyve"),
        (["home", "--worker", "a bhyve"], "a worker is written as NAME HARDWARE ADDRESS"),
        (["home", "--worker", "a bhyve 192.168.10.9 mak=x"], "workers.a.mak: is no known key"),
        (["home", "--pool-cidrs", "x", "--router", "192.168.10.1"], "cidrs[0]: is no network"),
        (["home", "--asn", "x", "--router", "192.168.10.1"], "localAsn: must be a whole number"),
        (["dev"], "dev is the embedded lab"),
        (["../x"], "'../x' is no name of a stack"),
        ([""], "'' is no name of a stack"),
    ],
)
def test_what_is_wrong_writes_nothing(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--folder", str(tmp_path), "--no-questions"]) == 1
    assert line in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks_until_the_answer_is_right(tmp_path: Path) -> None:
    answers = [
        "cellar",
        "",
        "10.1.0.5",
        "https://192.168.10.5:6443",
        *[""] * 3,
        "192.0.2.1",
        "",
        "me",
        *[""] * 8,
    ]
    answers += [
        "",
        "hypervisor",
        "hypervisor 192.0.2.2",
        "bad 192.0.2.2 x",
        f"hypervisor 192.0.2.2 {KEY}",
        "",
    ]
    answers += ["worker-1 bhyve", "worker-1 bhyve 10.9.9.9", "worker-1 bhyve 192.168.10.21", ""]
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "commands.new", "home", "--folder", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdin=child, stdout=child, stderr=child, close_fds=True
    )
    os.close(child)
    os.write(parent, "".join(f"{line}\n" for line in answers).encode())
    output = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # how a terminal ends
            break
        output += piece
        if not piece:
            break
    assert process.wait(10) == 0, output.decode()
    os.close(parent)
    shown = output.decode()
    assert "is no API server ('10.1.0.5')" in shown
    assert "a host is written as NAME ADDRESS [HOSTKEY], not as 'hypervisor'" in shown
    assert "192.0.2.2 shows no Ed25519 host key" in shown
    assert "autojoin:provisioning.bad.hostKey: " in shown
    assert "a worker is written as NAME HARDWARE ADDRESS" in shown
    assert "workers.worker-1.address: is in none of autojoin:cluster.nodeCidrs" in shown
    lab = from_stack_file(tmp_path / "Pulumi.home.yaml")
    assert (lab.cluster.name, list(lab.workers), lab.bgp) == ("cellar", ["worker-1"], None)
    for host in (lab.certificate_authority.host, lab.provisioning["hypervisor"]):
        assert host.user == "me"
