"""The main job, end to end, on real parts. The tests follow each other in one lab."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CommandLines, Lab, table, until
from tools.pins import Layout

WORKERS = ("worker-1", "worker-2", "worker-3")
WORKER_ROOT = "/var/lib/autojoin/machines/dev/{}/disk/root"


def test_up_ends_with_every_worker_ready(lab: Lab) -> None:
    rows = table(lab.first_output)
    assert tuple(rows) == WORKERS
    for row in rows.values():
        assert row["HARDWARE"] == "nspawn"
        assert row["READY"] == "True"
        assert 0 < float(row["SECONDS TO JOIN"]) < 120


def test_up_streams_the_phases_of_each_node(lab: Lab) -> None:
    output = lab.first_output
    for name in WORKERS:
        for phase in ("clock", "authority", "certificate", "runtime", "kubelet", "node", "ready"):
            assert re.search(rf"{name}: {phase} done", output), f"{name}: {phase}"


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    lab.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")
    output = lab.make("up")
    assert "unchanged" in output
    assert not re.search(r"\d+ (created|updated|replaced|deleted)", output)


def test_refresh_finds_no_changes(lab: Lab) -> None:
    command = ["refresh", "--expect-no-changes", "--yes", "--skip-preview", "--non-interactive"]
    lab.run("pulumi", *command)


def test_outputs_tell_of_every_node(lab: Lab) -> None:
    nodes = json.loads(lab.run("pulumi", "stack", "output", "nodes", "--json"))
    assert set(nodes) == set(WORKERS)
    for name, node in nodes.items():
        configured = lab.config["autojoin:workers"][name]
        assert node["address"] == configured["address"]
        assert node["generation"] == 1
        assert re.fullmatch(r"[0-9a-f]{64}", node["userDataSha256"])
        assert node["joined"]["readySeconds"] > 0


def test_status_tells_how_far_each_worker_came(lab: Lab) -> None:
    shown = json.loads(lab.make("--silent", "status", "JSON=1").strip().splitlines()[-1])
    assert shown["apiServer"] == "ok"
    assert [worker["name"] for worker in shown["workers"]] == list(WORKERS)
    for worker in shown["workers"]:
        assert (worker["join"], worker["ready"]) == ("joined", "True")


def test_nodes_have_certificates_that_cfssl_issued_for_keys_made_on_them(lab: Lab) -> None:
    names = {node["metadata"]["name"] for node in lab.kubectl("get", "nodes")["items"]}
    assert names == set(WORKERS)
    query = "select hex(serial_number) || ' ' || common_name from certificates"
    database = lab.on_authority("find /var/lib -name certdb.sqlite").strip()
    rows = lab.on_authority(f'sqlite3 {database} "{query}"').splitlines()
    issued = [bytes.fromhex(row.split()[0]).decode() for row in rows if "system:node:" in row]
    for name in WORKERS:
        pki = WORKER_ROOT.format(name) + "/var/lib/kubelet/pki"
        paths = lab.on_hypervisor(f"grep -lr -e 'PRIVATE KEY' {pki}").split()
        assert paths, f"no private key on {name}"
        certificate = lab.on_hypervisor(
            f"openssl x509 -noout -serial -subject -in {pki}/kubelet.crt"
        )
        serial = re.search(r"serial=([0-9A-F]+)", certificate)
        assert serial and str(int(serial[1], 16)) in issued
        assert f"system:node:{name}" in certificate


def test_the_join_key_is_gone_from_every_node(lab: Lab) -> None:
    for name in WORKERS:
        found = lab.on_hypervisor(f"find {WORKER_ROOT.format(name)}/etc/autojoin -name join-key")
        assert found.strip() == ""


def test_the_authority_is_reachable_only_through_the_gate(lab: Lab) -> None:
    listening = lab.on_authority("ss -Hltn || cat /proc/net/tcp")
    ports = {line.split()[3] for line in listening.splitlines() if line.startswith("LISTEN")}
    assert any(port == "127.0.0.1:8888" for port in ports), listening
    outside = {port.rpartition(":")[2] for port in ports if not port.startswith("127.")}
    assert outside == {"22", "8443", "8889"}


def test_the_operator_configures_bgp_for_every_node(lab: Lab) -> None:
    def configured() -> bool:
        items = lab.kubectl("get", "ciliumbgpnodeconfigs")["items"]
        return {item["metadata"]["name"] for item in items} == set(WORKERS)

    assert until(configured, 60)


def test_a_load_balancer_service_gets_an_address_of_the_pool(lab: Lab) -> None:
    pool = lab.config["autojoin:bgp"]["loadBalancerPools"][0]
    found = lab.kubectl("get", "ciliumloadbalancerippools", pool["name"])
    assert [block["cidr"] for block in found["spec"]["blocks"]] == pool["cidrs"]
    lab.run("kubectl", "create", "service", "loadbalancer", "probe", "--tcp=80:80")

    def address() -> str | None:
        ingress = lab.kubectl("get", "service", "probe")["status"]["loadBalancer"].get("ingress")
        return str(ingress[0]["ip"]) if ingress else None

    given = until(address, 60)
    lab.run("kubectl", "delete", "service", "probe")
    assert given, "no address after 60 s"
    network = ipaddress.ip_network(pool["cidrs"][0])
    assert ipaddress.ip_address(given) in network


def test_status_tells_that_bgp_is_well(lab: Lab) -> None:
    lines: list[str] = []

    def well() -> bool:
        lines[:] = lab.run("python", "-m", "commands.bgp_status", str(lab.file), check=False).split(
            "\n"
        )
        return any("in effect on" in line for line in lines) and "problem" not in lines[0]

    assert until(well, 60), lines
    assert f"CiliumBGPClusterConfig cilium-bgp: in effect on {', '.join(WORKERS)}" in lines
    assert "Service default/example: has" in lab.well()


@pytest.mark.full
def test_prerequisites_are_installed_and_a_mistake_is_told(lab: Lab) -> None:
    """The Gateway API's CRDs come before the chart, which has it off here: it needs Envoy."""
    before = lab.file.read_text()
    source = str(Layout().test_file("gateway-api-1.2-crds"))

    def change(config: dict[str, Any]) -> None:
        config["autojoin:cilium"]["gatewayApi"] = {"mode": "install", "source": source}
        config["autojoin:cilium"]["dashboards"] = {"mode": "install"}
        config["autojoin:bgp"]["nodeSelector"] = {"matchLabels": {"bgp": "wroker"}}

    lab.edit(change)
    # Not `make up`: its example is not told to the router, and would be waited for.
    lab.run("pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
    wanted = "problem: CiliumBGPClusterConfig cilium-bgp: no node matches its selector bgp=wroker"
    # The operator needs a moment to say so.
    assert until(lambda: wanted in lab.run("make", "status", check=False), 60)
    lab.make("status", expect=1)

    gateways = ("get", "crd", "gateways.gateway.networking.k8s.io")
    assert lab.kubectl(*gateways)["metadata"]["name"]
    assert lab.kubectl("get", "configmaps", "--namespace", "monitoring")["items"]
    lab.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")
    lab.file.write_text(before)
    lab.make("up")
    assert lab.kubectl(*gateways)["metadata"]["name"], "what was installed stays"


PKI = "/var/lib/kubelet/pki"


def test_a_node_renews_its_certificate_at_the_gate(lab: Lab) -> None:
    """Again and again; the kubelet takes it up for both its uses, and no pod notices."""
    node = WORKERS[2]
    pair = f"{WORKER_ROOT.format(node)}{PKI}/kubelet-client-autojoin.pem"
    address = lab.config["autojoin:workers"][node]["address"]

    def serial(what: str) -> str:
        """Nothing while the kubelet does not answer."""
        return lab.on_hypervisor(f"{what} | openssl x509 -noout -serial 2>&1 || true").strip()

    def served() -> str:
        asked = f"openssl s_client -noservername -connect {address}:10250"
        return serial(f"{asked} </dev/null 2>/dev/null")

    def containers() -> dict[str, str]:
        where = ("--all-namespaces", f"--field-selector=spec.nodeName={node}")
        pods = lab.kubectl("get", "pods", *where)["items"]
        return {
            f"{pod['metadata']['uid']} {each['name']}": each["containerID"]
            for pod in pods
            for each in pod["status"]["containerStatuses"]
        }

    before, serials = containers(), [serial(f"cat {pair}")]
    for _ in range(3):
        said = lab.in_worker(node, "/usr/local/lib/autojoin/join renew --now")
        assert f"{node} renewal done: until " in said
        serials.append(serial(f"cat {pair}"))
        assert until(lambda: served() == serials[-1], 30), "the kubelet serves with another one"
    assert len(set(serials)) == 4
    database = lab.on_authority("find /var/lib -name certdb.sqlite").strip()
    query = f"select count(*) from certificates where common_name = 'system:node:{node}'"
    assert int(lab.on_authority(f'sqlite3 {database} "{query}"')) >= 4

    def alive() -> bool:
        """By a lease that was written after the last renewal."""
        lease = lab.kubectl("get", "lease", node, "--namespace=kube-node-lease")
        ready = [each["status"] for each in lab.kubectl("get", "node", node)["status"]["conditions"]
                 if each["type"] == "Ready"]  # fmt: skip
        return bool(lease["spec"]["renewTime"] > renewed and ready == ["True"])

    renewed = datetime.datetime.now(datetime.UTC).isoformat()
    assert until(alive, 60), "no sign of life after the renewals"
    assert containers() == before != {}


def test_the_timer_finds_nothing_to_do_with_a_fresh_certificate(lab: Lab) -> None:
    for node in WORKERS:
        timer = lab.in_worker(node, "systemctl is-active autojoin-renew.timer").strip()
        assert timer == "active"
        assert lab.in_worker(node, "/usr/local/lib/autojoin/join renew") == ""


def test_no_signer_but_the_gates_has_anything_to_do(lab: Lab) -> None:
    assert lab.kubectl("get", "certificatesigningrequests")["items"] == []


def test_editing_one_worker_changes_that_worker_only(lab: Lab) -> None:
    before = lab.file.read_text()

    def move(config: dict[str, Any]) -> None:
        worker = config["autojoin:workers"]["worker-2"]
        worker["address"] = str(ipaddress.ip_address(worker["address"]) + 50)

    lab.edit(move)
    try:
        steps = lab.preview()
    finally:
        lab.file.write_text(before)
    changed = [step["urn"].rpartition("::")[2] for step in steps]
    of_all = ["admission-bars", "admission-revoked", "joins-ready"]
    assert sorted(changed) == [*of_all, "worker-2-machine", "worker-2-registration"], changed


def test_an_edited_worker_joins_anew_and_disturbs_no_other(lab: Lab) -> None:
    before = {node["metadata"]["name"]: node for node in lab.kubectl("get", "nodes")["items"]}

    def raise_generation(config: dict[str, Any]) -> None:
        config["autojoin:workers"]["worker-2"]["generation"] = 2

    lab.edit(raise_generation)
    output = lab.make("up")
    assert table(output)["worker-2"]["READY"] == "True"
    assert "worker-1" not in [
        line.split(":")[0] for line in output.splitlines() if "done (" in line
    ]
    after = {node["metadata"]["name"]: node for node in lab.kubectl("get", "nodes")["items"]}
    for name in ("worker-1", "worker-3"):
        uid, boot = after[name]["metadata"]["uid"], after[name]["status"]["nodeInfo"]["bootID"]
        assert uid == before[name]["metadata"]["uid"]
        assert boot == before[name]["status"]["nodeInfo"]["bootID"]
    assert sorted(lab.certificates("worker-2")) == ["good", "revoked"]


@pytest.mark.full
def test_a_failed_join_names_node_phase_and_last_line(lab: Lab) -> None:
    before = lab.file.read_text()
    gate = "join-gate"

    def add(config: dict[str, Any]) -> None:
        worker = dict(config["autojoin:workers"]["worker-1"])
        worker["address"] = str(ipaddress.ip_address(worker["address"]) + 60)
        worker["joinTimeout"] = 15
        config["autojoin:workers"]["worker-9"] = worker

    lab.edit(add)
    lab.on_authority(f"systemctl stop {gate}")
    try:
        output = lab.make("up", expect=1)
    finally:
        lab.on_authority(f"systemctl start {gate}")
    assert re.search(r"worker-9 did not join: phase \w+: \S+", output), output
    assert "Traceback" not in output
    output = lab.make("up")
    assert table(output)["worker-9"]["READY"] == "True"
    lab.file.write_text(before)
    assert "worker-9" not in table(lab.make("up"))


def secrets(lab: Lab) -> list[str]:
    """Every secret of the stack: keys, and what is derived from them, as they would be seen."""
    text = lab.run("pulumi", "stack", "export", "--show-secrets")
    lab.output.pop(-2)
    # A private key's file ends with its public key, which is no secret and may stand elsewhere.
    public = "".join(re.findall(r'"publicKey(?:Pem|Openssh)": "([^"]*)"', text))
    found = set()
    for pem in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text):
        lines = [line.strip("\\") for line in pem.split("\\n")]
        found |= {line for line in lines if len(line) > 20 and line not in public}
    state = json.loads(text)["deployment"]["resources"]
    for resource in state:
        stdin = resource.get("inputs", {}).get("stdin")
        plain = stdin.get("plaintext") if isinstance(stdin, dict) else None
        if plain and resource["urn"].endswith("-registration"):
            registered = json.loads(json.loads(plain))
            found |= {registered["joinKey"], registered["statusToken"]}
    return sorted(found)


def test_no_secret_is_shown_anywhere(lab: Lab, command_lines: CommandLines) -> None:
    known = secrets(lab)
    hexadecimal = [secret for secret in known if re.fullmatch(r"[0-9a-f]{64}", secret)]
    assert len(hexadecimal) >= 2 * len(WORKERS), "join keys and status tokens were not found"
    assert len(known) > len(hexadecimal), "private keys were not found"
    state = lab.run("pulumi", "stack", "export")
    preview = lab.run("pulumi", "preview", "--json", "--non-interactive")
    logs = lab.on_authority("journalctl --no-pager -o cat 2>/dev/null | tail -n 5000")
    consoles = lab.on_hypervisor("find /var/lib/autojoin/machines -name console.log -exec cat {} +")
    shown = {
        "output": "\n".join(lab.output),
        "state": state,
        "preview": preview,
        "command lines": "\n".join(command_lines.seen),
        "log of the CA host": logs,
        "consoles": consoles,
    }
    for place, text in shown.items():
        assert text
        assert [secret for secret in known if secret in text] == [], f"a secret in the {place}"


def test_preview_works_with_everything_off(lab: Lab) -> None:
    """Another stack, whose CA host and API server do not answer."""
    data = lab.file.read_text()
    address = lab.config["autojoin:certificateAuthority"]["host"]["address"]
    prefix = address.rpartition(".")[0]
    # TEST-NET-3: nobody answers there, and nothing is sent in a preview.
    other = re.sub(re.escape(prefix) + r"\b", "203.0.113", data)
    other = re.sub(r"kubeconfig: .*", "kubeconfig: /nowhere/kubeconfig", other)
    (lab.checkout / "Pulumi.off.yaml").write_text(re.sub(r"encryptionsalt:.*\n", "", other))
    output = lab.make("preview", "STACK=off")
    (lab.checkout / "Pulumi.off.yaml").unlink()
    assert re.search(r"\d+ to create", output)


def lab_processes(identifier: str) -> list[int]:
    """Processes of the lab: those in its control group, or that name its state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "cgroup").read_bytes()
        except OSError:
            continue
        if identifier.encode() in text and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def state_folder(lab: Lab) -> Path:
    return Path(lab.environment["PULUMI_BACKEND_URL"].removeprefix("file://")).parent


@pytest.mark.full
def test_up_after_a_power_cut_in_the_middle(lab: Lab) -> None:
    identifier = state_folder(lab).name

    def raise_generation(config: dict[str, Any]) -> None:
        config["autojoin:workers"]["worker-3"]["generation"] = 2

    lab.edit(raise_generation)
    process = subprocess.Popen(
        ["make", "up"], cwd=lab.checkout, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "worker-3: clock" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    until(lambda: kill_all(identifier) == 0, 5)
    process.stdout.close()
    process.wait()
    output = lab.make("up")
    assert {row["READY"] for row in table(output).values()} == {"True"}
    lab.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")


def kill_all(identifier: str) -> int:
    processes = lab_processes(identifier)
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(processes)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(False, id="down"),
        pytest.param(True, id="up-and-down-again", marks=pytest.mark.full),
    ],
)
def test_down_leaves_nothing_behind(lab: Lab, again: bool) -> None:
    if again:
        output = lab.make("up")
        assert {row["READY"] for row in table(output).values()} == {"True"}
        vars(lab).pop("_environment", None)
    state = state_folder(lab)
    output = lab.make("down")
    assert "all the same" not in output, "pulumi destroy failed"
    assert not state.exists()
    # Those that were ended a moment ago are zombies until the machine's init has seen to them.
    until(lambda: not lab_processes(state.name), 5)
    assert lab_processes(state.name) == []
    assert state.name not in Path("/proc/self/mountinfo").read_text()
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert state.name not in links + spaces
    assert not list(Path("/sys/fs/cgroup").glob(f"**/*{state.name}*"))
    assert lab.file.exists() and not (lab.checkout / ".lab").is_symlink()
