"""Certificates that live for minutes, and then kubeadm's kind of CA takes the place of the lab's.

Work goes on all the while. The API server's certificate is of a CA of its own
(`apiServerCertificateAuthority`): the lab's has the old one's, and its owner would give it another
one between the last two edits.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import random
import re
import shlex
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Lab, own_lab, until
from tests.e2e.test_carries_work import WORKERS, address_of, answer, ask, inside, start_pods
from tests.e2e.test_first_light import WORKER_ROOT
from tests.unit.components.workers.test_join_script import TOOLS
from tools.pins import TEST_PACKAGES

pytestmark = pytest.mark.full

FOLDER = "/etc/kubernetes-ca"
OLD = {"certificate": f"{FOLDER}/ca.pem", "key": f"{FOLDER}/ca-key.pem"}
NEW = {"certificate": f"{FOLDER}/next.pem", "key": f"{FOLDER}/next-key.pem"}
# What kubeadm makes (k8s.io/client-go util/cert): RSA, and it may sign no CRL.
MAKE = f"""
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kubernetes \
    -addext keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign \
    -addext subjectAltName=DNS:kubernetes \
    -keyout {NEW["key"]} -out {NEW["certificate"]}
"""
# What the API server's owner edits; the lab has one file for both flags.
API_SERVERS = "/etc/kubernetes/pki/ca.pem"
CFSSL_CONFIGURATION = "/etc/autojoin/cfssl/config.json"
RENEW = "/usr/local/lib/autojoin/join renew"
# The empty one takes away every one that the timer has.
OFTEN = """\
[Timer]
OnUnitInactiveSec=
OnActiveSec=1
OnUnitInactiveSec=15
AccuracySec=1
"""
# CFSSL rounds its clock to the minute: seven are six at least. Half of them:
DOWN_SECONDS = 210
RESTART_SECONDS = 10
# What a busy machine has not answered by then is lost, and not late.
LOST_SECONDS = 20
PKI = "/var/lib/kubelet/pki"
CLOCK = "/usr/local/lib/libfaketime.so.1"
RELOAD = "systemctl daemon-reload"
SEED = 19
DROP_IN = "/run/systemd/system/autojoin-renew.service.d"
CUT = "/run/cut"
CHANGING = ("cat", "curl", "ln", "mv", "sync")
# Goes by the name of a command and calls it, until the one whose number is in `at`.
STOPPING = f"""\
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
tool=${{0##*/}}
echo "$tool" >>{CUT}/calls
[ "$(wc -l <{CUT}/calls)" -lt "$(cat {CUT}/at)" ] || {{ : >{CUT}/reached; exec sleep 600; }}
exec "$tool" "$@"
"""
KEEPS = "keeps running; where another CA is to be trusted, the gate tells it"


@dataclass
class Traffic:
    """Asks all the time, by what each of `asked` does; what was not answered is in `failed`."""

    asked: dict[str, Callable[[], object]]
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._ask, args=it) for it in self.asked.items()]
        for thread in self.threads:
            thread.start()

    def _ask(self, name: str, does: Callable[[], object]) -> None:
        while not self.ended.wait(0.1):
            self.counts[name] = self.counts.get(name, 0) + 1
            try:
                does()
            except (AssertionError, OSError, http.client.HTTPException) as error:
                self.failed.append(f"{time.strftime('%X')} {name}: {error}")

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def with_a_pinned_api_server(lab: Lab) -> None:
    lab.run("python", "-c", "from lab import lab, stack; lab.up(stack.prepare())")
    pem = lab.on_authority(f"cat {OLD['certificate']}")

    def pin(config: dict[str, Any]) -> None:
        config["autojoin:cluster"]["apiServerCertificateAuthority"] = pem
        # Nothing here tells how soon a route goes, and a starved machine must not lose one.
        config["autojoin:bgp"]["peers"][0]["holdTime"] = 90

    lab.edit(pin)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(with_a_pinned_api_server) as lab:
        yield lab


@pytest.fixture(scope="module")
def address(lab: Lab) -> str:
    """Of a Service with a pod on each worker, asked from outside."""
    start_pods(lab)
    address = address_of(lab, "all")
    assert until(lambda: ask(address))
    return address


class Admin:
    """Asks the API server from here: a kubectl for each question would keep a core busy."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        data = yaml.safe_load(Path(lab.environment["KUBECONFIG"]).read_text())
        self.cluster, user = data["clusters"][0]["cluster"], data["users"][0]["user"]
        authority = base64.b64decode(self.cluster["certificate-authority-data"]).decode()
        self.context = ssl.create_default_context(cadata=authority)
        pair = folder / "pair.pem"
        parts = (user["client-certificate-data"], user["client-key-data"])
        pair.write_bytes(b"\n".join(base64.b64decode(part) for part in parts))
        self.context.load_cert_chain(pair)

    def get(self, path: str) -> str:
        """On a connection of its own. OSError where it is not answered, or not well."""
        url = f"{self.cluster['server']}{path}"
        with urllib.request.urlopen(url, context=self.context, timeout=LOST_SECONDS) as found:
            return str(found.read().decode())


@pytest.fixture(scope="module")
def admin(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    return Admin(lab, tmp_path_factory.mktemp("admin"))


def work(admin: Admin, address: str) -> dict[str, Callable[[], object]]:
    def answers() -> None:
        assert answer(address, seconds=LOST_SECONDS).startswith("pod-")

    return {"api": lambda: admin.get("/api/v1/nodes"), "service": answers}


def logs(admin: Admin) -> Callable[[], object]:
    """Through the certificates of the kubelets, one node after another.

    A kubelet before 1.36 has to be restarted to serve with another one, and says nothing meanwhile.
    """
    names = itertools.cycle(f"pod-{name[-1]}" for name in WORKERS)

    def one(path: str) -> str:
        with contextlib.suppress(OSError):
            return admin.get(path)
        return ""

    def read() -> None:
        path = f"/api/v1/namespaces/work/pods/{next(names)}/log?tailLines=1"
        assert until(lambda: one(path), RESTART_SECONDS), f"{path}: none in {RESTART_SECONDS} s"

    return read


@contextmanager
def nothing_lost(lab: Lab, asked: dict[str, Callable[[], object]]) -> Iterator[None]:
    traffic = Traffic(asked)
    try:
        yield
    finally:
        traffic.end()
    print(traffic.counts)
    assert set(traffic.counts) == set(asked)
    assert all(count > 100 for count in traffic.counts.values())
    assert not traffic.failed, "\n".join([*traffic.failed, *what_else_happened(lab)])


def what_else_happened(lab: Lab) -> list[str]:
    """Sessions by their age, and probes that found no answer: what a starved machine loses."""
    events = ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]
    return [lab.run("make", "status", check=False), lab.run("kubectl", *events, check=False)]


def containers(lab: Lab) -> dict[str, str]:
    pods = lab.kubectl("get", "pods", "--all-namespaces")["items"]
    return {
        f"{pod['metadata']['uid']} {each['name']}": each["containerID"]
        for pod in pods
        for each in pod["status"]["containerStatuses"]
    }


def with_lives_of_minutes(lab: Lab) -> None:
    """The configuration knows hours, so CFSSL itself is told; timers look four times as often."""
    lives = {"expiry": "7m", "backdate": "30s"}
    lab.on_authority(
        "python3 -",
        f"""
import json
with open("{CFSSL_CONFIGURATION}") as file:
    data = json.load(file)
data["signing"]["profiles"]["kubelet"].update({lives!r})
with open("{CFSSL_CONFIGURATION}", "w") as file:
    json.dump(data, file)
""",
    )
    lab.on_authority("systemctl restart cfssl")
    for name in WORKERS:
        folder = WORKER_ROOT.format(name) + "/etc/systemd/system/autojoin-renew.timer.d"
        lab.on_hypervisor(f"mkdir -p {folder}; cat >{folder}/often.conf <<'END'\n{OFTEN}END")
        lab.in_worker(name, "systemctl daemon-reload")
        lab.in_worker(name, "systemctl restart autojoin-renew.timer")


def shown(lab: Lab, what: str) -> dict[str, str]:
    """What openssl shows of each node's certificate."""
    show = f"openssl x509 -noout {what} -in /var/lib/kubelet/pki/kubelet-client-current.pem"
    return {name: lab.in_worker(name, show).strip() for name in WORKERS}


def serials(lab: Lab) -> dict[str, str]:
    return shown(lab, "-serial")


def test_twenty_renewals_of_each_node_disturb_nobody(lab: Lab, admin: Admin, address: str) -> None:
    with_lives_of_minutes(lab)
    before, seen = containers(lab), [serials(lab)]
    with (
        nothing_lost(lab, {**work(admin, address), "logs": logs(admin)}),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        for _ in range(20):
            said = pool.map(lambda name: lab.in_worker(name, f"{RENEW} --now"), WORKERS)
            for name, text in zip(WORKERS, said, strict=True):
                assert f"{name} renewal done: until " in text, text
            seen.append(serials(lab))
    for name in WORKERS:
        assert len({each[name] for each in seen}) == 21
    assert containers(lab) == before


def test_a_ca_host_that_is_down_for_half_a_life_costs_nothing(
    lab: Lab, admin: Admin, address: str
) -> None:
    """All of them fall due meanwhile; they renew by their timers when it is back."""
    before, first = containers(lab), serials(lab)
    with nothing_lost(lab, {**work(admin, address), "logs": logs(admin)}):
        time.sleep(75)
        assert serials(lab) == first
        script = f"ip link set host0 down; sleep {DOWN_SECONDS}; ip link set host0 up"
        lab.on_authority(f"systemd-run --collect sh -c '{script}'")
        time.sleep(DOWN_SECONDS)
        tried = {name: lab.in_worker(name, "journalctl -u autojoin-renew") for name in WORKERS}
        for text in tried.values():
            assert re.search("the join gate at .*: curl: ", text), text
        assert until(lambda: not set(serials(lab).items()) & set(first.items()), 60)
    assert containers(lab) == before
    # A kubelet that was restarted says for a moment that it is not.
    assert until(lambda: all(nodes_ready(lab).values()))
    assert [it["trouble"] for it in nodes(lab)] == [None] * len(WORKERS)


# --- a disk that is full, a clock that is wrong, a power cut ------------------------------------


def in_shell(lab: Lab, name: str, script: str) -> str:
    return lab.in_worker(name, f"sh -euc {shlex.quote(script)}").strip()


def serial(lab: Lab, name: str) -> str:
    return in_shell(lab, name, f"openssl x509 -noout -serial -in {PKI}/kubelet-client-current.pem")


def served(lab: Lab, name: str) -> str:
    """The serial number of what the kubelet shows to who asks by address, as API servers do."""
    address = lab.config["autojoin:workers"][name]["address"]
    ask = f"openssl s_client -noservername -connect {address}:10250 </dev/null 2>/dev/null"
    # Nothing where it is restarted at this moment.
    return lab.on_hypervisor(f"{ask} | openssl x509 -noout -serial 2>/dev/null || true").strip()


def renewed(lab: Lab, name: str) -> str:
    """What the script says of a renewal that must come about."""
    before = serial(lab, name)
    said = lab.in_worker(name, f"{RENEW} --now")
    assert f"{name} renewal done: until " in said, said
    after = serial(lab, name)
    assert after != before
    assert until(lambda: served(lab, name) == after)
    assert trouble(lab, name) is None
    return said


def refused(lab: Lab, name: str) -> str:
    """What it says of one that can't; the node has what it had."""
    before = serial(lab, name)
    said = lab.in_worker(name, f"{RENEW} --now || true")
    assert f"{name} renewal failed: " in said, said
    assert serial(lab, name) == served(lab, name) == before
    return said


def trouble(lab: Lab, name: str) -> str | None:
    found: dict[str, str | None] = {it["node"]: it["trouble"] for it in nodes(lab)}
    return found[name]


def in_certdb(lab: Lab) -> list[str]:
    """The serial numbers of the nodes' certificates, as openssl shows them."""
    query = "select hex(serial_number) from certificates where common_name like 'system:node:%'"
    rows = lab.on_authority(f'sqlite3 /var/lib/cfssl/certdb.sqlite "{query}"').split()
    numbers = [f"{int(bytes.fromhex(row)):X}" for row in rows]
    return [f"serial={number:0>{len(number) + len(number) % 2}}" for number in numbers]


@contextmanager
def small_disk(run: Callable[[str], object], folder: str) -> Iterator[None]:
    """A disk of its own for a folder that nobody has open; in the end it has the same as there."""
    run(
        f"cp -a {folder} /run/kept; mount -t tmpfs -o size=16m small {folder};"
        f" cp -a /run/kept/. {folder}; rm -r /run/kept"
    )
    try:
        yield
    finally:
        run(
            f"rm -f {folder}/filling; cp -a {folder} /run/kept; umount {folder};"
            f" cp -a /run/kept/. {folder}; rm -r /run/kept"
        )


def fill(folder: str) -> str:
    return f"! dd if=/dev/zero of={folder}/filling bs=4k 2>/dev/null"


@pytest.fixture
def quiet(lab: Lab) -> Iterator[str]:
    """A worker that renews where the test wants it to; its timer goes on in the end."""
    name = WORKERS[0]
    lab.in_worker(name, "systemctl stop autojoin-renew.timer")
    yield name
    lab.in_worker(name, "systemctl start autojoin-renew.timer")


def test_a_full_disk_of_a_node_is_told_and_costs_nothing(
    lab: Lab, admin: Admin, address: str, quiet: str
) -> None:
    def on_node(script: str) -> str:
        return in_shell(lab, quiet, script)

    asked = {**work(admin, address), "logs": logs(admin)}
    with nothing_lost(lab, asked), small_disk(on_node, PKI):
        on_node(fill(PKI))
        told = f"the disk is full: 0 KiB are free at {PKI}"
        assert told in refused(lab, quiet)
        assert told in str(trouble(lab, quiet))
        assert told in lab.make("status", expect=1)
        on_node(f"rm {PKI}/filling")
        renewed(lab, quiet)


def test_a_full_disk_of_the_ca_host_is_told_and_costs_nothing(
    lab: Lab, admin: Admin, address: str, quiet: str
) -> None:
    """Of CFSSL's books, and of the gate's own; the services are restarted onto the small disks."""

    def on_authority(script: str) -> None:
        lab.on_authority(f"systemctl stop join-gate ocsp-responder cfssl; {script}")
        lab.on_authority(
            "systemctl start cfssl ocsp-responder join-gate;"
            " until curl -sk -o /dev/null https://127.0.0.1:8443/healthz; do sleep 0.1; done"
        )

    with nothing_lost(lab, {**work(admin, address), "logs": logs(admin)}):
        for books in ("/var/lib/cfssl", "/var/lib/join-gate"):
            with small_disk(on_authority, books):
                lab.on_authority(fill(books))
                known = in_certdb(lab)
                assert "database or disk is full" in refused(lab, quiet)
                assert in_certdb(lab) == known
                lab.on_authority(f"rm {books}/filling")
                renewed(lab, quiet)
        assert set(serials(lab).values()) <= set(in_certdb(lab))


@contextmanager
def wrong_clock(run: Callable[[str], object], unit: str, ahead: int) -> Iterator[None]:
    """For what a service starts, but for programs in Go. In the end it has its machine's again."""
    drop_in = f"/run/systemd/system/{unit}.service.d"
    lines = (
        "[Service]",
        f"Environment=LD_PRELOAD={CLOCK} FAKETIME={ahead:+}s DONT_FAKE_MONOTONIC=1",
    )
    write = " ".join(shlex.quote(line) for line in lines)
    run(f"mkdir -p {drop_in}; printf '%s\\n' {write} >{drop_in}/clock.conf; {RELOAD}")
    try:
        yield
    finally:
        run(f"rm {drop_in}/clock.conf; {RELOAD}")


def test_a_clock_that_is_wrong_costs_nothing_and_is_told(
    lab: Lab, admin: Admin, address: str, quiet: str
) -> None:
    """That of a node's script, openssl and curl; then the gate's. Kubelet and CFSSL have theirs."""
    library = base64.b64encode(Path(TEST_PACKAGES["libfaketime"]).read_bytes()).decode()
    hypervisor = lab.config["autojoin:provisioning"]["hypervisor"]
    lab.ssh(hypervisor, f"base64 -d >{WORKER_ROOT.format(quiet)}{CLOCK}", library)
    lab.on_authority(f"base64 -d >{CLOCK}", library)

    def on_node(script: str) -> str:
        return in_shell(lab, quiet, script)

    def by_unit(words: str) -> str:
        """What the real unit says, run once with these words."""
        return on_node(
            f"mkdir -p {DROP_IN}; printf '%s\\n' [Service] ExecStart= 'ExecStart={words}'"
            f" >{DROP_IN}/words.conf; {RELOAD}; since=$(date +%s);"
            " systemctl start autojoin-renew || true; sleep 0.5;"
            " journalctl --unit autojoin-renew --output cat --no-pager --since @$since"
        )

    with nothing_lost(lab, {**work(admin, address), "logs": logs(admin)}):
        renewed(lab, quiet)
        first = serial(lab, quiet)
        with wrong_clock(on_node, "autojoin-renew", 3600):
            assert "renewal" not in by_unit(RENEW) and serial(lab, quiet) == first
            said = by_unit(f"{RENEW} --now")
            assert re.search("renewal done: .*: the clock is 3[56][0-9]{2} s ahead of the", said)
            assert (second := serial(lab, quiet)) != first
        with wrong_clock(on_node, "autojoin-renew", -3600):
            said = by_unit(f"{RENEW} --now")
            assert re.search("not yet valid: the clock is 3[56][0-9]{2} s behind the join g", said)
            assert serial(lab, quiet) == second
        on_node(f"rm {DROP_IN}/words.conf; {RELOAD}")
        with wrong_clock(lab.on_authority, "join-gate", 3600):
            lab.on_authority("systemctl restart join-gate")
            assert "look at the clock of the CA host" in refused(lab, quiet)
        lab.on_authority("systemctl restart join-gate")
        renewed(lab, quiet)


def cut_off(lab: Lab, name: str, at: int) -> None:
    """Start the real unit, which stops for good at its command of that number."""
    path = f"Environment=PATH={CUT}/bin:/usr/bin:/bin"
    in_shell(
        lab,
        name,
        f"mkdir -p {CUT}/bin {DROP_IN}; cd {CUT}; echo {at} >at; : >calls;"
        f" printf %s {shlex.quote(STOPPING)} >stopping; chmod 755 stopping;"
        f" for tool in {' '.join(TOOLS)}; do ln -s ../stopping bin/$tool; done;"
        f" printf '%s\\n' [Service] {path} ExecStart= 'ExecStart={RENEW} --now'"
        f" >{DROP_IN}/cut.conf; systemctl stop autojoin-renew.timer;"
        f" {RELOAD}; systemctl start --no-block autojoin-renew",
    )


def calls(lab: Lab, name: str) -> list[str]:
    return in_shell(lab, name, f"cat {CUT}/calls").splitlines()


def test_a_power_cut_at_any_point_of_a_renewal_burns_no_node(lab: Lab, address: str) -> None:
    """All processes of a worker are killed where its script is, and it boots again.

    Each at one of the commands that ask or change something, from another third of them. What the
    kernel has not written yet is not lost: it is the kernel of the machine that the lab runs on.
    """
    before = serial(lab, WORKERS[0])
    cut_off(lab, WORKERS[0], 10000)
    assert until(lambda: served(lab, WORKERS[0]) == serial(lab, WORKERS[0]) != before)
    state = "systemctl show --property=ActiveState --value autojoin-renew"
    assert until(lambda: in_shell(lab, WORKERS[0], state) == "inactive")
    counted = calls(lab, WORKERS[0])
    in_shell(lab, WORKERS[0], f"rm -r {CUT} {DROP_IN}; {RELOAD}")
    # Two more after the link; how often it looks then what is served is another number each time.
    ended = len(counted) - counted[::-1].index("ln") + 2
    changing = [number for number, tool in enumerate(counted[:ended], 1) if tool in CHANGING]
    chance, part = random.Random(SEED), len(changing) // len(WORKERS)
    parts = [changing[part * it : part * (it + 1)] for it in range(len(WORKERS))]
    points = [chance.choice(it) for it in parts]
    boots = {name: it["bootID"] for name, it in node_infos(lab).items()}

    def cut(name: str, at: int) -> str:
        cut_off(lab, name, at)
        assert until(lambda: "reached" in in_shell(lab, name, f"ls {CUT}"))
        tool = calls(lab, name)[at - 1]
        unit = f"autojoin-machine-dev@{name}"
        lab.on_hypervisor(
            f"systemctl kill --signal=KILL --kill-whom=all {unit};"
            f" while systemctl is-active --quiet {unit}; do sleep 0.1; done;"
            f" systemctl reset-failed {unit}; systemctl start {unit}"
        )
        return f"{name} at command {at}, {tool}"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        print(list(pool.map(cut, WORKERS, points)))
    assert until(lambda: all(it["bootID"] != boots[name] for name, it in node_infos(lab).items()))
    assert until(lambda: all(nodes_ready(lab).values()))
    known = in_certdb(lab)
    for name, found in serials(lab).items():
        assert found in known
        pair = f"{PKI}/kubelet-client-current.pem"
        keys = f"$(openssl x509 -noout -pubkey -in {pair})", f"$(openssl pkey -pubout -in {pair})"
        in_shell(lab, name, f'[ "{keys[0]}" = "{keys[1]}" ]')
        renewed(lab, name)
    lab.run("kubectl", "-n", "work", "wait", "--for=condition=Ready", "pod", "--all",
            "--timeout=120s")  # fmt: skip
    assert until(lambda: ask(address))
    lab.well()


def node_infos(lab: Lab) -> dict[str, dict[str, str]]:
    found = lab.kubectl("get", "nodes")["items"]
    return {node["metadata"]["name"]: node["status"]["nodeInfo"] for node in found}


def nodes_ready(lab: Lab) -> dict[str, bool]:
    return {
        node["metadata"]["name"]: any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in node["status"]["conditions"]
        )
        for node in lab.kubectl("get", "nodes")["items"]
    }


@pytest.fixture(scope="module")
def replacing(lab: Lab, admin: Admin, address: str) -> Iterator[None]:
    """From the API server, restarted by its owner for the first edit, to the end of all."""
    lab.on_authority(MAKE)
    new = lab.on_authority(f"cat {NEW['certificate']}")
    old = lab.on_authority(f"cat {OLD['certificate']}")
    lab.on_hypervisor(f"cat >{API_SERVERS} <<'END'\n{old.strip()}\n{new.strip()}\nEND")
    lab.on_hypervisor("systemctl restart kube-apiserver")
    assert until(lambda: lab.run("kubectl", "get", "--raw", "/readyz", check=False) == "ok")
    with nothing_lost(lab, work(admin, address)):
        yield


def nodes(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        lab.on_authority("/usr/local/lib/autojoin/gate status")
    )["nodes"]
    return found


def edit(lab: Lab, signs: dict[str, str], also: dict[str, str] | None) -> None:
    def change(config: dict[str, Any]) -> None:
        authority = config["autojoin:certificateAuthority"]
        authority.pop("also", None)
        authority |= {**signs, **({"also": also} if also else {})}

    lab.edit(change)


def nodes_are(lab: Lab) -> dict[str, str]:
    found = lab.kubectl("get", "nodes")["items"]
    return {it["metadata"]["name"]: it["metadata"]["uid"] for it in found}


def step(lab: Lab, signs: dict[str, str], also: dict[str, str] | None) -> None:
    """An edit, its preview, its `up`, and what nodes do within the hour."""
    edit(lab, signs, also)
    before = nodes_are(lab)
    previewed = lab.make("preview")
    for name in WORKERS:
        assert f"~ {name}: known only after the CA host ran" in previewed, previewed
    assert previewed.count(KEEPS) == len(WORKERS)
    assert "revoked of" not in previewed and "issued to" not in previewed
    lab.make("up")
    assert nodes_are(lab) == before
    for name in WORKERS:
        lab.in_worker(name, "rm -f /run/autojoin/trust-asked")
    assert until(lambda: all(it["trusts"] and it["ofSigner"] for it in nodes(lab)), 240), nodes(lab)


def issuers(lab: Lab) -> set[str]:
    return set(shown(lab, "-issuer -nameopt RFC2253").values())


def test_a_new_one_can_not_sign_at_one_blow(lab: Lab, replacing: None) -> None:
    edit(lab, NEW, OLD)
    said = lab.make("up", expect=1)
    assert "the CA that is to sign is trusted by no node: name it as `also` first" in said
    assert "nothing was changed" in said


def test_both_are_trusted(lab: Lab, replacing: None) -> None:
    step(lab, OLD, NEW)
    assert issuers(lab) == {"issuer=CN=kubernetes-ca"}
    certificates = "grep -c BEGIN /etc/autojoin/ca.pem"
    assert {lab.in_worker(name, certificates).strip() for name in WORKERS} == {"2"}


def test_the_new_one_signs_and_all_renew(lab: Lab, replacing: None) -> None:
    step(lab, NEW, OLD)
    assert issuers(lab) == {"issuer=CN=kubernetes"}
    # The API server believes the kubelets that serve with it.
    for name in WORKERS:
        assert inside(lab, f"pod-{name[-1]}", "hostname").strip() == f"pod-{name[-1]}"


def test_the_old_one_goes(lab: Lab, replacing: None) -> None:
    step(lab, NEW, None)
    certificates = "grep -c BEGIN /etc/autojoin/ca.pem"
    assert {lab.in_worker(name, certificates).strip() for name in WORKERS} == {"1"}
    assert "unchanged" in lab.make("up")
    lab.well()
