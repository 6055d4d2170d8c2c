"""A cluster that carries work: pods, names, Services from outside, webhooks, on real parts."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.conftest import Lab, until

IMAGE = "registry.k8s.io/e2e-test-images/agnhost:2.56"
WORKERS = ("worker-1", "worker-2", "worker-3")
HOLD_SECONDS = 9


def pod(name: str, node: str | None = None, **labels: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "agnhost",
                "image": IMAGE,
                "args": ["netexec", "--http-port=8080"],
                "readinessProbe": {
                    "httpGet": {"path": "/healthz", "port": 8080},
                    "periodSeconds": 1,
                    # One that a busy machine starves stays in its Services.
                    "timeoutSeconds": 10,
                },
            }
        ],
    }
    if node:
        spec["nodeName"] = node
    metadata = {"name": name, "namespace": "work", "labels": {"app": name, **labels}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, selector: dict[str, str], **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    metadata = {"name": name, "namespace": "work"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": selector, "ports": ports, **spec},
    }


@pytest.fixture(scope="module")
def work(lab: Lab) -> Iterator[Lab]:
    start_pods(lab)
    yield lab
    lab.run("kubectl", "delete", "namespace", "work", "--timeout=120s")


def start_pods(lab: Lab) -> None:
    """A namespace with a pod on each worker, `pod-1` to `pod-3`, and a Service over them."""
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work"}}]
    items += [pod(f"pod-{name[-1]}", name, group="all") for name in WORKERS]
    items.append(service("all", {"group": "all"}, type="LoadBalancer"))
    apply(lab, *items)
    lab.run("kubectl", "-n", "work", "wait", "--for=condition=Ready", "pod", "--all",
            "--timeout=120s")  # fmt: skip


def apply(lab: Lab, *items: dict[str, Any]) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": list(items)}
    lab.run("kubectl", "apply", "-f", "-", stdin=json.dumps(document))


def inside(lab: Lab, name: str, *command: str, check: bool = True) -> str:
    return lab.run("kubectl", "-n", "work", "exec", name, "--", *command, check=check)


def address_of(lab: Lab, name: str) -> str:
    def read() -> str:
        found = lab.kubectl("get", "service", name, "-n", "work")
        given = found["status"]["loadBalancer"].get("ingress", [])
        return given[0]["ip"] if given else ""

    address = str(until(read))
    assert address, f"Service {name} got no address"
    return address


def ask(address: str, path: str = "/hostname", seconds: float = 2) -> str:
    """What answers at a load balancer address, asked from this machine; empty where nobody does."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return answer(address, path, seconds)
    return ""


def answer(address: str, path: str = "/hostname", seconds: float = 2) -> str:
    """The same; OSError or HTTPException says why nobody does."""
    connection = http.client.HTTPConnection(address, 80, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def next_hops(lab: Lab, address: str) -> set[str]:
    """The nodes by which the router knows the way to an address."""
    text = lab.on_hypervisor(f"vtysh -c 'show bgp ipv4 unicast {address}/32 json'")
    paths = json.loads(text or "{}").get("paths", [])
    return {hop["ip"] for path in paths if path.get("valid") for hop in path["nexthops"]}


def addresses_of_nodes(lab: Lab) -> dict[str, str]:
    return {name: lab.config["autojoin:workers"][name]["address"] for name in WORKERS}


# --- inside ---------------------------------------------------------------------------------


def test_up_ends_with_a_service_that_answers(lab: Lab) -> None:
    output = lab.first_output
    (line,) = [line for line in output.splitlines() if "answers from outside" in line]
    address = line.split("http://")[1].split("/")[0]
    pool = ip_network(lab.config["autojoin:bgp"]["loadBalancerPools"][0]["cidrs"][0])
    assert ip_address(address) in pool
    assert ip_address(address) not in (pool[0], pool[-1])
    assert ask(address).startswith("example-")


def test_a_pod_resolves_services_and_the_internets_names(work: Lab) -> None:
    service_address = work.kubectl("get", "service", "all", "-n", "work")["spec"]["clusterIP"]
    for name in ("all", "all.work", "all.work.svc.cluster.local"):
        assert service_address in inside(work, "pod-1", "dig", "+search", "+short", name)
    assert inside(work, "pod-1", "dig", "+short", "www.example.com").strip() == "203.0.113.80"
    assert "10.30.0.10" in inside(work, "pod-1", "cat", "/etc/resolv.conf")


def test_pods_talk_across_nodes_and_by_service(work: Lab) -> None:
    for name in ("pod-2", "pod-3"):
        address = work.kubectl("get", "pod", name, "-n", "work")["status"]["podIP"]
        assert inside(work, "pod-1", "curl", "-sm5", f"http://{address}:8080/hostname") == name
    seen = {inside(work, "pod-1", "curl", "-sm5", "http://all/hostname") for _ in range(20)}
    assert len(seen) > 1


def test_a_network_policy_blocks(work: Lab) -> None:
    address = work.kubectl("get", "pod", "pod-2", "-n", "work")["status"]["podIP"]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-pod-3", "namespace": "work"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "pod-2"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "pod-3"}}}]}],
        },
    }
    curl = ("curl", "-sm2", f"http://{address}:8080/hostname")
    apply(work, policy)
    try:
        assert until(lambda: inside(work, "pod-1", *curl, check=False) == "")
        assert inside(work, "pod-3", *curl) == "pod-2"
    finally:
        work.run("kubectl", "-n", "work", "delete", "networkpolicy", "only-pod-3")
    assert until(lambda: inside(work, "pod-1", *curl, check=False) == "pod-2")


def test_logs_exec_and_port_forward_go_through_the_kubelet(work: Lab) -> None:
    assert "Started HTTP server" in work.run("kubectl", "-n", "work", "logs", "pod-1")
    assert inside(work, "pod-1", "hostname").strip() == "pod-1"
    command = ["kubectl", "-n", "work", "port-forward", "pod/pod-1", ":8080"]
    process = subprocess.Popen(command, env=work.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(" -> ")[0].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/hostname")
        assert connection.getresponse().read() == b"pod-1"
    finally:
        process.terminate()
        process.wait()


# --- from outside ---------------------------------------------------------------------------


def test_an_address_answers_from_outside_by_several_nodes(work: Lab) -> None:
    address = address_of(work, "all")
    assert until(lambda: next_hops(work, address) == set(addresses_of_nodes(work).values()))
    seen = {ask(address) for _ in range(40)}
    assert {"pod-1", "pod-2", "pod-3"} <= seen, seen


def test_an_address_goes_with_its_last_endpoint_and_with_its_service(work: Lab) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    apply(work, pod("local", "worker-2"), service("local", {"app": "local"}, **local))
    address = address_of(work, "local")
    there = addresses_of_nodes(work)["worker-2"]
    assert until(lambda: next_hops(work, address) == {there}), next_hops(work, address)
    assert until(lambda: ask(address) == "local")
    work.run("kubectl", "-n", "work", "delete", "pod", "local")
    assert until(lambda: next_hops(work, address) == set())
    apply(work, pod("local", "worker-3"))
    assert until(lambda: next_hops(work, address) == {addresses_of_nodes(work)["worker-3"]})
    work.run("kubectl", "-n", "work", "delete", "service", "local")
    assert until(lambda: next_hops(work, address) == set())
    assert ask(address) == ""


def lost_requests(address: str, done: Any, pause: float = 0.02) -> tuple[int, int]:
    """How many requests got no answer, and how many there were, until `done()`."""
    lost = total = 0
    while not done():
        total += 1
        lost += ask(address, seconds=1) == ""
        time.sleep(pause)
    return lost, total


def test_graceful_restart_keeps_traffic_while_agents_restart(
    work: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    address = address_of(work, "all")
    work.run("kubectl", "-n", "kube-system", "rollout", "restart", "daemonset/cilium")
    wait = ["rollout", "status", "daemonset/cilium", "--timeout=180s"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ended = pool.submit(work.run, "kubectl", "-n", "kube-system", *wait)
        lost, total = lost_requests(address, ended.done)
        ended.result()
    with capsys.disabled():
        print(f"\nagents restarted one by one: {lost} of {total} requests lost")
    assert total > 50
    assert lost <= total * 0.02


def test_a_node_that_loses_power_is_out_of_the_routers_table_within_its_hold_time(
    work: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    address, nodes = address_of(work, "all"), addresses_of_nodes(work)
    assert until(lambda: next_hops(work, address) == set(nodes.values()))
    unit = "autojoin-machine-dev@worker-3"
    # The link first: what is killed would still close its connections.
    kill = (
        f"leader=$(systemctl show --property=MainPID --value {unit}); "
        "name=$(tr '\\0' '\\n' </proc/$leader/cmdline | sed -n 's/^--machine=//p'); "
        f'ip link set "vb-$name" down; '
        f"systemctl kill --kill-whom=all --signal=KILL {unit}; systemctl stop {unit}"
    )
    started = time.monotonic()
    work.on_hypervisor(kill)
    gone = until(lambda: nodes["worker-3"] not in next_hops(work, address), HOLD_SECONDS * 10)
    seconds = time.monotonic() - started
    work.on_hypervisor(f"systemctl start {unit}")
    with capsys.disabled():
        print(f"\nout of the router's table {seconds:.1f} s after its power")
    assert gone
    assert seconds < HOLD_SECONDS + 5
    work.run("kubectl", "wait", "--for=condition=Ready", "node/worker-3", "--timeout=120s")
    assert until(lambda: next_hops(work, address) == set(nodes.values()), 120)


# --- the API server outside -----------------------------------------------------------------


def certificate(name: str) -> tuple[str, str]:
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def webhook(pem: str, private: str) -> list[dict[str, Any]]:
    """agnhost's webhook, which refuses ConfigMaps that say so."""
    server = pod("webhook")
    container = server["spec"]["containers"][0]
    container["args"] = ["webhook", "--tls-cert-file=/tls/tls.crt", "--port=8443",
                         "--tls-private-key-file=/tls/tls.key"]  # fmt: skip
    container["readinessProbe"]["httpGet"] = {"path": "/readyz", "port": 8443, "scheme": "HTTPS"}
    container["volumeMounts"] = [{"name": "tls", "mountPath": "/tls"}]
    server["spec"]["volumes"] = [{"name": "tls", "secret": {"secretName": "webhook"}}]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "webhook", "namespace": "work"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pem, "tls.key": private},
    }
    ports = [{"port": 443, "targetPort": 8443}]
    return [secret, server, service("webhook", {"app": "webhook"}, ports=ports)]


def registration(pem: str) -> dict[str, Any]:
    bundle = base64.b64encode(pem.encode()).decode()
    name = "deny.work.example.com"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "rules": [{**rule, "resources": ["configmaps"]}],
                "clientConfig": {
                    "service": {"namespace": "work", "name": "webhook", "path": "/configmaps"},
                    "caBundle": bundle,
                },
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "work"}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 5,
            }
        ],
    }


def test_the_api_server_reaches_a_webhook_by_routes_that_bgp_brought(work: Lab) -> None:
    routes = work.on_hypervisor("ip -json route")
    services = IPv4Network(work.config["autojoin:cluster"]["serviceCidrs"][0])
    into = [
        route
        for route in json.loads(routes)
        if route["dst"] != "default" and IPv4Network(route["dst"]).subnet_of(services)
    ]
    assert into
    assert {route["protocol"] for route in into} == {"bgp"}
    pem, private = certificate("webhook.work.svc")
    apply(work, *webhook(pem, private))
    work.run("kubectl", "-n", "work", "wait", "--for=condition=Ready", "pod/webhook",
             "--timeout=60s")  # fmt: skip
    apply(work, registration(pem))
    try:
        create = ["-n", "work", "create", "configmap", "refused"]
        denied = "--from-literal=webhook-e2e-test=webhook-disallow"
        assert until(lambda: "denied the request" in refusal(work, *create, denied))
        work.run("kubectl", "-n", "work", "create", "configmap", "allowed", "--from-literal=a=b")
    finally:
        name = registration(pem)["metadata"]["name"]
        work.run("kubectl", "delete", "validatingwebhookconfiguration", name)


def refusal(lab: Lab, *words: str) -> str:
    command = ["kubectl", *words]
    answer = subprocess.run(command, env=lab.environment, capture_output=True, text=True)
    return answer.stderr if answer.returncode else ""


def test_status_knows_every_session(work: Lab) -> None:
    def read() -> list[dict[str, Any]]:
        text = work.run(
            "python", "-m", "commands.bgp_status", str(work.file), "--json", check=False
        )
        found: list[dict[str, Any]] = json.loads(text)
        return found

    # What the tests before ended needs a moment to be whole again.
    until(lambda: not any(it["problem"] for it in read()))
    lines = [f"{it['subject']}: {it['text']}" for it in read()]
    for name in WORKERS:
        (line,) = [line for line in lines if line.startswith(f"node {name}, peer router")]
        assert "session established since 20" in line
        assert int(line.split(", ")[-1].split(" ")[0]) > 3, line
    assert "Cilium's agents: 3 of 3 are ready" in lines
    assert "the cluster's DNS: 2 of 2 pods are ready" in lines
    assert not any(it["problem"] for it in read()), lines
    assert lines[0] in work.well()
