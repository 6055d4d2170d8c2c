"""Hosts as people have them, over real sshds: a user with sudo or doas, a port, a jump host."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.shell import ssh
from components.shell.ssh import SshError
from stack.models import Host, JumpHost
from tests.unit.tools.plugins.plugin_engine import Project
from tests.unit.tools.plugins.ssh_server import SshServer, free_port, generate_key
from tools.pins import CHECKOUT

USER = "autojoin-test"


@dataclass(frozen=True)
class Become:
    """How the user becomes root: the file of its rules, one without a password, one with, and what
    the program says where it would ask for one."""

    rules: Path
    free: str
    asking: str
    said: str


BECOME = {
    "sudo": Become(
        Path("/etc/sudoers.d", USER),
        f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
        f"{USER} ALL=(ALL) ALL\n",
        "sudo: a password is required",
    ),
    "doas": Become(
        Path("/etc/doas.conf"),
        f"permit nopass {USER}\n",
        f"permit {USER}\n",
        "doas: Authentication required",
    ),
}

PROGRAM = """
import sys

sys.path.insert(0, {checkout!r})
import pulumi
from components import interrupt
from components.shell import reach, remote
from stack.models import Host

reach.TRIES = 2
host = Host.model_validate_json({host!r})
parent = pulumi.ComponentResource("test:index:Parent", "parent")
remote.run("who", host, create="id -u; cat", stdin={stdin!r}, delete="id -u >{gone}", parent=parent)
"""


@dataclass
class Place:
    """A host that only the jump host reaches, with a user who may become root."""

    folder: Path
    become: Become
    target: SshServer
    jump: SshServer

    @property
    def host(self) -> Host:
        return Host(
            address="127.0.0.1",
            port=self.target.port,
            user=USER,
            host_key=self.target.host_key,
            private_key_file=str(self.target.folder / "client_key"),
            jump=JumpHost(
                address="127.0.0.1",
                port=self.jump.port,
                user="root",
                host_key=self.jump.host_key,
                private_key_file=str(self.jump.folder / "client_key"),
            ),
        )

    def passed(self) -> int:
        """How often the jump host let somebody in."""
        return self.jump.logins()


@pytest.fixture(scope="module", params=BECOME)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    become = BECOME[request.param]
    # Without PAM sshd lets nobody in whose account is locked.
    words = ["--system", "--shell", "/bin/sh", "--home-dir", "/", "--password", "*", USER]
    subprocess.run(["useradd", *words], check=True)
    servers = []
    try:
        # sshd reads the keys as the user, who may not look into pytest's own folder.
        with (
            tempfile.TemporaryDirectory(prefix="autojoin-ssh-") as parent,
            rule(become, become.free),
        ):
            folder = Path(parent)
            folder.chmod(0o755)
            for name in ("target", "jump"):
                (folder / name).mkdir(mode=0o755)
                servers.append(SshServer(folder / name))
                (folder / name / "authorized_keys").chmod(0o644)
            only(servers[0], request.param)
            for server in servers:
                server.start()
            yield Place(folder, become, *servers)
    finally:
        for server in servers:
            server.stop()
        subprocess.run(["userdel", USER], check=True)


def only(server: SshServer, become: str) -> None:
    """Has those who log in there find no other program that makes them root."""
    programs = server.folder / "programs"
    programs.mkdir(mode=0o755)
    for name in ("sh", "id", become):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    with (server.folder / "sshd_config").open("a") as settings:
        settings.write(f"SetEnv PATH={programs}\n")


@contextmanager
def rule(become: Become, text: str) -> Iterator[None]:
    """With this rule behind those that are there: the last that fits counts."""
    before = become.rules.read_text() if become.rules.exists() else ""
    become.rules.write_text(before + text)
    become.rules.chmod(0o440)
    try:
        yield
    finally:
        become.rules.write_text(before)
        if not before:
            become.rules.unlink()


def test_what_is_done_is_done_as_root_through_the_jump_host(place: Place) -> None:
    before = place.passed()
    command = "id -un; printf '%s\\n' \"it's \\$HOME\"; cat; exit 3"
    with pytest.raises(SshError, match=r"^127\.0\.0\.1: told$"):
        ssh.run(place.host, "echo told >&2; exit 3")
    answer = ssh.run(place.host, command.removesuffix("; exit 3"), stdin=b"a secret\n")
    assert answer.decode() == "root\nit's $HOME\na secret\n"
    assert place.passed() == before + 2


def test_where_a_password_is_asked_for_it_is_said_by_the_key_of_the_configuration(
    place: Place,
) -> None:
    with rule(place.become, place.become.asking):
        said = ssh.trouble(place.host)
    assert ssh.is_final(said)
    assert ssh.refusal(place.host, said) == (
        f"autojoin:certificateAuthority.host: {USER} does not become root: {place.become.said}; "
        "let sudo or doas on 127.0.0.1 do it for that user without a password, or give user: root"
    )
    assert ssh.trouble(place.host) == ""


JUMP = "autojoin:certificateAuthority.host.jump"


def test_trouble_with_the_jump_host_is_told_as_its_own(place: Place) -> None:
    host = place.host
    assert host.jump
    stranger = str(place.folder / "stranger")
    other = generate_key(Path(stranger))
    cases = {
        "port": (free_port(), f"{JUMP}: 127.0.0.1 port"),
        "host_key": (other, f"{JUMP}.hostKey: 127.0.0.1 port {place.jump.port} shows another"),
        "private_key_file": (stranger, f"{JUMP}: 127.0.0.1 port {place.jump.port} refuses the"),
    }
    for field, (value, said) in cases.items():
        jump = host.jump.model_copy(update={field: value})
        odd = host.model_copy(update={"jump": jump})
        assert said in ssh.refusal(odd, ssh.trouble(odd)), field
    behind = host.model_copy(update={"port": free_port()})
    told = ssh.refusal(behind, ssh.trouble(behind))
    assert told.startswith(f"{JUMP.removesuffix('.jump')}: 127.0.0.1 port {behind.port} can't be")


@pytest.mark.full
def test_up_and_destroy_go_the_same_way(place: Place, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    gone = place.folder / "gone"
    host = place.host.model_dump_json(by_alias=True, exclude_none=True)

    def program(stdin: str) -> None:
        text = PROGRAM.format(checkout=str(CHECKOUT), host=host, stdin=stdin, gone=gone)
        project.program(text + 'pulumi.export("who", parent and "")\n')

    program("one")
    assert "who created" in project.up()
    program("two")
    assert "1 updated" in project.up()
    state = project.run("stack", "export")
    assert '"stdout": "0\\ntwo"' in state, "root's"
    with rule(place.become, place.become.asking):
        program("three")
        assert f"does not become root: {place.become.said}" in project.up(fails=True)
    project.run("destroy", "--yes", "--skip-preview")
    assert gone.read_text() == "0\n"
