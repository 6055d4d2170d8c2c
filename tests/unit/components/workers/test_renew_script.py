"""join.sh renews for real: openssl, curl and a shell against the real gate and a real CFSSL."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from components.workers.cloud_init import JOIN_SCRIPT
from tests.unit.components.join_gate.gate_host import (
    ADDRESS,
    HOURS,
    Clock,
    Gate,
    Host,
    TestNode,
    answers,
    free_port,
    pem,
    registered,
    running,
)
from tests.unit.components.workers.test_join_script import BUSYBOX, Machine, await_end, small_disk


class Joined(Machine):
    """A machine whose node has joined at the real gate."""

    def __init__(self, folder: Path, host: Gate, node: TestNode) -> None:
        super().__init__(folder)
        self.host, self.node = host, node
        self.pki = self.key_file.parent
        self.pki.mkdir(parents=True)
        self.clock = Clock(folder / "clock")
        shown = host.join(node)
        self.pair.write_text(f"{shown.certificate}\n{pem(node.key)}")
        self.pair.with_name("kubelet-client-current.pem").symlink_to(self.pair.name)
        (self.root / "etc/autojoin/ca.pem").write_bytes(host.authority.read_bytes())
        # The node's address is nobody's here, and asking it would take as long as it may.
        self._tool("timeout", "exit 1")
        self.configure()

    def configure(self, **extra: str) -> None:
        url = f"https://{self.host.address}:{self.host.port}"
        environment = {"NODE": self.node.name, "ADDRESSES": ADDRESS, "GATE_URL": url}
        environment |= {"NODE_KEY": "ecdsa-p256", "WAIT_SECONDS": "2"} | extra
        lines = "".join(f"{key}='{value}'\n" for key, value in environment.items())
        (self.root / "etc/autojoin/join.env").write_text(lines)

    @property
    def pair(self) -> Path:
        return self.pki / "kubelet-client-autojoin.pem"

    @property
    def certificate(self) -> x509.Certificate:
        """Of what the kubelet would read; its key must be the one beside it."""
        data = (self.pki / "kubelet-client-current.pem").read_bytes()
        certificate = x509.load_pem_x509_certificate(data)
        key = serialization.load_pem_private_key(data[data.index(b"-----BEGIN PRIVATE") :], None)
        assert key.public_key() == certificate.public_key()
        return certificate

    def renew(
        self, *words: str, shell: str = "dash", **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return self.join(shell, "renew", *words, **extra)

    def set_clock(self, moment: datetime.datetime) -> None:
        self.clock.set((moment - datetime.datetime.now(datetime.UTC)).total_seconds())

    def environment(self, **extra: str) -> dict[str, str]:
        return super().environment(**self.clock.environment, **extra)

    def rows(self) -> list[tuple[str, int]]:
        assert isinstance(self.host, Host)
        return self.host.rows(self.node.name)

    def trouble(self) -> str | None:
        assert isinstance(self.host, Host)
        found: str | None = json.loads(self.host.run("status", self.node.name).stdout)["trouble"]
        return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running(tmp_path_factory.mktemp("authority")) as host:
        yield host


@pytest.fixture
def machine(host: Host, tmp_path: Path) -> Joined:
    return Joined(tmp_path, host, registered(host))


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Joined]:
    """At a gate of its own, whose clock may be wrong."""
    folders = [tmp_path / name for name in ("authority", "machine")]
    for folder in folders:
        folder.mkdir()
    with running(folders[0]) as host:
        yield Joined(folders[1], host, registered(host))


def set_clock_of_gate(machine: Joined, ahead: float) -> None:
    assert isinstance(machine.host, Host)
    machine.host.stop("gate")
    machine.host.clock.set(ahead)
    machine.host.start_gate()


@pytest.mark.parametrize("shell", ["dash", "bash --posix", f"{BUSYBOX} ash"])
def test_renews_again_and_again(machine: Joined, shell: str) -> None:
    if shell.startswith(BUSYBOX):
        machine.use_busybox()
    found = [machine.certificate]
    for _ in range(3):
        done = machine.renew("--now", shell=shell)
        assert done.returncode == 0, done.stdout
        assert f"{machine.node.name} renewal done: until " in done.stdout
        found.append(machine.certificate)
    assert len({it.serial_number for it in found}) == 4
    keys = [it.public_key() for it in found]
    assert all(keys.count(key) == 1 for key in keys)
    assert machine.rows() == [("good", 0)] * 4
    assert sorted(path.name for path in machine.pki.iterdir()) == [
        "kubelet-client-autojoin.pem",
        "kubelet-client-current.pem",
        "kubelet.crt",
        "kubelet.key",
    ]
    assert machine.pair.stat().st_mode & 0o777 == 0o600
    assert machine.pair.read_text() == machine.certificate_file.read_text() + (
        machine.key_file.read_text()
    )


@pytest.mark.parametrize("busybox", [False, True])
@pytest.mark.parametrize("heard", [False, True])
def test_at_two_thirds_of_its_life_or_a_twelfth_before(
    apart: Joined, busybox: bool, heard: bool
) -> None:
    """By the gate's clock where it is heard, else by the machine's."""
    if busybox:
        apart.use_busybox()
    life = HOURS * 3600
    serial = apart.certificate.serial_number
    for part in (0.0, 0.3, 0.58):
        if heard:
            set_clock_of_gate(apart, life * part)
        else:
            apart.configure(GATE_URL="https://127.0.0.1:1")
            apart.clock.set(life * part)
        (apart.root / "run/autojoin/trust-asked").unlink(missing_ok=True)
        done = apart.renew()
        assert done.returncode == 0
        wrong = f"{apart.node.name}: the clock is " if heard and part else ""
        assert done.stdout.startswith(wrong) and bool(done.stdout) == bool(wrong)
    assert apart.certificate.serial_number == serial
    set_clock_of_gate(apart, life * 2 / 3)
    if not heard:
        apart.configure()
        apart.clock.set(life * 2 / 3)
    (apart.root / "run/autojoin/trust-asked").unlink(missing_ok=True)
    done = apart.renew()
    assert done.returncode == 0, done.stdout
    assert (" s behind the join gate's, set the one that is wrong" in done.stdout) == heard
    assert apart.certificate.serial_number != serial


def test_nodes_that_joined_at_once_renew_one_after_the_other(host: Host, tmp_path: Path) -> None:
    due = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = Joined(folder, host, registered(host))
        begins, life = machine.certificate.not_valid_before_utc, datetime.timedelta(hours=HOURS)
        early, late = 0.58, 0.67
        while late - early > 0.001:
            middle = (early + late) / 2
            machine.set_clock(begins + life * middle)
            # Asked where nobody answers: whether it asks is what counts.
            machine.configure(GATE_URL="https://127.0.0.1:1")
            early, late = (early, middle) if machine.renew().returncode else (middle, late)
        due.append(round(late, 3))
    assert len(set(due)) > 3, due
    assert all(0.582 < it < 0.668 for it in due), due


@pytest.mark.parametrize(
    "moment",
    ["2024-02-29 00:00:00", "2026-01-01 00:00:00", "2026-12-31 23:59:59", "2040-03-01 12:34:56"],
)
def test_seconds_of_openssls_dates(moment: str) -> None:
    at = datetime.datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC)
    functions = JOIN_SCRIPT.read_text().rpartition("\nmain\n")[0]
    text = f"{at:%b} {at.day:2d} {at:%H:%M:%S %Y} GMT"
    for awk in ("awk", f"{BUSYBOX} awk"):
        program = f"{functions}\nawk() {{ command {awk} \"$@\"; }}\nto_seconds '{text}'\n"
        result = subprocess.run(["dash", "-c", program], capture_output=True, text=True)
        assert result.stdout == str(int(at.timestamp())), result.stderr


@pytest.mark.full
def test_a_power_cut_at_any_command_burns_no_node(machine: Joined) -> None:
    """Kills everything at the n-th command throughout a renewal, then lets the timer come again."""
    assert machine.renew("--now").returncode == 0
    commands = len(machine.arguments.read_text().splitlines())
    assert commands > 15
    for count in range(1, commands + 1):
        before = machine.certificate
        machine.arguments.write_text("")
        machine.renew("--now", KILL_AT=str(count))
        machine.arguments.write_text("")
        await_end(machine)
        between = machine.certificate  # readable, whatever was cut
        done = machine.renew("--now")
        case = f"killed at command {count} of {commands}: {done.stdout}"
        assert done.returncode == 0, case
        assert machine.certificate not in (before, between), case
    assert machine.trouble() is None


def test_an_unreachable_gate_is_named(machine: Joined) -> None:
    machine.configure(GATE_URL="https://127.0.0.1:1")
    done = machine.renew("--now")
    assert done.returncode == 1
    assert "renewal failed: the join gate at https://127.0.0.1:1: curl: (7)" in done.stdout
    machine.configure()
    assert machine.renew("--now").returncode == 0


def test_a_refusal_is_told_here_and_at_the_gate(machine: Joined) -> None:
    stolen = TestNode(machine.node.name)
    data = machine.pair.read_bytes()
    key = serialization.load_pem_private_key(data[data.index(b"-----BEGIN PRIVATE") :], None)
    assert key.public_key() == machine.node.key.public_key()
    shown = machine.host.join(machine.node)  # asked again for the same key, it is the same
    machine.host.renew(stolen, shown)
    done = machine.renew("--now")
    assert done.returncode == 3
    assert "renewal failed: the join gate refused (409): this certificate of" in done.stdout
    assert "raise its generation to join it anew" in done.stdout
    assert "renewed for a second key" in str(machine.trouble())


def test_a_certificate_that_has_ended_says_what_to_do(apart: Joined) -> None:
    ahead = HOURS * 3600.0 + 60
    apart.clock.set(ahead)
    set_clock_of_gate(apart, ahead)
    done = apart.renew()
    assert done.returncode == 1
    assert re.search("alert certificate expired.*: the certificate ended on ", done.stdout)
    assert "the join gate renews none that has ended" in done.stdout
    assert f"raise the generation of {apart.node.name} in the stack file" in done.stdout


@contextlib.contextmanager
def api_server(machine: Joined, status: int) -> Iterator[None]:
    """What answers every question with `status`, by the certificate of the gate."""
    assert isinstance(machine.host, Host)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(machine.host.folder / "tls.pem", machine.host.folder / "tls-key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        machine.configure(API_SERVER=f"https://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


DAY = 86400


def test_a_clock_that_is_ahead_costs_no_certificate(machine: Joined) -> None:
    """By more than the certificate's life: the gate's clock counts, and the API server's word."""
    serial = machine.certificate.serial_number
    machine.clock.set(3 * DAY)
    done = machine.renew()
    wrong = "s ahead of the join gate's, set the one that is wrong"
    assert (done.returncode, done.stdout.count(wrong)) == (0, 1)
    assert machine.renew().stdout == ""  # it is said once an hour
    machine.configure(API_SERVER="https://127.0.0.1:1")
    done = machine.renew("--now")
    assert done.returncode == 1
    assert "is not in its life by this clock, which says " in done.stdout
    assert "set it if it is wrong; the API server can't be asked" in str(machine.trouble())
    assert machine.certificate.serial_number == serial
    with api_server(machine, 401):
        done = machine.renew("--now")
    assert done.returncode == 1
    assert "and by the API server's: set the clock of the CA host" in str(machine.trouble())
    assert machine.certificate.serial_number == serial
    with api_server(machine, 200):
        done = machine.renew("--now")
    assert done.returncode == 0, done.stdout
    assert wrong in done.stdout
    assert machine.certificate.serial_number != serial
    assert machine.trouble() is None


def test_a_clock_that_is_behind_is_named_and_renews_when_it_is_right(machine: Joined) -> None:
    serial = machine.certificate.serial_number
    machine.clock.set(-DAY)
    done = machine.renew()
    assert done.returncode == 1
    assert "curl: (60) SSL certificate problem: certificate is not yet valid" in done.stdout
    assert "the node's own certificate begins on " in done.stdout
    machine.clock.set(0)
    assert machine.renew().stdout == ""
    machine.clock.set(-DAY)
    done = machine.renew("--now")
    assert re.search("not yet valid: the clock is 86[0-9]{3} s behind the join gate's", done.stdout)
    assert machine.certificate.serial_number == serial
    machine.clock.set(0)
    assert machine.renew("--now").returncode == 0


def test_a_ca_host_whose_clock_is_ahead_is_named(apart: Joined) -> None:
    set_clock_of_gate(apart, 3 * DAY)
    done = apart.renew("--now")
    assert done.returncode == 1
    assert re.search("alert certificate expired.*: the clock here says ", done.stdout)
    assert "look at the clock of the CA host" in done.stdout
    set_clock_of_gate(apart, 0)
    assert apart.renew("--now").returncode == 0
    assert apart.rows() == [("good", 0)] * 2


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_a_full_disk_is_told_here_and_at_the_gate_and_burns_no_node(
    machine: Joined, pages: int
) -> None:
    """Full for the key, for the certificate, or for both in one file."""
    serial = machine.certificate.serial_number
    with small_disk(machine.pki) as leave:
        leave(pages)
        for _ in range(2):
            done = machine.renew("--now")
            assert done.returncode != 0
            told = f"renewal failed: the disk is full: 0 KiB are free at {machine.pki}"
            assert told in done.stdout
            assert "the disk is full" in str(machine.trouble())
            assert machine.certificate.serial_number == serial
        leave(16)
        done = machine.renew("--now")
        assert done.returncode == 0, done.stdout
        assert machine.certificate.serial_number != serial
        assert machine.trouble() is None


@contextlib.contextmanager
def serving(pair: Path) -> Iterator[int]:
    """A TLS server that goes on with the pair it began with, as a kubelet before 1.36."""
    port = free_port()
    words = ["openssl", "s_server", "-quiet", "-www", "-accept", str(port), "-cert", str(pair)]
    server = subprocess.Popen([*words, "-key", str(pair)])
    try:
        while not answers(port):
            assert server.poll() is None
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()


def test_a_kubelet_that_goes_on_serving_with_what_it_had_is_restarted(
    machine: Joined, tmp_path: Path
) -> None:
    """And one that has taken up what is new, or does not answer, is left alone."""
    old = tmp_path / "old.pem"
    old.write_bytes(machine.pair.read_bytes())
    configuration = machine.root / "etc/kubernetes/kubelet.yaml"
    configuration.parent.mkdir(parents=True)
    restarted = "systemctl try-restart --no-block kubelet.service"
    machine._tool("timeout", 'exec /usr/bin/timeout "$@"')
    with serving(old) as port:
        configuration.write_text(f"kind: K\nport: {port}\n")
        functions = JOIN_SCRIPT.read_text().rpartition("\nmain\n")[0]
        program = f'{functions}\n. "$ETC/join.env"\nADDRESSES=127.0.0.1\n'
        program += 'mkdir -p "$STATE"\nhave_it_served\n'

        def look() -> str:
            words = ["dash", "-c", program]
            done = subprocess.run(
                words, env=machine.environment(), capture_output=True, text=True, check=True
            )
            return done.stdout

        assert look() == "" and not machine.arguments.read_text().count(restarted)
        machine._tool("timeout", "exit 1")
        assert machine.renew("--now").returncode == 0
        assert restarted not in machine.arguments.read_text()  # nobody answers at its address
        machine._tool("timeout", 'exec /usr/bin/timeout "$@"')
        assert "the kubelet goes on serving with the certificate before" in look()
        assert machine.arguments.read_text().count(restarted) == 1
    assert look() == "" and machine.arguments.read_text().count(restarted) == 1


def test_a_person_waits_for_the_timer_to_end_and_the_timer_for_nobody(machine: Joined) -> None:
    lock = machine.root / "run/autojoin/lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["flock", str(lock), "sleep", "2"]):
        done = machine.renew()
        assert (done.returncode, done.stdout) == (0, "")
        done = machine.renew("--now")
        assert f"{machine.node.name} renewal done: until " in done.stdout


def test_nothing_is_renewed_before_the_join_is_over(machine: Joined) -> None:
    machine.join_key_file.write_text("0" * 64)
    done = machine.renew()
    assert (done.returncode, done.stdout) == (0, "")
    done = machine.renew("--now")
    assert done.returncode == 1
    assert f"{machine.node.name} has not joined yet, there is nothing to renew" in done.stdout
    assert machine.rows() == [("good", 0)]


def test_no_private_key_is_an_argument(machine: Joined) -> None:
    assert machine.renew("--now").returncode == 0
    arguments = machine.arguments.read_text()
    assert "/v1/renewal" in arguments
    assert machine.key_file.read_text().splitlines()[1] not in arguments
