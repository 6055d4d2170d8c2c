"""Commands and key material as the program uses them, under the real engine.

Nothing here knows which plugins they are: with PLUGINS=folder those found there are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tools.plugins.plugin_engine import Project, secret
from tests.unit.tools.plugins.ssh_server import SshServer
from tools.pins import CHECKOUT

pytestmark = pytest.mark.full

LOCAL = """
import pulumi
from pulumi_command import local

first = local.Command(
    "first", create="echo made by $NAME", delete="echo $NAME >> deleted",
    environment={"NAME": NAME}, triggers=TRIGGERS,
)
second = local.Command(
    "second",
    create=first.stdout.apply(lambda text: f"echo saw {text}"),
    stdin=pulumi.Output.secret("a-secret-input"),
)
pulumi.export("second", second.stdout)
"""

REMOTE = """
import sys

import pulumi

sys.path.insert(0, CHECKOUT)
from components import interrupt
from components.shell import remote
from stack.models import Host

host = Host(
    address="127.0.0.1", port=PORT, user="USER", host_key="HOST_KEY", private_key_file="KEY"
)
parent = pulumi.ComponentResource("test:index:Parent", "parent")
hello = remote.run(
    "hello", host, create="CREATE", delete="echo gone >> FOLDER/deleted",
    stdin=pulumi.Output.secret("a-secret-input"), quiet=True, parent=parent,
)
pulumi.export("hello", hello.stdout)
"""

TLS = """
import sys

import pulumi
import pulumi_tls as tls

sys.path.insert(0, CHECKOUT)
from components.certificate_authority.certificate_request import certificate_request, renewal

parent = pulumi.ComponentResource("test:index:Parent", "parent")
key, request = certificate_request("gate", "NAME", parent)
renewed = renewal("gate", "NAME", key, 24, parent)
secret = tls.PrivateKey("secret", algorithm="ED25519")
pulumi.export("request", request.cert_request_pem)
pulumi.export("renewed", renewed)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    folder = tmp_path / "sshd"
    folder.mkdir()
    running = SshServer(folder)
    running.start()
    yield running
    running.stop()


def test_the_whole_life_of_local_commands(project: Project) -> None:
    def program(name: str, triggers: str) -> None:
        project.program(LOCAL.replace("NAME}", f"'{name}'}}").replace("TRIGGERS", triggers))

    program("anna", "[1]")
    assert "second: [unknown]" in project.run("preview")
    created = project.up()
    assert 'second: "saw made by anna"' in created
    assert "a-secret-input" not in project.state()
    resources = project.resources()
    assert resources["first"]["id"].startswith("first")
    assert resources["second"]["outputs"]["stdout"] == "saw made by anna"
    assert secret(resources["second"]["outputs"]["stdin"]) == "a-secret-input"

    assert project.steps() == {}
    assert "3 unchanged" in project.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")

    program("berta", "[1]")
    assert project.steps() == {"first": "update", "second": "update"}
    assert "~ 2 updated" in project.up(), "the second follows the first's new output"
    assert not (project.folder / "deleted").exists()

    program("berta", "[2]")
    assert "+-1 replaced" in project.up()
    assert (project.folder / "deleted").read_text() == "berta\n"

    assert "- 3 deleted" in project.run("destroy", "--yes", "--skip-preview")
    assert (project.folder / "deleted").read_text() == "berta\nberta\n"


def test_the_whole_life_of_remote_commands(
    project: Project, server: SshServer, tmp_path: Path
) -> None:
    def program(create: str) -> None:
        text = REMOTE.replace("PORT", str(server.port)).replace("CREATE", create)
        text = text.replace("CHECKOUT", repr(str(CHECKOUT)))
        text = text.replace("USER", server.connection["user"])
        text = text.replace("HOST_KEY", server.host_key).replace("FOLDER", str(tmp_path))
        project.program(text.replace("KEY", str(server.folder / "client_key")))

    server.stop()
    program("cat >/dev/null; echo hello")
    assert "+ 3 to create" in project.run("preview"), "with the host off"
    server.start()
    assert re.search(r'hello: +"hello"', project.up())
    state = project.state()
    for text in ("PRIVATE KEY", "127.0.0.1", "a-secret-input"):
        assert text not in state, "the connection is secret as a whole"
    assert "3 unchanged" in project.up()

    program("echo again")
    shown = project.up()
    assert "~ 1 updated" in shown
    assert "warning" not in shown.lower(), "of variables that sshd's AcceptEnv refuses"

    program("echo failing; exit 3")
    failed = project.up(fails=True)
    assert re.search(r"exited with status 3: running +.?.?echo failing; exit 3", failed), failed
    assert project.resources()["hello"]["outputs"]["stdout"] != "failing", "the old state is kept"
    assert "Traceback" not in failed

    program("cat >/dev/null; echo hello")
    project.up()
    project.run("destroy", "--yes", "--skip-preview")
    assert (tmp_path / "deleted").read_text() == "gone\n"


def test_the_whole_life_of_key_material(project: Project) -> None:
    def program(name: str) -> None:
        project.program(TLS.replace("CHECKOUT", repr(str(CHECKOUT))).replace("NAME", name))

    program("one")
    assert "request: [unknown]" in project.run("preview")
    project.up()
    assert "PRIVATE KEY" not in project.state()
    before = project.resources()
    pem = secret(before["gate-key"]["outputs"]["privateKeyPem"])
    assert pem.startswith("-----BEGIN EC PRIVATE KEY-----")
    for name in ("privateKeyPemPkcs8", "privateKeyOpenssh"):
        assert "PRIVATE KEY" in secret(before["gate-key"]["outputs"][name])
    assert secret(before["gate-request"]["outputs"]["privateKeyPem"]) == pem
    assert before["gate-renewal"]["id"].isdecimal()
    assert len(before["secret"]["id"]) == 40

    assert project.steps() == {}
    assert "unchanged" in project.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")

    program("two")
    changed = project.steps()
    assert {"gate-request", "gate-renewal"} == changed.keys()
    project.up()
    after = project.resources()
    assert after["gate-key"]["id"] == before["gate-key"]["id"]
    assert after["gate-renewal"]["id"] != before["gate-renewal"]["id"]
    project.run("destroy", "--yes", "--skip-preview")
