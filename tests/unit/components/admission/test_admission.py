"""Barred nodes on a real kube-apiserver: what the program applies, and what a node can then do."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.admission import policy as admission
from components.dns import resources as dns
from tests.unit.tools.plugins.kubernetes_server import ApiServer
from tools.pins import CHECKOUT

NODE_LEASES = "kube-node-lease"
LATER = "2999-01-01T00:00:00Z"


class Cluster(ApiServer):
    """An API server, the program's command, and nodes with certificates of the cluster's CA."""

    def bar(
        self,
        workers: dict[str, int | str],
        before: str = "",
        *,
        revoked: list[dict[str, str]] | None = None,
        action: str = "apply",
        drain: int = 5,
        rolling: dict[str, tuple[str, str]] | None = None,
        environment: dict[str, str] | None = None,
        version: str = "1.34.2",
    ) -> subprocess.CompletedProcess[str]:
        # A number is a worker's generation.
        identities = {
            name: f"{name}-g{it}-0" if isinstance(it, int) else it for name, it in workers.items()
        }
        return subprocess.run(
            admission.command(action),
            input=admission.command_input(
                identities, json.dumps({"revoked": revoked or []}), drain, version, rolling
            ),
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "KUBECONFIG": str(self.kubeconfig),
                "PULUMI_COMMAND_STDOUT": before,
                **(environment or {}),
            },
            capture_output=True,
            text=True,
        )

    def leave(
        self, name: str, machine_id: str, *revoked: dict[str, str], drain: int = 5
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            admission.command("leave"),
            input=admission.leave_input(name, machine_id, json.dumps({"revoked": revoked}), drain),
            cwd=CHECKOUT,
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
        )

    def node(self, name: str, file: str = "") -> str:
        """A certificate of node `name`; the name of its file."""
        self.authority.issue(file or name, f"system:node:{name}", "system:nodes")
        return file or name

    def as_node(
        self, file: str, *words: str, stdin: object = None
    ) -> subprocess.CompletedProcess[str]:
        """kubectl with a node's certificate and nothing else."""
        flags = [f"--client-certificate={file}.pem", f"--client-key={file}-key.pem"]
        flags += [
            f"--server={self.url}",
            "--certificate-authority=ca.pem",
            "--kubeconfig=/dev/null",
        ]
        return subprocess.run(
            ["kubectl", *flags, *words],
            input=None if stdin is None else json.dumps(stdin),
            cwd=self.folder,
            capture_output=True,
            text=True,
        )

    def create(self, file: str, value: dict[str, Any]) -> str:
        """Empty where the node may create `value`, else what the API server says."""
        words = ("create", "--filename", "-", "--validate=false")
        return self.as_node(file, *words, stdin=value).stderr

    def fingerprint(self, file: str) -> dict[str, str]:
        der = ssl.PEM_cert_to_DER_cert((self.folder / f"{file}.pem").read_text())
        return {"node": file, "sha256": hashlib.sha256(der).hexdigest(), "notAfter": LATER}

    def listed(self) -> dict[str, str]:
        found = self.get("configmap", admission.NAME, f"--namespace={admission.NAMESPACE}")
        assert found
        return dict(found.get("data") or {})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        await_ready(cluster)
        # kube-apiserver makes it too, some time after its start.
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NODE_LEASES}}
        cluster.kubectl("apply", "--server-side", "--filename=-", stdin=namespace)
        yield cluster
    finally:
        cluster.stop()


def await_ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + 30
    while cluster.as_node("admin", "get", "--raw", "/readyz").stdout != "ok":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def good(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def node_object(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def lease(name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NODE_LEASES}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}


def signing_request(name: str) -> dict[str, Any]:
    """What a kubelet sends to have its certificate rotated."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{name}"),
        ]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": base64.b64encode(pem).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    }


def test_a_removed_worker_can_write_nothing_and_its_node_is_gone(cluster: Cluster) -> None:
    stays, goes, foreign = (cluster.node(name) for name in ("stays", "goes", "foreign"))
    before = good(cluster.bar({"stays": 1, "goes": 1}))
    for name in (stays, goes, foreign):
        assert cluster.create(name, node_object(name)) == ""
    after = good(cluster.bar({"stays": 1}, before))
    told = {"workers": {"stays": "stays-g1-0"}, "places": {}, "barred": ["goes"]}
    assert json.loads(after) == told
    assert cluster.get("node", "goes") is None
    message = "goes is barred: it was removed from its autojoin stack"
    for value in (node_object(goes), lease(goes), signing_request(goes)):
        assert message in cluster.create(goes, value), value["kind"]
    for name in (stays, foreign):
        assert cluster.create(name, lease(name)) == ""
        assert cluster.get("node", name)
        good(cluster.as_node(name, "annotate", "node", name, "probe=yes"))


def test_a_removed_worker_is_drained_first(cluster: Cluster) -> None:
    cluster.ready_node("emptied")
    cluster.run_pod("web", "emptied")
    before = good(cluster.bar({"emptied": 1}))
    good(cluster.bar({}, before))
    assert cluster.get("pod", "web") is None
    assert cluster.get("node", "emptied") is None


def test_what_a_budget_keeps_on_a_removed_worker_keeps_the_worker(cluster: Cluster) -> None:
    cluster.ready_node("full")
    cluster.run_pod("database", "full")
    cluster.keep("database")
    before = good(cluster.bar({"full": 1}))
    result = cluster.bar({}, before)
    assert result.returncode == 1
    assert "full can't be drained in 5 s and keeps running as it is" in result.stderr
    assert "disruption budget" in result.stderr and "drainTimeout" in result.stderr
    assert "node.full" not in cluster.listed()
    node = cluster.get("node", "full")
    assert node and "unschedulable" not in node["spec"]
    # Who says so has it removed as it is; and with the whole stack it goes in any case.
    good(cluster.bar({}, before, drain=0))
    assert cluster.get("node", "full") is None
    cluster.ready_node("full")
    good(cluster.bar({"full": 1}, before, action="remove"))
    assert cluster.get("node", "full") is None


def test_the_cluster_dns_keeps_a_worker_only_while_there_are_others(cluster: Cluster) -> None:
    """Found by random edits: the only worker of a cluster could not be provisioned anew."""
    cluster.kubectl("delete", "nodes", "--all")
    for name in ("last", "other"):
        cluster.ready_node(name)
    cluster.run_pod("coredns", "last", **dns.LABELS)
    cluster.run_pod("files", "last")
    cluster.keep("coredns")
    assert "violate the pod's disruption budget" in cluster.leave("last", "new").stderr
    cluster.kubectl("delete", "node", "other")
    assert good(cluster.leave("last", "new")) == "left"
    # Of all others the rules are as ever.
    assert cluster.get("pod", "files") is None


def test_a_worker_gets_no_certificate_from_the_api_servers_signer(cluster: Cluster) -> None:
    """Nobody would know of it here; nodes that are not the stack's rotate as ever."""
    worker, foreign = cluster.node("renews"), cluster.node("rotates")
    for name in (worker, foreign):
        assert cluster.create(name, signing_request(name)) == ""
    before = good(cluster.bar({"renews": 1}))
    deadline = time.monotonic() + 15
    while "renews its certificate at the join gate" not in cluster.create(
        worker, signing_request(worker)
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert cluster.create(worker, node_object(worker)) == ""
    assert cluster.create(foreign, signing_request(foreign)) == ""
    assert "worker.renews" in cluster.listed()
    good(cluster.bar({}, before))
    assert "renews is barred" in cluster.create(worker, signing_request(worker))
    assert "worker.renews" not in cluster.listed()


def test_a_node_that_the_cluster_loses_while_it_is_drained_is_waited_for_no_more(
    cluster: Cluster,
) -> None:
    cluster.ready_node("dies")
    cluster.run_pod("stuck", "dies")
    cluster.keep("stuck")
    before = good(cluster.bar({"dies": 1}))
    lost = threading.Timer(3, cluster.ready_node, ["dies", "Unknown"])
    lost.start()
    result = cluster.bar({}, before, drain=60)
    lost.join()
    assert result.returncode == 0, result.stderr
    assert "dies: is lost, its pods are not waited for" in result.stderr
    assert cluster.get("node", "dies") is None


def test_kubelets_newer_than_the_api_server_are_refused(cluster: Cluster) -> None:
    before = good(cluster.bar({"kept": 1}))
    result = cluster.bar({}, before, version="1.97.0")
    assert result.returncode == 1
    assert "autojoin:cluster.kubernetesVersion: is newer than the API server: 1.97.0 and 1." in (
        result.stderr
    )
    assert result.stderr.strip().endswith("upgrade the control plane first")
    assert "node.kept" not in cluster.listed()


def test_registered_again_it_joins_but_not_with_its_old_certificate(cluster: Cluster) -> None:
    old = cluster.node("returns", "returns-old")
    before = good(cluster.bar({"returns": 1}))
    assert cluster.create(old, node_object("returns")) == ""
    without = good(cluster.bar({}, before))
    assert "barred" in cluster.create(old, lease("returns"))
    good(cluster.bar({"returns": 1}, without, revoked=[cluster.fingerprint(old)]))
    new = cluster.node("returns", "returns-new")
    until_admitted(cluster, new, node_object("returns"))
    assert "this certificate of returns is barred" in cluster.create(old, lease("returns"))
    assert cluster.create(new, lease("returns")) == ""


def until_admitted(cluster: Cluster, file: str, value: dict[str, Any]) -> None:
    """The API server sees a changed list within a second or so."""
    deadline = time.monotonic() + 15
    while said := cluster.create(file, value):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_a_raised_generation_deletes_the_node_and_bars_the_old_certificate(
    cluster: Cluster,
) -> None:
    old = cluster.node("again", "again-old")
    before = good(cluster.bar({"again": 1}))
    assert cluster.create(old, node_object("again")) == ""
    revoked = [cluster.fingerprint(old)]
    good(cluster.bar({"again": 2}, before, revoked=revoked))
    assert cluster.get("node", "again") is None
    assert f"certificate.{revoked[0]['sha256']}" in cluster.listed()
    assert "node.again" not in cluster.listed()


def test_another_identity_deletes_the_node_whatever_made_it_another(cluster: Cluster) -> None:
    cluster.node("labelled")
    before = good(cluster.bar({"labelled": "labelled-g1-aa"}))
    assert cluster.create("labelled", node_object("labelled")) == ""
    good(cluster.bar({"labelled": "labelled-g1-aa"}, before))
    assert cluster.get("node", "labelled")
    good(cluster.bar({"labelled": "labelled-g1-bb"}, before))
    assert cluster.get("node", "labelled") is None


def test_a_machine_that_is_replaced_where_it_is_works_until_its_turn(cluster: Cluster) -> None:
    old = cluster.node("turns", "turns-old")
    before = good(cluster.bar({"turns": 1}, rolling={"turns": ("first", "here")}))
    cluster.ready_node("turns")
    revoked = [{**cluster.fingerprint(old), "node": "turns"}]
    key = f"certificate.{revoked[0]['sha256']}"
    rolling = {"turns": ("second", "here")}
    said = good(cluster.bar({"turns": 2}, before, revoked=revoked, rolling=rolling))
    # Nor does a later run reach it, where this one was cut off.
    good(cluster.bar({"turns": 2, "more": 1}, said, revoked=revoked, rolling=rolling))
    assert cluster.get("node", "turns") and key not in cluster.listed()
    assert good(cluster.leave("turns", "second", *revoked)) == "left"
    assert cluster.get("node", "turns") is None and key in cluster.listed()
    # One node's turn forgot that workers renew at the join gate, and at no other signer.
    assert {"worker.turns", "worker.more"} <= cluster.listed().keys()


def test_a_turn_leaves_a_machine_alone_that_is_the_new_one_already(cluster: Cluster) -> None:
    cluster.ready_node("newer")
    cluster.say("node", "newer", {"nodeInfo": {"machineID": "second"}})
    assert good(cluster.leave("newer", "second")) == "did not work"
    assert cluster.get("node", "newer")
    assert good(cluster.leave("newer", "third")) == "left"
    assert good(cluster.leave("newer", "third")) == "did not work"


def test_a_machine_that_goes_elsewhere_is_drained_and_leaves_at_once(cluster: Cluster) -> None:
    cluster.ready_node("moves")
    cluster.run_pod("mover", "moves")
    before = good(cluster.bar({"moves": 1}, rolling={"moves": ("first", "here")}))
    good(cluster.bar({"moves": 2}, before, rolling={"moves": ("second", "there")}))
    assert cluster.get("node", "moves") is None and cluster.get("pod", "mover") is None


def test_a_state_that_knows_generations_deletes_no_node(cluster: Cluster) -> None:
    cluster.node("older")
    assert cluster.create("older", node_object("older")) == ""
    before = json.dumps({"workers": {"older": 1}, "barred": []})
    good(cluster.bar({"older": 1}, before))
    assert cluster.get("node", "older")
    good(cluster.bar({"older": 2}, before))
    assert cluster.get("node", "older") is None


def test_an_interrupted_run_is_made_good_by_the_next(cluster: Cluster) -> None:
    """The engine died after the command: the next run gets the old list, and bars once more."""
    cluster.node("lost")
    before = good(cluster.bar({"lost": 1, "other": 1}))
    for _ in range(2):
        assert set(json.loads(good(cluster.bar({"other": 1}, before)))["workers"]) == {"other"}
        assert cluster.listed()["node.lost"].startswith("removed ")
    assert "lost is barred" in cluster.create("lost", lease("lost"))


def test_bars_outlive_later_runs_and_the_stack(cluster: Cluster) -> None:
    gone = good(cluster.bar({}, good(cluster.bar({"early": 1}))))
    assert "node.early" in cluster.listed()
    destroyed = cluster.bar({"late": 1}, good(cluster.bar({"late": 1}, gone)), action="remove")
    assert good(destroyed) == "" and "late: barred" in destroyed.stderr
    assert {"node.early", "node.late"} <= set(cluster.listed())


def test_expired_certificates_leave_the_list(cluster: Cluster) -> None:
    entry = {"node": "x", "sha256": "ab" * 32, "notAfter": "2020-01-01T00:00:00Z"}
    good(cluster.bar({}, revoked=[entry]))
    assert f"certificate.{entry['sha256']}" in cluster.listed()
    good(cluster.bar({}))
    assert f"certificate.{entry['sha256']}" not in cluster.listed()


def test_a_lost_list_locks_nobody_out_and_is_made_anew(cluster: Cluster) -> None:
    """With parameterNotFoundAction Deny, not even an administrator could write any more."""
    name = cluster.node("careful")
    before = good(cluster.bar({"careful": 1}, good(cluster.bar({"careful": 1, "former": 1}))))
    cluster.kubectl("delete", "configmap", admission.NAME, f"--namespace={admission.NAMESPACE}")
    until_admitted(cluster, name, node_object(name))
    good(cluster.bar({"careful": 1}, before))
    assert "node.former" in cluster.listed()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KUBECONFIG": "/nowhere"}, "barring removed workers: kubectl "),
        ({"PATH": "/nowhere"}, "kubectl is not on PATH"),
    ],
)
def test_what_fails_is_one_line(
    cluster: Cluster, environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    if "PATH" in environment:
        python = shutil.which("python3", path=os.environ["PATH"]) or sys.executable
        (tmp_path / "python3").symlink_to(python)
        environment = {"PATH": str(tmp_path)}
    result = cluster.bar({"x": 1}, environment=environment)
    assert result.returncode == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
