"""What runs, compared with the configuration. The real thing is compared in the lab by hand."""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import drift
from components import documents
from components.bgp import resources as bgp
from components.load import from_values
from tests.unit.stack.test_load import VALUES

NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
LAB = from_values({**VALUES, "workers": {"machine": VALUES["workers"]["machine"]}})
FAR = "Nov 24 00:00:00 2027 GMT"


def host_answer(**changes: str) -> str:
    """What a CA host answers that is as configured, but for `changes`."""
    files = documents.authority_files(LAB)
    lines = [
        f"file\t/somewhere/{name}\t{hashlib.sha256(file.content).hexdigest()}"
        for name, file in files.items()
        if name != "config.json"
    ]
    lines += [signing({})]
    values = {"end": FAR, "service": "running", "generation": "1", "joined": "true"}
    values |= {"trusts": "true", **changes}
    lines += [f"certificate\t/etc/autojoin/join-gate/tls.pem\t{values['end']}"]
    lines += [f"service\t{name}\t{values['service']}" for name in ("cfssl", "join-gate")]
    node = {"node": "machine", "generation": int(values["generation"]), "phase": "node"}
    node |= {"joined": json.loads(values["joined"]), "message": "no route"}
    node["trusts"] = json.loads(values["trusts"])
    return "\n".join([*lines, f"gate\tstatus\t{json.dumps({'nodes': [node]})}"])


def signing(changes: dict[str, str]) -> str:
    """The line of CFSSL's configuration, fitted to a CA that ends early and may sign no CRL."""
    data = json.loads(documents.authority_files(LAB)["config.json"].content)
    profile = data["signing"]["profiles"]["kubelet"]
    del profile["crl_url"]
    profile.update(not_after="2026-12-01T00:00:00Z", **changes)
    text = base64.b64encode(json.dumps(data).encode()).decode()
    return f"signing\t/somewhere/config.json\t{text}"


def found(answer: str) -> list[str]:
    return [str(each) for each in drift.host_differences(LAB, answer, NOW)]


def test_a_host_as_configured_has_no_difference() -> None:
    assert found(host_answer()) == []


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (host_answer(service="stopped"), "CA host, service cfssl: stopped (configured: running)"),
        (host_answer(end="Dec  1 00:00:00 2026 GMT"), "tls.pem: 7 days left (configured: at least"),
        (host_answer(end="missing"), "tls.pem: no certificate (configured: a certificate)"),
        (host_answer(generation="2"), "machine: generation 2 (configured: generation 1)"),
        (host_answer(joined="false"), "machine: not joined (node: no route) (configured: joined)"),
        (
            host_answer(trusts="false"),
            "machine: does not trust yet what the CA host does; it asks once an hour "
            "(configured: follows the CA host)",
        ),
        ("", "CA host: autojoin is not installed (configured: CFSSL and the gate)"),
        (
            host_answer().replace("file\t/somewhere/gate.json\t", "file\t/somewhere/gate.json\t0"),
            "CA host, /somewhere/gate.json: another content (configured: as rendered)",
        ),
        (
            host_answer().replace(signing({}), signing({"expiry": "9999h"})),
            "CA host, /somewhere/config.json: another content (configured: as rendered)",
        ),
        (
            host_answer().replace(signing({}), "signing\t/somewhere/config.json\te30="),
            "CA host, /somewhere/config.json: another content (configured: as rendered)",
        ),
    ],
)
def test_a_difference_of_the_host(answer: str, line: str) -> None:
    assert line in found(answer)[0]


def test_what_the_host_is_asked_is_shell() -> None:
    script = drift.host_script(LAB)
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
    assert subprocess.run(["sh", "-s"], input=script, text=True, timeout=60).returncode == 0


def node(**changes: Any) -> list[dict[str, Any]]:
    item: dict[str, Any] = {
        "metadata": {"name": "machine", "labels": {"bgp": "worker"}},
        "status": {
            "nodeInfo": {"kubeletVersion": "v1.34.2"},
            "addresses": [{"type": "InternalIP", "address": "192.168.10.51"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    item["metadata"].update(changes.pop("metadata", {}))
    item["status"].update(changes)
    return [item]


@pytest.mark.parametrize(
    ("nodes", "line"),
    [
        ([], "node machine: not there (configured: a node)"),
        (
            node(nodeInfo={"kubeletVersion": "v1.33.1"}),
            "kubelet: 1.33.1 (configured: 1.34.2); a running node keeps its kubelet",
        ),
        (node(addresses=[]), "address: none (configured: 192.168.10.51)"),
        (node(metadata={"labels": {}}), "label bgp: none (configured: worker)"),
        (node(conditions=[{"type": "Ready", "status": "False"}]), "not Ready (configured: Ready)"),
    ],
)
def test_a_difference_of_a_node(nodes: list[dict[str, Any]], line: str) -> None:
    assert [line in str(each) for each in drift.node_differences(LAB, nodes)] == [True]


def test_a_node_as_configured() -> None:
    assert list(drift.node_differences(LAB, node())) == []


def test_custom_resources() -> None:
    assert LAB.bgp is not None
    wanted = bgp.custom_resources(LAB.cilium.version, LAB.bgp)
    live = {f"{body['kind']}/{body['metadata']['name']}": copy.deepcopy(body) for body in wanted}
    live["CiliumLoadBalancerIPPool/ippool"]["spec"]["serviceSelector"] = {"a": "a default"}
    assert list(drift.resource_differences(wanted, live)) == []
    live["CiliumLoadBalancerIPPool/ippool"]["spec"]["disabled"] = True
    del live["CiliumBGPPeerConfig/cilium-peer"]
    lines = sorted(map(str, drift.resource_differences(wanted, live)))
    assert [line.split(" (")[0] for line in lines] == [
        "CiliumBGPPeerConfig/cilium-peer: not there",
        "CiliumLoadBalancerIPPool/ippool: spec.disabled differs",
    ]


def test_who_does_not_answer_is_named(tmp_path: Path) -> None:
    authority = LAB.certificate_authority
    host = authority.host.model_copy(update={"address": "127.0.0.1", "port": 1})
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}
    user = {"name": "x", "user": {"token": "x"}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    settings = {"clusters": [cluster], "users": [user], "contexts": [context]}
    kubeconfig.write_text(json.dumps({**settings, "current-context": "x"}))
    lab = LAB.model_copy(
        update={
            "certificate_authority": authority.model_copy(update={"host": host}),
            "cluster": LAB.cluster.model_copy(update={"kubeconfig": str(kubeconfig)}),
        }
    )
    found, silent = drift.everything(lab)
    assert found == []
    assert "127.0.0.1 port 1 can't be reached" in silent[0] and "refused" in silent[0]
    assert LAB.cluster.api_server in silent[1] and "refused" in silent[1]
