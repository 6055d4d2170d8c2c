"""One CA takes another one's place: CA host, gate, nodes' script and API server, all of them real.

The test runs in the CA host's network namespace. systemd and the kubelet are stand-ins.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from components.certificate_authority.platforms import PLATFORMS
from components.join_gate import installation as join_gate
from tests.unit.components.certificate_authority.authority_machine import Machine, listener
from tests.unit.components.join_gate.gate_host import (
    ADDRESS,
    Gate,
    Shown,
    TestNode,
    make_authority,
    registered,
    running,
)
from tests.unit.components.workers.test_join_script import await_end
from tests.unit.components.workers.test_renew_script import Joined
from tests.unit.tools.plugins.kubernetes_server import ApiServer, Authority

pytestmark = pytest.mark.full

HOST = "192.0.2.2"
LISTENER = listener()
NETWORK = f"""
ip link add name here type veth peer name there
ip address add {HOST}/24 dev here
ip link set here up
ip link set there up
ip route add default dev here
"""
RESTART = "systemctl try-restart --no-block kubelet.service"


class Node(Joined):
    """A joined node, on its own machine; only it has what its script says."""

    def certificate_is_of(self, authority: Authority) -> bool:
        issuer = self.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        public = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
        return issuer.value.key_identifier == public.digest

    def look(self, *, hour: bool = True) -> subprocess.CompletedProcess[str]:
        """What the timer does; an hour later, where it is to ask whom to trust."""
        stamp = self.root / "run/autojoin/trust-asked"
        if hour and stamp.exists():
            stamp.write_text("-360000\n")
        return self.renew()

    @property
    def trusted(self) -> str:
        return (self.root / "etc/autojoin/ca.pem").read_text()

    def restarts(self) -> int:
        """Of its kubelet."""
        return self.arguments.read_text().count(RESTART)


class Cluster:
    """The CA host with `old`; `new` is to take its place. The API server has its own files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machine = Machine(folder / "host")
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._enter(os.open(f"/proc/{self.machine.process}/ns/net", os.O_RDONLY))
        (folder / "api").mkdir()
        (folder / "new").mkdir()
        self.api = ApiServer(folder / "api")

    @staticmethod
    def _enter(namespace: int) -> None:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace, 0) == 0, os.strerror(
            ctypes.get_errno()
        )
        os.close(namespace)

    def start(self) -> None:
        # The API server wants a default route, and the CA host's address is one of its own.
        subprocess.run(["sh", "-ec", NETWORK], check=True)
        self.api.start()
        self.old, self.new = self.api.authority, Authority(self.folder / "new")
        self.pairs = {
            it: (str(it.folder / "ca.pem"), str(it.folder / "ca-key.pem"))
            for it in (self.old, self.new)
        }
        # The API server's own copies, which its owner edits.
        self.old_pem, self.new_pem = (
            (it.folder / "ca.pem").read_text() for it in (self.old, self.new)
        )
        self.gate = Gate(HOST, 8443, self.folder / "trusted.pem")
        self.gate.authority.write_text(self.old_pem)
        host = self.folder / "host-pair"
        host.mkdir()
        for name in ("ca.pem", "ca-key.pem"):
            (host / name).write_bytes((self.old.folder / name).read_bytes())
        self.pairs[self.old] = (str(host / "ca.pem"), str(host / "ca-key.pem"))
        good(self.install(self.old))
        good(self.machine.install_gate(*LISTENER))

    def close(self) -> None:
        self.api.stop()
        self._enter(self.own)
        self.machine.close()

    def install(
        self, signs: Authority, also: Authority | None = None
    ) -> subprocess.CompletedProcess[str]:
        certificate, key = self.pairs[signs]
        other = self.pairs[also] if also else ("", "")
        return self.machine.install_authority(certificate=certificate, key=key, also=other)

    def join(self, name: str) -> Node:
        node = TestNode(name)
        secrets = (node.join_key.hex(), node.status_token.hex())
        given = join_gate.register_input(name, [ADDRESS], 1, node.identity, *secrets)
        good(self.machine.run(join_gate.register_command(self.machine.host, name), given))
        folder = self.folder / name
        folder.mkdir()
        made = Node(folder, self.gate, node)
        made.configure(API_SERVER=self.api.url)
        return made

    def told(self, name: str) -> dict[str, object]:
        answer = good(self.machine.run(join_gate.status_command(self.machine.host))).stdout
        found: dict[str, object] = next(
            it for it in json.loads(answer)["nodes"] if it["node"] == name
        )
        return found

    def trusted_by_api_server(self, *pems: str) -> None:
        """Its owner's edit of the file of --client-ca-file, once it is heeded."""
        file = self.api.folder / "ca.pem"
        file.write_text("".join(pems))
        wanted = self.old if pems == (self.old_pem,) else self.new
        self.await_status(self.client(wanted), None if wanted is self.old else 401, but=True)

    def client(self, authority: Authority) -> Path:
        """An administrator's certificate and key of one of the CAs."""
        authority.issue("client", "admin", "system:masters")
        pair = self.folder / "client.pem"
        texts = [(authority.folder / name).read_text() for name in ("client.pem", "client-key.pem")]
        pair.write_text("".join(texts))
        return pair

    def status(self, pair: Path) -> int:
        """What the API server answers to who shows this."""
        words = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--cert", str(pair)]
        words += ["--key", str(pair), f"{self.api.url}/api/v1/nodes"]
        return int(subprocess.check_output(words, text=True))

    def await_status(self, pair: Path, status: int | None, *, but: bool = False) -> None:
        deadline = time.monotonic() + 70
        while status is not None and (self.status(pair) == status) == but:
            assert time.monotonic() < deadline, self.status(pair)
            time.sleep(0.3)

    def shown(self, authority: Authority, node: TestNode) -> Shown:
        """A node's certificate that a CA signed behind the gate."""
        authority.issue("forged", f"system:node:{node.name}", "system:nodes")
        key = (authority.folder / "forged-key.pem").read_bytes()
        return Shown(
            (authority.folder / "forged.pem").read_text(),
            serialization.load_pem_private_key(key, None),
        )


def good(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        monkeypatch.setitem(PLATFORMS, "linux", cluster.machine.platform)
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def refused_in_tls(cluster: Cluster, shown: Shown, name: str) -> bool:
    try:
        cluster.gate.post("/v1/renewal", TestNode(name).request(), shown)
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def test_one_authority_takes_the_place_of_another(cluster: Cluster) -> None:
    old, new = cluster.old, cluster.new
    first, second = cluster.join("worker-1"), cluster.join("worker-2")
    for node in (first, second):
        assert (good(node.look()).stdout, node.restarts()) == ("", 0)
        assert cluster.told(node.node.name)["trusts"]
    # Nobody knows the new one yet, and it can't take the place at one blow.
    assert refused_in_tls(cluster, cluster.shown(new, first.node), "worker-1")
    assert cluster.status(cluster.client(new)) == 401
    before = cluster.machine.snapshot()
    for edit in (cluster.install(new), cluster.install(new, old)):
        assert edit.returncode == 1
        assert "the CA that is to sign is trusted by no node: name it as `also`" in edit.stderr
    assert cluster.machine.snapshot() == before

    # a: both are trusted.
    both = cluster.old_pem + cluster.new_pem
    assert good(cluster.install(old, new)).stdout == both
    assert not cluster.told("worker-1")["trusts"]
    said = good(first.look()).stdout
    assert "worker-1 renewal done: trusts 2 CA(s)" in said
    assert (first.trusted, first.restarts()) == (both, 1)
    assert first.certificate_is_of(old) and cluster.told("worker-1")["trusts"]
    status, answer = cluster.gate.post(
        "/v1/renewal", TestNode("worker-1").request(), cluster.shown(new, first.node)
    )
    assert status == 401 and "not a certificate of a node" in answer["errors"][0]["message"]
    # worker-2 has not looked yet: it is served as before, and the next step waits for it.
    assert second.trusted == cluster.old_pem
    before = cluster.machine.snapshot()
    edit = cluster.install(new, old)
    assert edit.returncode == 1
    assert "worker-2 does not trust the CA yet that is to sign" in edit.stderr
    assert "worker-1" not in edit.stderr and "nothing was changed" in edit.stderr
    assert cluster.machine.snapshot() == before
    good(second.look())

    # b: the new one signs. The API server's owner has forgotten it.
    assert good(cluster.install(new, old)).stdout == cluster.new_pem + cluster.old_pem
    done = first.look()
    assert done.returncode == 1
    assert "the API server does not take certificates of the CA that signs now" in done.stdout
    assert first.certificate_is_of(old) and first.restarts() == 1
    assert "--client-ca-file" in str(cluster.told("worker-1")["trouble"])
    assert cluster.status(first.pair) == 403  # authenticated: a node may not list nodes
    cluster.trusted_by_api_server(cluster.old_pem, cluster.new_pem)
    assert "renewal done: until" in good(first.look(hour=False)).stdout
    assert first.certificate_is_of(new) and cluster.status(first.pair) == 403
    told = cluster.told("worker-1")
    assert told["trusts"] and told["ofSigner"] and told["trouble"] is None
    # What it is, and not its order, has a kubelet restarted.
    assert first.restarts() == 1
    assert (first.look().stdout, first.restarts()) == ("", 1)

    # c: worker-2 has a certificate of the old one still, and the last step waits for it.
    assert not cluster.told("worker-2")["ofSigner"]
    before = cluster.machine.snapshot()
    edit = cluster.install(new)
    assert edit.returncode == 1
    assert "worker-2 has a certificate of the CA that is to go" in edit.stderr
    assert cluster.machine.snapshot() == before
    kept = Shown(second.pair.read_text(), second.node.key)
    good(second.look())
    assert second.certificate_is_of(new)

    # d: the old one goes; the API server's certificate is of it still, so nodes keep it.
    assert good(cluster.install(new)).stdout == cluster.new_pem
    said = good(first.look()).stdout
    assert "the API server's certificate is of the CA that is to go" in said
    assert first.trusted == cluster.new_pem + cluster.old_pem
    assert "of the CA that is to go" in str(cluster.told("worker-1")["trouble"])
    # One that does not answer could be either: nothing is left out, and it is asked again.
    second.configure(API_SERVER="https://127.0.0.1:1")
    for hour in (True, False):
        assert good(second.look(hour=hour)).stdout == ""
        assert second.trusted == cluster.new_pem + cluster.old_pem
    second.configure(API_SERVER=cluster.api.url)
    new.issue("server", "kube-apiserver")
    for name in ("server.pem", "server-key.pem"):
        (cluster.api.folder / name).write_bytes((new.folder / name).read_bytes())
    (cluster.folder / "new.pem").write_text(cluster.new_pem)
    deadline = time.monotonic() + 70
    asked = ["curl", "-s", "-o", "/dev/null", "--cacert", str(cluster.folder / "new.pem")]
    while subprocess.run([*asked, cluster.api.url]).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    for node in (first, second):
        assert "trusts 1 CA(s)" in good(node.look()).stdout
        assert node.trusted == cluster.new_pem
        assert cluster.told(node.node.name)["trusts"]
    assert (first.restarts(), cluster.told("worker-1")["trouble"]) == (2, None)
    # The old one opens nothing any more, and who trusts it alone does not talk to this gate.
    cluster.gate.authority.write_text(cluster.new_pem)
    assert refused_in_tls(cluster, kept, "worker-2")
    assert refused_in_tls(cluster, cluster.shown(old, second.node), "worker-2")
    cluster.gate.authority.write_text(cluster.old_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        cluster.gate.post("/v1/renewal", {})
    cluster.trusted_by_api_server(cluster.new_pem)
    cluster.await_status(cluster.client(old), 401)
    good(first.renew("--now"))
    assert cluster.status(first.pair) == 403
    # Nothing is left to do, and what the old one signed is in the books still.
    cluster.machine.forget()
    assert "restarted" not in good(cluster.install(new)).stderr
    assert cluster.machine.restarted() == []


def test_the_gate_alone_can_not_have_another_authority_trusted(cluster: Cluster) -> None:
    """Whoever has the gate's key and files has no CA's key."""
    node = cluster.join("worker-1")
    good(node.look())
    gate = cluster.machine.etc("join-gate")
    bundle = cluster.old_pem + cluster.new_pem
    signature = (gate / "trust.signed").read_text().partition("\n")[0]
    (gate / "ca.pem").write_text(bundle)
    (gate / "trust.signed").write_text(f"{signature}\n\n{bundle}")
    good(cluster.machine.run("systemctl restart join-gate.service"))
    deadline = time.monotonic() + 10
    while "none that is trusted has signed that" not in (said := node.look().stdout):
        assert time.monotonic() < deadline, said
    assert node.trusted == cluster.old_pem and node.restarts() == 0
    assert "none that is trusted has signed that" in str(cluster.told("worker-1")["trouble"])
    # It renews all the same.
    good(node.renew("--now"))


def signed(folder: Path, bundle: str) -> str:
    """What a gate tells of `bundle`, signed by the CA in `folder`."""
    (folder / "bundle").write_text(bundle)
    words = ["openssl", "dgst", "-sha256", "-sign", "ca-key.pem", "bundle"]
    signature = subprocess.check_output(words, cwd=folder)
    return f"signature {base64.b64encode(signature).decode()}\n\n{bundle}"


def test_a_power_cut_at_any_command_leaves_whom_to_trust_whole(tmp_path: Path) -> None:
    """Killed at the n-th command; the timer that comes again ends with both, heeded."""
    (tmp_path / "host").mkdir()
    (tmp_path / "other").mkdir()
    with running(tmp_path / "host") as host:
        folder = tmp_path / "machine"
        folder.mkdir()
        machine = Node(folder, host, registered(host))
        machine.configure(API_SERVER="https://127.0.0.1:1")
        old = host.authority.read_text()
        make_authority(tmp_path / "other")
        both = old + (tmp_path / "other" / "ca.pem").read_text()
        host.stop("gate")
        (host.folder / "told").write_text(signed(host.folder, both))
        settings = json.loads((host.folder / "gate.json").read_text())
        host.authority.write_text(both)
        (host.folder / "gate.json").write_text(
            json.dumps({**settings, "trust": str(host.folder / "told")})
        )
        host.start_gate()

        def begin() -> None:
            (machine.root / "etc/autojoin/ca.pem").write_text(old)
            for name in ("var/lib/autojoin/trust-changed", "run/autojoin/trust-asked"):
                (machine.root / name).unlink(missing_ok=True)
            machine.arguments.write_text("")

        begin()
        good(machine.look())
        commands = len(machine.arguments.read_text().splitlines())
        assert commands > 15 and machine.trusted == both and machine.restarts() == 1
        for count in range(1, commands + 1):
            begin()
            machine.renew(KILL_AT=str(count))
            await_end(machine)
            case = f"killed at command {count} of {commands}"
            assert machine.trusted in (old, both), case
            good(machine.look())
            assert machine.trusted == both and machine.restarts() >= 1, case
            assert not (machine.root / "var/lib/autojoin/trust-changed").exists(), case


def test_a_full_disk_leaves_whom_to_trust_as_it_was(cluster: Cluster) -> None:
    node = cluster.join("worker-1")
    good(node.look())
    good(cluster.install(cluster.old, cluster.new))
    node._tool("cp", "exit 1")
    assert "ca.pem cannot be written" in good(node.look()).stdout
    assert node.trusted == cluster.old_pem and node.restarts() == 0
    node._tool("cp", 'exec /bin/cp "$@"')
    assert "trusts 2 CA(s)" in good(node.look()).stdout
