"""The first `pulumi up` on hosts as people have them: nobody but the lab logs in as root, the CA's
host is behind another one and at another port, and the CFSSL on it is that of Debian 12, of 2016.
Nodes, pods and Services have IPv6 beside IPv4.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from components.shell import ssh
from lab.plain_image import PACKED
from stack.models import Host
from tests.e2e import first_lab, mirrors
from tests.e2e.conftest import Lab, own_lab, table, until
from tests.e2e.test_carries_work import apply, inside, service, start_pods
from tests.e2e.test_first_light import WORKER_ROOT, WORKERS

pytestmark = pytest.mark.full

USER = "me"
SSH_PORT, GATE_PORT, RESPONDER_PORT = 2222, 9443, 9889
PODS, SERVICES = IPv6Network("fd00:20::/104"), IPv6Network("fd00:30::/112")
OUTSIDE = ""  # the router
DEBIANS = Path("/usr/bin/cfssl")
BROUGHT = "/usr/local/lib/autojoin/cfssl"
PLAIN = "worker-3"
WITH_SUDO = f"""
set -eu
useradd --create-home --shell /bin/sh --password '*' {USER}
install -d -o {USER} -m 700 ~{USER}/.ssh
install -o {USER} -m 600 ~root/.ssh/authorized_keys ~{USER}/.ssh
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
echo "127.0.1.1 $(hostname)" >>/etc/hosts # sudo asks for it
"""
BEHIND = """
cat >/etc/ssh/sshd_config.d/behind.conf <<END
Port 22
Port {port}
AllowUsers root {user}@{jump}
END
systemctl restart ssh
"""
ADVERTISED = "fd00:bad:"
ADVERTISE = f"""
import socket, struct
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
network = socket.inet_pton(socket.AF_INET6, "{ADVERTISED}:")
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 60, 60, 0) + network
advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + prefix
raw.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex("br0")))
"""
GIVE_TO_ROUTER = """
import pathlib, sys
from lab import router, stack
router.configure(stack.prepare(), pathlib.Path(sys.argv[1]).read_text())
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(as_people_have_them) as lab:
        yield lab


def as_people_have_them(lab: Lab) -> None:
    """The hosts before anything was done on them, and the stack file that reaches them."""
    lab.edit(of_both_families)
    lab.run("python", "-c", "from lab import lab, stack; lab.up(stack.prepare())")
    jump = lab.config["autojoin:provisioning"]["hypervisor"]["address"]
    lab.on_hypervisor(WITH_SUDO)
    lab.on_authority(WITH_SUDO + BEHIND.format(port=SSH_PORT, user=USER, jump=jump))
    program = base64.b64encode(DEBIANS.read_bytes()).decode()
    lab.on_authority(f"base64 -d >{DEBIANS} && chmod 755 {DEBIANS}", stdin=program)
    lab.edit(reached)
    mirrors.serve(lab)
    lab.edit(lambda config: mirrors.make_plain(config, PLAIN))


def of_both_families(config: dict[str, Any]) -> None:
    cluster, bgp = config["autojoin:cluster"], config["autojoin:bgp"]
    (nodes,) = cluster["nodeCidrs"]
    own = IPv6Network(f"fd00:{nodes.rpartition('.')[0].replace('.', ':')}::/64")
    for key, network in {"podCidrs": PODS, "serviceCidrs": SERVICES, "nodeCidrs": own}.items():
        cluster[key].append(str(network))
    cluster["gateway"] = [cluster["gateway"], str(own[2])]
    bgp["peers"].append({**bgp["peers"][0], "name": "router-ipv6", "address": str(own[2])})
    for worker in config["autojoin:workers"].values():
        number = int(worker["address"].rpartition(".")[2])
        worker["address"] = [worker["address"], str(own[number])]


def reached(config: dict[str, Any]) -> None:
    authority = config["autojoin:certificateAuthority"]
    hypervisor = config["autojoin:provisioning"]["hypervisor"]
    hypervisor["user"] = USER
    authority["host"] |= {"user": USER, "port": SSH_PORT, "jump": dict(hypervisor)}
    authority["responderPort"] = RESPONDER_PORT
    config["autojoin:joinGate"] = {"port": GATE_PORT}


def test_every_worker_joins(lab: Lab) -> None:
    rows = table(lab.first_output)
    assert {name: row["READY"] for name, row in rows.items()} == dict.fromkeys(WORKERS, "True")


def of_each_family(addresses: Iterable[str]) -> dict[int, str]:
    """One IPv4 and one IPv6 address, and nothing else, by version."""
    found: dict[int, str] = {ip_address(each).version: each for each in addresses}
    assert found.keys() == {4, 6}, addresses
    return found


def test_nodes_and_their_certificates_have_both_families(lab: Lab) -> None:
    for node, worker in lab.config["autojoin:workers"].items():
        status = lab.kubectl("get", "node", node)["status"]["addresses"]
        internal = [each["address"] for each in status if each["type"] == "InternalIP"]
        assert internal == worker["address"]
        pair = f"{WORKER_ROOT.format(node)}/var/lib/kubelet/pki/kubelet-client-autojoin.pem"
        text = lab.on_hypervisor(f"openssl x509 -in {pair}")
        names = x509.load_pem_x509_certificate(text.encode()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert sorted(map(str, names.value.get_values_for_type(x509.IPAddress))) == internal


def answer(lab: Lab, pod: str, address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    command = ("curl", "--silent", "--max-time", "5", f"http://{host}:{port}/hostname")
    if pod:
        return inside(lab, pod, *command, check=False)
    return lab.on_hypervisor(f"{shlex.join(command)} || true")


def test_pods_and_services_answer_over_both_families(lab: Lab) -> None:
    """One of the pods is on the plain worker."""
    start_pods(lab)
    apply(lab, service("dual", {"app": "pod-2"}, ipFamilyPolicy="RequireDualStack"))
    pods = {}
    for name in ("pod-1", "pod-2", "pod-3"):
        status = lab.kubectl("get", "pod", name, "-n", "work")["status"]
        pods[name] = of_each_family(each["ip"] for each in status["podIPs"])
    spec = lab.kubectl("get", "service", "dual", "-n", "work")["spec"]
    services = of_each_family(spec["clusterIPs"])
    for version in (4, 6):
        for asking, asked in itertools.permutations(pods, 2):
            ask = functools.partial(answer, lab, asking, pods[asked][version], 8080)
            assert until(ask) == asked, (asking, pods[asked][version])
        # Nobody says when the agent of a node knows a new Service. Outside, BGP brings the way.
        for asking in (*pods, OUTSIDE):
            ask = functools.partial(answer, lab, asking, services[version], 80)
            assert until(ask) == "pod-2", (asking, services[version])
        assert answer(lab, OUTSIDE, pods["pod-2"][version], 8080) == "pod-2"
    lab.run("kubectl", "delete", "namespace", "work", "--timeout=120s")


def test_the_router_has_ways_to_every_nodes_pods_in_both_families(lab: Lab) -> None:
    expected: dict[str, str] = {}
    for name, worker in lab.config["autojoin:workers"].items():
        pods = lab.kubectl("get", "ciliumnode", name)["spec"]["ipam"]["podCIDRs"]
        expected |= dict(zip(sorted(pods), worker["address"], strict=True))

    def known() -> bool:
        texts = [lab.on_hypervisor(f"ip -{each} -json route show proto bgp") for each in (4, 6)]
        routes = [route for text in texts for route in json.loads(text)]
        return expected.items() <= {it["dst"]: it.get("gateway") for it in routes}.items()

    assert until(known), expected


def test_nodes_have_no_address_that_a_router_advertises(lab: Lab) -> None:
    """The CA's host, which is told nothing, makes itself one."""

    def made(text: str) -> bool:
        return any(it["local"].startswith(ADVERTISED) for it in json.loads(text)[0]["addr_info"])

    def advertised() -> bool:
        lab.on_hypervisor(f"python3 -c {shlex.quote(ADVERTISE)}")
        return made(lab.on_authority("ip -6 -json address show dev host0"))

    assert until(advertised)
    for name in WORKERS:
        text = lab.in_worker(name, "ip -6 -json address show dev host0")
        assert not made(text), (name, text)


def test_a_plain_worker_has_its_packages_from_the_mirrors(lab: Lab) -> None:
    bare = lab.on_hypervisor(f"ls {mirrors.IMAGE}/usr/bin").split()
    assert not {*PACKED, "containerd"} & set(bare)
    assert f"{PLAIN}: packages done" in lab.first_output
    assert lab.in_worker(PLAIN, "apt-mark showhold").split() == ["kubectl", "kubelet"]
    mirror = lab.config["autojoin:cluster"]["packages"]["repository"].removesuffix("kubernetes/")
    for package, repository in (("kubelet", "kubernetes"), ("containerd", "debian")):
        policy = lab.in_worker(PLAIN, f"apt-cache policy {package}")
        assert re.search(rf"\*\*\* .*\n +500 {mirror}{repository} ", policy), policy


def test_the_ca_host_lets_that_user_in_from_the_jump_host_alone(lab: Lab) -> None:
    host = lab.config["autojoin:certificateAuthority"]["host"]
    key = {"hostKey": (lab.checkout / host["hostKey"]).read_text().strip(),
           "privateKeyFile": str(lab.checkout / host["privateKeyFile"])}  # fmt: skip
    assert "Permission denied" in ssh.trouble(Host.model_validate({**host, **key, "jump": None}))


def test_debians_cfssl_is_named_with_its_version_and_one_is_brought(lab: Lab) -> None:
    assert f"{DEBIANS} does not do, version 1.2.0: " in lab.first_output
    assert f"was brought: {BROUGHT}" in lab.first_output
    running = lab.on_authority("readlink /proc/$(systemctl show -P MainPID cfssl)/exe")
    assert running.strip() == BROUGHT


def test_gate_and_responder_are_at_the_ports_of_the_configuration(lab: Lab) -> None:
    local = [line.split()[3] for line in lab.on_authority("ss -Hltn").splitlines()]
    outside = {port.rpartition(":")[2] for port in local if not port.startswith("127.")}
    assert outside == {"22", *map(str, (SSH_PORT, GATE_PORT, RESPONDER_PORT))}
    address = lab.config["autojoin:certificateAuthority"]["host"]["address"]
    url = f"http://{address}:{RESPONDER_PORT}"
    lab.run("curl", "--fail", "--silent", "--output", "/dev/null", f"{url}/ca.crl")
    pair = f"{WORKER_ROOT.format(WORKERS[0])}/var/lib/kubelet/pki/kubelet-client-autojoin.pem"
    assert url in lab.on_hypervisor(f"openssl x509 -noout -ocsp_uri -in {pair}")


def test_a_node_renews_there(lab: Lab) -> None:
    """The gate asks the responder before it signs."""
    said = lab.in_worker(WORKERS[0], "/usr/local/lib/autojoin/join renew --now")
    assert f"{WORKERS[0]} renewal done: until " in said


def test_the_other_commands_go_the_same_way(lab: Lab, tmp_path: Path) -> None:
    assert "unchanged" in lab.make("up")
    lab.well()
    lab.make("drift")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase that is long enough\n")
    lab.make("ca-backup", f"OUT={tmp_path}/backup", f"PASSPHRASE_FILE={passphrase}")


def test_destroy_takes_away_what_was_brought_and_no_more(lab: Lab) -> None:
    lab.run("pulumi", "destroy", "--yes", "--skip-preview", "--non-interactive")
    assert lab.on_authority(f"ls {BROUGHT} {DEBIANS} 2>/dev/null || true").split() == [str(DEBIANS)]


def test_the_first_lab_is_made_as_its_document_tells(lab: Lab, tmp_path: Path) -> None:
    """Each command of docs/first-lab.md, by one who has this lab's hosts and nothing else of it."""
    said: dict[str, str] = {}
    with first_lab.somebody(lab, tmp_path) as person:
        for command in first_lab.commands():
            new = command.startswith("make new")
            said[command] = person.type(command, first_lab.answers(lab) if new else None)
            lab.output.append(said[command])
            if new:
                finds_what_cluster_and_hosts_tell(lab, said[command])
            elif command.startswith("make render"):
                rendered = f"rendered/cilium/router/{first_lab.ROUTER}/frr.conf"
                lab.run("python", "-c", GIVE_TO_ROUTER, rendered)
    assert "Nothing changes" in said["make preview STACK=home"]
    (answer,) = (text for command, text in said.items() if command.startswith("curl "))
    # Before it, what curl says of an address that is not announced yet.
    assert answer.splitlines()[-1].startswith("hello-")


def finds_what_cluster_and_hosts_tell(lab: Lab, said: str) -> None:
    """The answers of first_lab.py that are empty are right."""
    written = yaml.safe_load((lab.checkout / "Pulumi.home.yaml").read_text())["config"]
    cluster, authority = (
        lab.config[f"autojoin:{it}"] for it in ("cluster", "certificateAuthority")
    )
    for key in ("apiServer", "kubernetesVersion", "serviceCidrs"):
        assert written["autojoin:cluster"][key] == cluster[key]
    assert written["autojoin:cluster"]["nodeCidrs"] == cluster["nodeCidrs"][:1]
    for key in ("platform", "source", "certificate", "key"):
        assert written["autojoin:certificateAuthority"][key] == authority[key]
    for host, known in (
        (written["autojoin:certificateAuthority"]["host"], authority["host"]),
        (written["autojoin:provisioning"]["hypervisor"], authority["host"]["jump"]),
    ):
        shown = (lab.checkout / known["hostKey"]).read_text().split()[:2]
        assert host["hostKey"].split() == shown
        assert f"{host['address']} shows the host key SHA256:" in said
