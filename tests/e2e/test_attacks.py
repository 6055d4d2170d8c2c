"""Attackers in the lab: at the gate, with a node's disk, and with a removed node's key."""

from __future__ import annotations

import base64
import copy
import datetime
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.admission import policy as admission
from components.join_gate import installation as join_gate
from stack.models import JoinGate
from tests.e2e.conftest import Lab, table
from tests.unit.components.join_gate import attacks, connection_attacks, renewal_attacks
from tests.unit.components.join_gate.attacks import ATTACKS, Cast
from tests.unit.components.join_gate.gate_host import ADDRESS, Gate, Shown, TestNode, pem

pytestmark = pytest.mark.full

GATE = "/usr/local/lib/autojoin/gate"
DISK = "/var/lib/autojoin/machines/dev/{}/disk/root"


class AuthorityHost(Gate):
    """The lab's gate over its network, and a root shell on the CA host to look behind it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        outputs = json.loads(lab.run("pulumi", "stack", "output", "--json"))
        authority = folder / "ca.pem"
        authority.write_text(outputs["certificateAuthority"]["certificatePem"])
        host = lab.config["autojoin:certificateAuthority"]["host"]
        super().__init__(host["address"], JoinGate().port, authority)
        known = folder / "known_hosts"
        known.write_text(f"{host['address']} {(lab.checkout / host['hostKey']).read_text()}")
        options = ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}"]
        words = ["ssh", *options, "-i", host["privateKeyFile"], f"root@{host['address']}", "sh"]
        self._shell = subprocess.Popen(
            words, cwd=lab.checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._certdb = self.run("find /var/lib -name certdb.sqlite")

    def run(self, command: str, stdin: str = "") -> str:
        """Run `command` on the CA host; one shell for all, since hundreds are run."""
        assert self._shell.stdin and self._shell.stdout
        data = base64.b64encode(stdin.encode()).decode()
        self._shell.stdin.write(f"echo {data} | base64 -d | {{ {command}; }} 2>&1; echo end=$?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        while not (line := self._shell.stdout.readline()).startswith("end="):
            assert line, f"the shell on the CA host ended: {lines}"
            lines.append(line)
        output = "".join(lines).strip()
        assert line == "end=0\n", f"{command}: {output}"
        return output

    def count(self) -> int:
        return int(self.run(f"sqlite3 {self._certdb} 'select count(*) from certificates'"))

    def register(self, node: TestNode, identity: str = "") -> TestNode:
        keys = (identity or node.identity, node.join_key.hex(), node.status_token.hex())
        data = join_gate.register_input(node.name, [ADDRESS], node.generation, *keys)
        self.run(f"{GATE} register {node.name}", data)
        return node

    def remove(self, *nodes: TestNode) -> None:
        for node in nodes:
            self.run(f"{GATE} remove {node.name} {node.identity}")

    def expire(self, name: str) -> None:
        update = f"update nodes set expires_at = 1 where name = '{name}'"
        self.run(f'sqlite3 /var/lib/join-gate/gate.sqlite "{update}"')

    def close(self) -> None:
        assert self._shell.stdin
        self._shell.stdin.close()
        self._shell.wait(10)


@pytest.fixture(scope="module")
def gate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityHost]:
    gate = AuthorityHost(lab, tmp_path_factory.mktemp("gate"))
    yield gate
    gate.close()


@pytest.fixture(scope="module")
def cast(gate: AuthorityHost) -> Iterator[Cast]:
    parts = ("node", "other", "joined", "expired", "removed", "superseded")
    nodes = {part: gate.register(TestNode(f"attack-{part}")) for part in parts}
    assert gate.sign(nodes["joined"].sealed(nodes["joined"].request()))[0] == 200
    gate.expire(nodes["expired"].name)
    gate.remove(nodes["removed"])
    successor = gate.register(TestNode(nodes["superseded"].name, generation=2))
    unknown = TestNode("attack-nobody", join_key=nodes["node"].join_key)
    yield Cast(gate, unknown=unknown, **nodes)
    gate.remove(*nodes.values(), successor)


# --- at the gate ------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused_over_the_network(gate: AuthorityHost, cast: Cast, attack: str) -> None:
    attacks.check(cast, ATTACKS[attack], gate.count)


@pytest.fixture(scope="module")
def renewing(gate: AuthorityHost) -> Iterator[renewal_attacks.Cast]:
    folder = "/etc/autojoin/cfssl"
    authority = renewal_attacks.Authority(
        x509.load_pem_x509_certificate(gate.run(f"cat {folder}/ca.pem").encode()),
        serialization.load_pem_private_key(gate.run(f"cat {folder}/ca-key.pem").encode(), None),
    )

    def admit() -> TestNode:
        return gate.register(TestNode(f"attack-{os.urandom(4).hex()}"))

    cast = renewal_attacks.cast_of(gate, authority, admit)
    gate.remove(cast.removed[0])
    raised = gate.register(TestNode(cast.raised[0].name, generation=2))
    moved = gate.register(TestNode(cast.moved[0].name), "edited")
    yield cast
    gate.remove(cast.node[0], cast.other[0], cast.renewed[0], raised)
    gate.run(f"{GATE} remove {moved.name} edited")


@pytest.mark.parametrize("attack", renewal_attacks.ATTACKS)
def test_a_renewal_is_refused_over_the_network(
    gate: AuthorityHost, renewing: renewal_attacks.Cast, attack: str
) -> None:
    renewal_attacks.check(renewing, renewal_attacks.ATTACKS[attack], gate.count)


def test_the_node_renews_after_all_of_them(
    gate: AuthorityHost, renewing: renewal_attacks.Cast
) -> None:
    before = gate.count()
    gate.renew(*renewing.node)
    assert gate.count() == before + 1


def test_no_attack_burnt_the_node(gate: AuthorityHost, cast: Cast) -> None:
    status, answer = gate.sign(cast.node.sealed(cast.node.request()))
    assert status == 200, answer
    assert "attack-joined" in gate.run("journalctl -u join-gate -o cat | grep alarm")


@pytest.mark.parametrize("attack", connection_attacks.ATTACKS)
def test_nothing_comes_of_an_attack_on_the_connection_over_the_network(
    gate: AuthorityHost, attack: str
) -> None:
    admitted: list[TestNode] = []

    def admit() -> TestNode:
        admitted.append(gate.register(TestNode(f"attack-{os.urandom(4).hex()}")))
        return admitted[-1]

    stage = connection_attacks.Stage(gate, admit)
    connection_attacks.check(stage, connection_attacks.ATTACKS[attack], gate.count)
    gate.remove(*admitted)


@pytest.mark.parametrize("port", [8888, 80, 443])
def test_cfssl_answers_nobody_on_the_network(gate: AuthorityHost, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gate.address, port), timeout=5)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_is_not_talked_down_over_the_network(gate: AuthorityHost, version: str) -> None:
    context = gate.context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion[version]
    with gate.connect() as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname=gate.address)


# --- with everything on a joined node's disk --------------------------------------------------


class Thief:
    """Holds what lies on the disk of a node, and nothing else."""

    def __init__(self, lab: Lab, node: str, folder: Path) -> None:
        self.lab, self.node, self.folder = lab, node, folder
        disk = DISK.format(node)
        pair = f"cat {disk}/var/lib/kubelet/pki/kubelet-client-current.pem"
        (folder / "pair.pem").write_text(lab.on_hypervisor(pair))
        (folder / "ca.pem").write_text(lab.on_hypervisor(f"cat {disk}/etc/autojoin/ca.pem"))
        found = lab.on_hypervisor(f"cat {disk}/var/lib/cloud/instances/*/user-data.txt")
        lab.output.pop(-2)  # it holds the (used) join key, and secrets are searched for later
        files = {file["path"]: file for file in yaml.safe_load(found)["write_files"]}
        self.join_key = bytes.fromhex(files["/etc/autojoin/join-key"]["content"].strip())

    def renewed(self, folder: Path, gate: AuthorityHost, address: str) -> Thief:
        """With another certificate, from the join gate, as the node's own timer gets it."""
        node = TestNode(self.node)
        shown = Shown(*self.pair())
        request = node.request(hosts=[self.node, address])
        status, answer = gate.post(renewal_attacks.RENEWAL, request, shown)
        assert status == 200, answer
        other = copy.copy(self)
        other.folder = folder
        shutil.copy(self.folder / "ca.pem", folder / "ca.pem")
        (folder / "pair.pem").write_text(f"{answer['result']['certificate']}\n{pem(node.key)}")
        return other

    @property
    def life(self) -> datetime.timedelta:
        """How long the certificate lives in all."""
        certificate = x509.load_pem_x509_certificate(self.pair()[0].encode())
        return certificate.not_valid_after_utc - certificate.not_valid_before_utc

    def pair(self) -> tuple[str, Any]:
        """Its certificate, and its key."""
        data = (self.folder / "pair.pem").read_text()
        certificate, mark, key = data.partition("-----BEGIN PRIVATE KEY")
        return certificate, serialization.load_pem_private_key((mark + key).encode(), None)

    def kubectl(self, *words: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
        pair = self.folder / "pair.pem"
        server = self.lab.config["autojoin:cluster"]["apiServer"]
        flags = [f"--server={server}", f"--certificate-authority={self.folder / 'ca.pem'}"]
        flags += [f"--client-certificate={pair}", f"--client-key={pair}", "--kubeconfig=/dev/null"]
        return subprocess.run(
            ["kubectl", *flags, *words],
            input=None if stdin is None else json.dumps(stdin),
            env=self.lab.environment,
            capture_output=True,
            text=True,
        )

    def refused(self, *words: str, stdin: object = None, reason: str = "forbidden") -> None:
        answer = self.kubectl(*words, stdin=stdin)
        assert answer.returncode == 1, answer.stdout
        assert reason in answer.stderr.lower(), answer.stderr


@pytest.fixture(scope="module")
def thief(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Thief:
    return Thief(lab, "worker-1", tmp_path_factory.mktemp("thief"))


def metadata(name: str, namespace: str | None = None) -> dict[str, str]:
    return {"name": name, **({"namespace": namespace} if namespace else {})}


def signing_request(
    name: str, common_name: str, organization: str, signer: str, key: Any = None
) -> dict[str, Any]:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": metadata(name),
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": f"kubernetes.io/{signer}",
            "usages": ["digital signature", "client auth"],
        },
    }


REFUSED_READS = {
    "secrets of all namespaces": ("get", "secrets", "--all-namespaces"),
    "secrets of kube-system": ("get", "secrets", "--namespace=kube-system"),
    "a secret by name": ("get", "secret", "any", "--namespace=kube-system"),
    "config maps": ("get", "configmaps", "--namespace=kube-system"),
    "all pods": ("get", "pods", "--all-namespaces"),
    "another node": ("get", "node", "worker-2"),
    "all nodes": ("get", "nodes"),
    "roles": ("get", "clusterrolebindings"),
    "service accounts": ("get", "serviceaccounts", "--all-namespaces"),
    "another node's lease": ("get", "lease", "worker-2", "--namespace=kube-node-lease"),
    "as an administrator": ("get", "nodes", "--as=admin", "--as-group=system:masters"),
    "as another node": ("get", "node", "worker-2", "--as=system:node:worker-2"),
}


@pytest.mark.parametrize("what", REFUSED_READS)
def test_with_a_nodes_disk_nothing_of_others_is_read(thief: Thief, what: str) -> None:
    thief.refused(*REFUSED_READS[what])


def with_body(
    kind: str, api_version: str, name: str, namespace: str | None = None, **rest: Any
) -> Any:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata(name, namespace),
        **rest,
    }


POD = {"containers": [{"name": "x", "image": "x"}]}
MIRROR = {"kubernetes.io/config.mirror": "x"}
REFUSED_WRITES: dict[str, Any] = {
    "a Node of its own making": with_body("Node", "v1", "worker-666"),
    "a secret": with_body("Secret", "v1", "x", "kube-system"),
    "a pod": with_body("Pod", "v1", "x", "kube-system", spec=POD),
    "a pod on another node": {
        **with_body("Pod", "v1", "x", "kube-system", spec={**POD, "nodeName": "worker-2"}),
        "metadata": {**metadata("x", "kube-system"), "annotations": MIRROR},
    },
    "a role": with_body(
        "ClusterRoleBinding",
        "rbac.authorization.k8s.io/v1",
        "x",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                 "name": "cluster-admin"},
        subjects=[{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                   "name": "system:node:worker-1"}],
    ),
    "another node's lease": with_body(
        "Lease", "coordination.k8s.io/v1", "worker-2", "kube-node-lease"
    ),
    "a certificate of an administrator": signing_request(
        "admin", "admin", "system:masters", "kube-apiserver-client"
    ),
    "a certificate of another node": signing_request(
        "steal", "system:node:worker-2", "system:nodes", "kube-apiserver-client-kubelet"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_WRITES)
def test_with_a_nodes_disk_nothing_of_others_is_made(thief: Thief, what: str) -> None:
    words = ("create", "--filename", "-", "--validate=false")
    thief.refused(*words, stdin=REFUSED_WRITES[what])


REFUSED_CHANGES = {
    "another node's labels": ("node", "worker-2", '{"metadata":{"labels":{"a":"b"}}}'),
    "its own restricted labels": (
        "node",
        "worker-1",
        '{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}',
    ),
    "its own role": (
        "node",
        "worker-1",
        '{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}',
    ),
    "its own taints": (
        "node",
        "worker-1",
        '{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}',
    ),
    "the list of the barred": (
        "configmap",
        f"{admission.NAME} --namespace={admission.NAMESPACE}",
        '{"data":null}',
    ),
    "the admission policy": (
        "validatingadmissionpolicy",
        admission.NAME,
        '{"spec":{"failurePolicy":"Ignore"}}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_CHANGES)
def test_with_a_nodes_disk_nothing_of_others_is_changed(thief: Thief, what: str) -> None:
    kind, name, patch = REFUSED_CHANGES[what]
    thief.refused("patch", kind, *shlex.split(name), "--type=merge", "--patch", patch)


def test_with_a_nodes_disk_the_gate_gives_nothing_but_the_same_answer(
    gate: AuthorityHost, thief: Thief, lab: Lab
) -> None:
    before = gate.count()
    other = TestNode("worker-2", join_key=thief.join_key)
    assert gate.sign(other.sealed(other.request()))[0] == 401
    again = TestNode(thief.node, join_key=thief.join_key)
    address = lab.config["autojoin:workers"][thief.node]["address"]
    status, answer = gate.sign(again.sealed(again.request(hosts=[thief.node, address])))
    assert (status, answer["result"]) == (409, None)
    for changes in ({"profile": "intermediate"}, {"subject": {"CN": "admin"}}):
        assert gate.sign(again.sealed(again.request(**changes)))[0] == 403
    assert gate.count() == before


def test_with_a_nodes_disk_one_is_that_node(thief: Thief) -> None:
    """The attempts above fail for what they ask, not for a certificate that is no good."""
    assert thief.kubectl("get", "node", thief.node).returncode == 0
    assert thief.kubectl("annotate", "node", thief.node, "probe=yes").returncode == 0
    assert thief.kubectl("annotate", "node", thief.node, "probe-").returncode == 0


def test_a_gate_that_is_replaced_knows_its_nodes_and_their_used_keys(
    gate: AuthorityHost, thief: Thief, lab: Lab
) -> None:
    def registered() -> dict[str, Any]:
        nodes = json.loads(gate.run(f"{GATE} status"))["nodes"]
        return {node["node"]: (node["identity"], node["joinedAt"]) for node in nodes}

    before = registered()
    assert thief.node in before
    state = json.loads(lab.run("pulumi", "stack", "export"))["deployment"]["resources"]
    (urn,) = [it["urn"] for it in state if it["urn"].endswith("::gate-service")]
    started = gate.run("systemctl show --property=ActiveEnterTimestampMonotonic join-gate")
    words = ("--yes", "--skip-preview", "--non-interactive", "--target-replace", urn)
    assert re.search(r"1 replaced", lab.run("pulumi", "up", *words))
    assert gate.run("systemctl show --property=ActiveEnterTimestampMonotonic join-gate") != started
    assert registered() == before
    again = TestNode(thief.node, join_key=thief.join_key)
    address = lab.config["autojoin:workers"][thief.node]["address"]
    status, answer = gate.sign(again.sealed(again.request(hosts=[thief.node, address])))
    assert (status, answer["result"]) == (409, None)
    lab.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")


# --- with a removed node's key ----------------------------------------------------------------


def add(lab: Lab, generation: int) -> None:
    def change(config: dict[str, Any]) -> None:
        worker = dict(config["autojoin:workers"]["worker-1"])
        worker["address"] = re.sub(r"\d+$", "99", worker["address"])
        config["autojoin:workers"]["worker-4"] = {**worker, "generation": generation}

    lab.edit(change)


def remove(lab: Lab) -> None:
    lab.edit(lambda config: config["autojoin:workers"].pop("worker-4"))


def lease(name: str) -> Any:
    return with_body("Lease", "coordination.k8s.io/v1", name, "kube-node-lease")


REVOKED = "this certificate of worker-4 is barred: autojoin revoked it"


def barred_writes(thief: Thief, message: str) -> None:
    own = signing_request(
        "x", f"system:node:{thief.node}", "system:nodes", "kube-apiserver-client-kubelet"
    )
    for value in (with_body("Node", "v1", thief.node), lease(thief.node), own):
        words = ("create", "--filename", "-", "--validate=false")
        thief.refused(*words, stdin=value, reason=message)


def test_a_removed_node_is_barred_until_it_stands_in_the_stack_again(
    lab: Lab, gate: AuthorityHost, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And what a thief's renewed certificate can do, as docs/trust.md tells it."""
    before = lab.file.read_text()
    add(lab, 1)
    assert table(lab.make("up"))["worker-4"]["READY"] == "True"
    old = Thief(lab, "worker-4", tmp_path_factory.mktemp("removed"))
    address = lab.config["autojoin:workers"]["worker-4"]["address"]
    renewed = old.renewed(tmp_path_factory.mktemp("renewed"), gate, address)
    acts_as_its_node(renewed)
    # What is not barred ends with nodeCertificateHours, a week.
    assert renewed.life == old.life == datetime.timedelta(hours=168)

    # No other signer gives a worker anything.
    own = signing_request(
        "x", "system:node:worker-4", "system:nodes", "kube-apiserver-client-kubelet"
    )
    words = ("create", "--filename", "-", "--validate=false")
    for thief in (old, renewed):
        thief.refused(*words, stdin=own, reason="renews its certificate at the join gate")

    # The owner's next renewal finds the thief out.
    said = lab.in_worker("worker-4", "/usr/local/lib/autojoin/join renew --now || true")
    assert "a copy of it is in use; raise its generation to join it anew" in said
    assert "was to be renewed for a second key" in lab.make("status", expect=1)

    # A raised generation bars all that came of the key.
    add(lab, 2)
    assert table(lab.make("up"))["worker-4"]["READY"] == "True"
    for thief in (old, renewed):
        barred_writes(thief, REVOKED)
        request = TestNode("worker-4").request(hosts=["worker-4", address])
        assert gate.post(renewal_attacks.RENEWAL, request, Shown(*thief.pair()))[0] == 401

    # A removed name is barred with whatever certificate.
    remove(lab)
    output = lab.make("up")
    assert "worker-4: barred, its Node deleted" in output
    names = [node["metadata"]["name"] for node in lab.kubectl("get", "nodes")["items"]]
    assert "worker-4" not in names
    for thief in (old, renewed):
        barred_writes(thief, "worker-4 is barred: it was removed from its autojoin stack")
        what_is_left(thief)

    add(lab, 2)
    output = lab.make("up", expect=1)
    assert "worker-4: generation 2 has joined before" in output
    assert "set its generation to 3 or higher, found 2" in output
    add(lab, 3)
    assert table(lab.make("up"))["worker-4"]["READY"] == "True"
    for thief in (old, renewed):
        barred_writes(thief, REVOKED)

    lab.file.write_text(before)
    lab.make("up")


def acts_as_its_node(thief: Thief) -> None:
    """It reads its Node and writes it, its status and its Lease."""
    words = ("--overwrite", f"probe={os.urandom(4).hex()}")
    lease = ("lease", thief.node, "--namespace=kube-node-lease")
    deadline = time.monotonic() + 30
    while thief.kubectl("get", *lease).returncode and time.monotonic() < deadline:
        time.sleep(0.5)  # the kubelet makes it a moment after its Node
    # A Node read a moment before would bring back a taint that was taken away meanwhile.
    while "modify taints" in (answer := written_back(thief)).stderr and time.monotonic() < deadline:
        time.sleep(0.5)
    assert answer.returncode == 0, answer.stderr
    for command in (("annotate", "node", thief.node, *words), ("annotate", *lease, *words)):
        answer = thief.kubectl(*command)
        assert answer.returncode == 0, answer.stderr


def written_back(thief: Thief) -> subprocess.CompletedProcess[str]:
    """Its Node's status, as it is."""
    found = thief.kubectl("get", "node", thief.node, "--output=json")
    assert found.returncode == 0, found.stderr
    node = json.loads(found.stdout)
    del node["metadata"]["resourceVersion"]  # the kubelet writes, too
    path = f"/api/v1/nodes/{thief.node}/status"
    return thief.kubectl("replace", "--raw", path, "--filename", "-", stdin=node)


def what_is_left(old: Thief) -> None:
    """docs/trust.md tells it: what a removed node's key reads until it expires."""
    assert old.kubectl("get", "services", "--all-namespaces").returncode == 0
    assert old.kubectl("get", "--raw", "/version").returncode == 0
    old.refused("get", "node", old.node, reason="not")
    for what in ("pods", "secrets", "configmaps"):
        old.refused("get", what, "--all-namespaces")
