"""join.sh for real: openssl, curl and a shell against a gate and an API server on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.workers.cloud_init import JOIN_SCRIPT
from tests.unit.components.workers.fake_cluster import Authority, FakeCluster, listen, refusal

NODE = "worker-1"
PHASES = ["clock", "authority", "certificate", "runtime", "kubelet", "node", "ready"]
TOOLS = (
    *("openssl", "curl", "sha256sum", "base64", "tr", "cut", "sed", "head", "tail", "date"),
    *("mkfifo", "mkdir", "mv", "rm", "ln", "cat", "sync", "flock", "sleep", "df", "awk"),
)
BUSYBOX = "/usr/bin/busybox"


class Machine:
    """A root folder with what cloud-init would have written, and tools that log their arguments."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.tools = folder / "tools"
        self.arguments = folder / "arguments"
        self.kubelet_started = self.root / "kubelet-started"
        self.join_key_file = self.root / "etc/autojoin/join-key"
        self.key_file = self.root / "var/lib/kubelet/pki/kubelet.key"
        self.certificate_file = self.root / "var/lib/kubelet/pki/kubelet.crt"
        self.boot_id = self.root / "proc/sys/kernel/random/boot_id"
        for directory in ("etc/autojoin", "run", "proc/sys/kernel/random", "var/lib"):
            (self.root / directory).mkdir(parents=True)
        self.tools.mkdir()
        for tool in TOOLS:
            self._tool(tool, f'exec "$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v {tool})" "$@"')
        for tool in ("modprobe", "sysctl"):
            self._tool(tool, ":")
        self._tool("systemctl", f': >"{self.kubelet_started}"')
        kubelet = self.root / "usr/bin/kubelet"
        kubelet.parent.mkdir(parents=True)
        kubelet.touch(0o755)
        self._tool("journalctl", "echo the last line of the kubelet")

    def _tool(self, name: str, action: str) -> None:
        path = self.tools / name
        path.write_text(
            "#!/bin/dash\n"
            f'printf "%s\\n" "{name} $*" >>"{self.arguments}"\n'
            f'[ -z "${{KILL_AT:-}}" ] || [ "$(wc -l <"{self.arguments}")" -lt "$KILL_AT" ] ||'
            " kill -9 0\n"
            f"{action}\n"
        )
        path.chmod(0o755)

    def use_busybox(self) -> None:
        """Every tool that busybox has by busybox, as on Alpine."""
        listed = subprocess.check_output([BUSYBOX, "--list"], text=True).split()
        for tool in set(TOOLS) & set(listed):
            self._tool(tool, f'exec {BUSYBOX} {tool} "$@"')

    def seed(self, cluster: FakeCluster, identity: str = "worker-1-g1-0", **extra: str) -> None:
        """What cloud-init writes (for an identity), and what a boot provides."""
        folder = self.root / "etc/autojoin"
        environment = {
            "NODE": NODE,
            "ADDRESSES": "10.0.0.11 fd00::11",
            "IDENTITY": identity,
            "GATE_URL": cluster.gate_url,
            "API_SERVER": cluster.api_url,
            "NODE_KEY": "ecdsa-p256",
            "NOT_BEFORE": "1700000000",
            "RUNTIME_SOCKET": "/run/containerd.sock",
            "KUBELET_HEALTH": cluster.health_url,
        } | extra
        (folder / "ca.pem").write_text(cluster.authority.pem)
        (folder / "join.env").write_text("".join(f"{k}='{v}'\n" for k, v in environment.items()))
        self.join_key_file.write_text(cluster.join_key + "\n")
        self.boot_id.write_text(cluster.boot_id + "\n")

    def environment(self, **extra: str) -> dict[str, str]:
        return {"PATH": f"{self.tools}:/usr/bin:/bin", "AUTOJOIN_ROOT": str(self.root)} | extra

    def join(
        self, shell: str = "dash", *arguments: str, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the script in its own process group, which KILL_AT kills whole (a power cut)."""
        process = subprocess.Popen(
            [*shell.split(), str(JOIN_SCRIPT), *arguments],
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, "")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    # A socket's path is short by law; the test's folder is not.
    with listen_in(machine):
        yield machine


class listen_in:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def __enter__(self) -> None:
        here = Path.cwd()
        os.chdir(self.machine.root / "run")
        self.socket = listen(Path("containerd.sock"))
        os.chdir(here)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def cluster(tmp_path: Path, machine: Machine) -> Iterator[FakeCluster]:
    key = secrets.token_hex(32)
    with FakeCluster(tmp_path, NODE, key, machine.kubelet_started) as cluster:
        machine.seed(cluster)
        yield cluster


def public_key(machine: Machine) -> bytes:
    key = serialization.load_pem_private_key(machine.key_file.read_bytes(), None)
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("shell", ["dash", "bash --posix", f"{BUSYBOX} ash"])
def test_joins(machine: Machine, cluster: FakeCluster, shell: str) -> None:
    if shell.startswith(BUSYBOX):
        machine.use_busybox()
    done = machine.join(shell)
    assert done.returncode == 0, done.stdout
    assert cluster.phases_done() == PHASES, done.stdout
    request = cluster.requests[0]
    assert request["hosts"] == [NODE, "10.0.0.11", "fd00::11"]
    assert request["profile"] == "kubelet"
    csr = x509.load_pem_x509_csr(request["certificate_request"].encode())
    assert csr.subject.rfc4514_string() == f"CN=system:node:{NODE},O=system:nodes"
    assert machine.certificate_file.read_text().strip() == cluster.issued[0].strip()
    pair = machine.certificate_file.with_name("kubelet-client-current.pem")
    assert pair.is_symlink()
    assert pair.read_text() == machine.certificate_file.read_text() + machine.key_file.read_text()
    assert machine.key_file.stat().st_mode & 0o777 == 0o600
    assert not machine.join_key_file.exists()
    wants = machine.root / "etc/systemd/system/multi-user.target.wants"
    assert sorted(path.name for path in wants.iterdir()) == [
        "autojoin-join.service",
        "autojoin-renew.timer",
        "kubelet.service",
    ]
    assert "systemctl start --no-block autojoin-renew.timer" in machine.arguments.read_text()


def test_joins_with_an_intermediate_authority(machine: Machine, tmp_path: Path) -> None:
    """What is pinned is trusted, without the chain above it."""
    key, below = secrets.token_hex(32), Authority("below", Authority("root"))
    with FakeCluster(tmp_path, NODE, key, machine.kubelet_started, authority=below) as cluster:
        machine.seed(cluster)
        done = machine.join()
        assert done.returncode == 0, done.stdout
        assert cluster.phases_done() == PHASES


def test_joins_where_the_api_servers_authority_is_another(machine: Machine, tmp_path: Path) -> None:
    key, other = secrets.token_hex(32), Authority("the API server's")
    started = machine.kubelet_started
    with FakeCluster(tmp_path, NODE, key, started, api_authority=other) as cluster:
        pinned = "/etc/autojoin/api-server-ca.pem"
        machine.seed(cluster, API_SERVER_AUTHORITY=pinned)
        (machine.root / pinned[1:]).write_text(other.pem)
        done = machine.join()
        assert done.returncode == 0, done.stdout
        assert cluster.phases_done() == PHASES


RESOLVED = "resolvConf: /run/systemd/resolve/resolv.conf\n"


@pytest.mark.parametrize(
    ("before", "resolved", "after"),
    [
        ("kind: K\n", True, f"kind: K\n{RESOLVED}"),
        ("kind: K\n", False, "kind: K\n"),
        ("resolvConf: /etc/mine\n", True, "resolvConf: /etc/mine\n"),
        (f"kind: K\n{RESOLVED}", True, f"kind: K\n{RESOLVED}"),
    ],
)
def test_pods_ask_the_resolvers_behind_systemds_own(
    machine: Machine, cluster: FakeCluster, before: str, resolved: bool, after: str
) -> None:
    """Its stub in /etc/resolv.conf would be the pod's own address, and CoreDNS a loop."""
    configuration = machine.root / "etc/kubernetes/kubelet.yaml"
    configuration.parent.mkdir()
    configuration.write_text(before)
    if resolved:
        there = machine.root / "run/systemd/resolve/resolv.conf"
        there.parent.mkdir(parents=True)
        there.write_text("nameserver 192.168.10.1\n")
    assert machine.join().returncode == 0
    assert configuration.read_text() == after


def test_no_secret_is_an_argument(machine: Machine, cluster: FakeCluster) -> None:
    key = bytes.fromhex(cluster.join_key)
    assert machine.join().returncode == 0
    arguments = machine.arguments.read_text()
    assert "openssl req" in arguments and "/v1/progress" in arguments
    for form in (cluster.join_key, base64.b64encode(key).decode(), cluster.join_key[:16]):
        assert form not in arguments
    private_key = machine.key_file.read_text().splitlines()[1]
    assert private_key not in arguments


def test_rsa_key_by_choice(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, NODE_KEY="rsa-2048")
    done = machine.join()
    assert done.returncode == 0, done.stdout
    key = serialization.load_pem_private_key(machine.key_file.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey) and key.key_size == 2048


def test_a_seed_without_a_join_key_says_so_and_is_not_retried(
    machine: Machine, cluster: FakeCluster
) -> None:
    machine.join_key_file.write_text("REDACTED\n")
    done = machine.join()
    assert done.returncode == 3
    assert "the seed holds no join key (REDACTED)" in done.stdout
    assert cluster.requests == []


def test_a_machine_without_kubelet_says_so(machine: Machine, cluster: FakeCluster) -> None:
    (machine.root / "usr/bin/kubelet").unlink()
    done = machine.join()
    assert done.returncode == 1
    assert "kubelet failed: there is no /usr/bin/kubelet" in done.stdout
    assert ("kubelet", "failed") in {event[:2] for event in cluster.events}


def test_packages_come_first_and_are_tried_again(machine: Machine, cluster: FakeCluster) -> None:
    program = machine.root / "usr/local/lib/autojoin/install-packages"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\n[ -e "{machine.root}/tried" ] || {{ : >"{machine.root}/tried"; '
        "echo apt-get update failed; exit 1; }\n"
    )
    program.chmod(0o755)
    done = machine.join()
    assert done.returncode == 0, done.stdout
    assert cluster.phases_done()[:2] == ["clock", "packages"]
    assert ("packages", "started", "apt-get update failed") in cluster.events


PAGE = 4096


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A disk of its own for what is in `folder`; a call leaves so many pages free on it."""
    kept = folder.with_name("kept")
    folder.mkdir(parents=True, exist_ok=True)
    folder.rename(kept)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", folder], check=True)
    filling = folder / "filling"

    def leave(pages: int) -> None:
        filling.unlink(missing_ok=True)
        filling.write_bytes(b"x" * max(0, os.statvfs(folder).f_bfree - pages) * PAGE)

    try:
        subprocess.run(["cp", "-a", f"{kept}/.", folder], check=True)
        yield leave
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_a_full_disk_is_named_and_burns_no_join_key(
    machine: Machine, cluster: FakeCluster, pages: int
) -> None:
    """Full for the key, for the certificate, or for both in one file."""
    folder = machine.key_file.parent
    with small_disk(folder) as leave:
        leave(pages)
        done = machine.join()
        assert done.returncode != 0
        assert f"certificate failed: the disk is full: 0 KiB are free at {folder}" in done.stdout
        assert ("certificate", "failed") in {event[:2] for event in cluster.events}
        leave(16)
        done = machine.join()
        assert done.returncode == 0, done.stdout


def test_a_clock_ahead_waits_for_time(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, WAIT_SECONDS="1")
    machine._tool(
        "openssl",
        'if [ "$1" = verify ]; then echo "error 10: certificate has expired"; exit 2; fi\n'
        'exec "$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v openssl)" "$@"',
    )
    done = machine.join()
    assert done.returncode == 1
    assert "after the new certificate's end; waiting for time (waited 1 s)" in done.stdout


def test_refusal_names_the_message_once_and_is_not_retried(
    machine: Machine, cluster: FakeCluster
) -> None:
    message = 'already joined as "x"; raise its generation to join it anew'
    cluster.before_answer = lambda _: refusal(403, message)
    done = machine.join()
    assert done.returncode == 3, done.stdout
    assert len(cluster.requests) == 1
    failed = [event for event in cluster.events if event[1] == "failed"]
    shown = message.replace('"', "'")
    assert failed == [("certificate", "failed", f"the join gate refused (403): {shown}")]
    assert machine.join_key_file.exists()


def test_gate_in_trouble_is_asked_again(machine: Machine, cluster: FakeCluster) -> None:
    cluster.before_answer = lambda count: refusal(503, "busy") if count < 3 else None
    done = machine.join()
    assert done.returncode == 0, done.stdout
    assert len(cluster.requests) == 3
    assert ("certificate", "started", "the join gate answered 503: busy") in cluster.events
    assert cluster.requests[0] == cluster.requests[2]


def test_gate_out_of_reach_ends_bounded_and_names_the_error(
    machine: Machine, cluster: FakeCluster
) -> None:
    machine.seed(cluster, GATE_URL="https://127.0.0.1:1", WAIT_SECONDS="1")
    done = machine.join()
    assert done.returncode == 1
    assert "authority failed: the join gate at https://127.0.0.1:1: curl: (7)" in done.stdout
    assert "(waited 1 s)" in done.stdout


def test_gate_of_another_authority_gets_nothing(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, WAIT_SECONDS="1")
    (machine.root / "etc/autojoin/ca.pem").write_text(Authority("somebody else").pem)
    done = machine.join()
    assert done.returncode == 1
    assert cluster.requests == []
    assert "curl: (60)" in done.stdout


def test_foreign_certificates_are_not_installed(machine: Machine, cluster: FakeCluster) -> None:
    other = Authority("somebody else")

    def signed_elsewhere(certificate: str) -> str:
        original = x509.load_pem_x509_certificate(certificate.encode())
        return other.sign(original.subject, original.public_key(), None)

    cluster.change_certificate = signed_elsewhere
    done = machine.join()
    assert done.returncode == 3
    assert "certificate is not from the authority" in done.stdout
    cluster.change_certificate = lambda _: cluster.authority.pem
    done = machine.join()
    assert done.returncode == 3
    assert "not for this key and name" in done.stdout
    cluster.change_certificate = lambda _: "nonsense"
    done = machine.join()
    assert done.returncode == 3
    assert "holds no certificate" in done.stdout
    assert not machine.certificate_file.exists()


def test_valid_certificate_is_kept(machine: Machine, cluster: FakeCluster) -> None:
    assert machine.join().returncode == 0
    first = machine.certificate_file.read_text()
    machine.seed(cluster)
    cluster.events.clear()
    assert machine.join().returncode == 0
    assert machine.certificate_file.read_text() == first
    assert len(cluster.issued) == 1
    assert ("certificate", "done", "kept") in cluster.events


def test_next_generation_gets_a_new_key(machine: Machine, cluster: FakeCluster) -> None:
    assert machine.join().returncode == 0
    first = public_key(machine)
    machine.seed(cluster, identity="worker-1-g2-0")
    cluster.bound_key = None
    assert machine.join().returncode == 0
    assert public_key(machine) != first
    assert len(cluster.issued) == 2
    assert "systemctl restart --no-block kubelet.service" in machine.arguments.read_text()


def test_joined_machine_does_nothing(machine: Machine, cluster: FakeCluster) -> None:
    assert machine.join().returncode == 0
    cluster.events.clear()
    done = machine.join()
    assert (done.returncode, done.stdout, cluster.events) == (0, "", [])


def test_power_cut_at_any_command_still_ends_joined(machine: Machine, cluster: FakeCluster) -> None:
    """Kills everything at the n-th command, throughout a whole join, then boots again."""
    assert machine.join().returncode == 0
    commands = len(machine.arguments.read_text().splitlines())
    assert commands > 20
    for count in range(1, commands + 1, 4):  # every fourth: each costs two joins
        forget(machine, cluster)
        killed = machine.join(KILL_AT=str(count))
        machine.arguments.write_text("")
        await_end(machine)
        again = machine.join()
        case = f"killed at command {count} of {commands} ({killed.returncode})"
        assert again.returncode == 0, f"{case}: {again.stdout}"
        assert not machine.join_key_file.exists(), case
        assert public_key(machine) == cluster.bound_key, case


def test_a_power_cut_takes_what_is_in_the_memory_alone(tmp_path: Path) -> None:
    """On a disk whose file system writes names down after a second and contents after thirty."""
    image, root = tmp_path / "disk", tmp_path / "machine"
    root.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image), "64M"], check=True)
    mount = ["mount", "--options", "loop,commit=1", str(image), str(root)]
    with ExitStack() as stack:
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(root)])
        machine = Machine(root)
        cluster = stack.enter_context(
            FakeCluster(tmp_path, NODE, secrets.token_hex(32), machine.kubelet_started)
        )
        machine.seed(cluster, WAIT_SECONDS="1")
        resolvers = machine.root / RESOLVED.split()[1][1:]
        resolvers.parent.mkdir(parents=True)
        resolvers.touch()
        kubelet = machine.root / "etc/kubernetes/kubelet.yaml"
        kubelet.parent.mkdir()
        kubelet.write_text("kind: K\n")
        cluster.ready = False
        with listen_in(machine):
            assert "ready failed" in machine.join().stdout
        time.sleep(2)
        cut = shutil.copyfile(image, tmp_path / "cut")
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        cut.rename(image)
        subprocess.run(mount, check=True)
        assert kubelet.read_text() == f"kind: K\n{RESOLVED}"
        assert (machine.root / "var/lib/autojoin/kept").exists()
        cluster.ready = True
        (machine.root / "run/containerd.sock").unlink(missing_ok=True)
        with listen_in(machine):
            again = machine.join()
        assert again.returncode == 0, again.stdout
        assert public_key(machine) == cluster.bound_key


def await_end(machine: Machine) -> None:
    """A power cut ends the killed shell's children too; here they may hold its lock a while."""
    lock = machine.root / "run/autojoin/lock"
    if lock.exists():
        subprocess.run(["flock", "--wait", "30", str(lock), "true"], check=True)


def forget(machine: Machine, cluster: FakeCluster) -> None:
    """A fresh disk and a fresh registration."""
    for path in (machine.key_file.parent, machine.root / "var/lib/autojoin"):
        for file in path.iterdir():
            file.unlink()
    machine.arguments.write_text("")
    machine.kubelet_started.unlink(missing_ok=True)
    cluster.bound_key = None
    machine.seed(cluster)


def test_node_of_an_earlier_boot_does_not_count(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, WAIT_SECONDS="1")
    machine.boot_id.write_text("another-boot\n")
    done = machine.join()
    assert done.returncode == 1
    assert "node failed: the API server has no Node of this machine yet" in done.stdout


def test_node_that_does_not_become_ready_says_why(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, WAIT_SECONDS="1")
    cluster.ready = False
    done = machine.join()
    assert done.returncode == 1
    assert "ready failed: the node is not Ready: no CNI (waited 1 s)" in done.stdout
    assert machine.join_key_file.exists()


def test_clock_behind_the_authority_waits(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, NOT_BEFORE="99999999999", WAIT_SECONDS="1")
    done = machine.join()
    assert done.returncode == 1
    assert "clock failed: the clock says 20" in done.stdout
    assert cluster.requests == []


def test_runtime_that_does_not_answer(machine: Machine, cluster: FakeCluster) -> None:
    machine.seed(cluster, RUNTIME_SOCKET="/run/nothing.sock", WAIT_SECONDS="1")
    done = machine.join()
    assert done.returncode == 1
    assert "runtime failed: the container runtime does not answer at /run/nothing.sock" in (
        done.stdout
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    key=st.binary(min_size=1, max_size=64),
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_hmac_is_hmac(
    tmp_path_factory: pytest.TempPathFactory, shell: str, key: bytes, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hmac"
    folder.mkdir(exist_ok=True)
    (folder / "join-key").write_text(key.hex() + "\n")
    functions = JOIN_SCRIPT.read_text().rpartition("\nmain\n")[0]
    program = f'{functions}\nJOIN_KEY="{folder}/join-key"\nprepare_hmac\nhmac "$(cat; echo .)"\n'
    result = subprocess.run(
        [shell, "-c", program], input=text.encode(), capture_output=True, check=True
    )
    # The appended dot keeps trailing newlines through the command substitution.
    expected = hmac.new(key, text.encode() + b".", hashlib.sha256).digest()
    assert base64.b64decode(result.stdout) == expected
