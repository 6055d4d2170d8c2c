"""The command stand-in under the real engine, through Pulumi's own Python SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tools.plugins.plugin_engine import Project, install, secret
from tests.unit.tools.plugins.ssh_server import SshServer

LOCAL = """
import pulumi
from pulumi_command import local, remote

first = local.Command(
    "first",
    create="echo made; echo one > out.txt",
    update="echo updated from $PULUMI_COMMAND_STDOUT",
    delete="echo $NAME >> deleted",
    environment={"NAME": NAME},
    asset_paths=["*.txt"],
    triggers=TRIGGERS,
)
second = local.Command(
    "second",
    create=first.stdout.apply(lambda text: f"echo saw {text}"),
    stdin=pulumi.Output.secret("a-secret-input"),
)
pulumi.export("second", second.stdout)
pulumi.export("assets", first.assets.apply(lambda assets: sorted(assets)))
"""

REMOTE = """
import pulumi
from pulumi_command import remote

connection = remote.ConnectionArgs(
    host="127.0.0.1",
    port=PORT,
    user="USER",
    private_key=open("KEY").read(),
    host_key="HOST_KEY",
    dial_error_limit=1,
)
hello = remote.Command(
    "hello",
    connection=connection,
    create="CREATE",
    delete="echo gone >> FOLDER/deleted",
    stdin=pulumi.Output.secret("a-secret-input"),
)
copied = remote.CopyToRemote(
    "copied",
    connection=connection,
    source=pulumi.StringAsset("a text"),
    remote_path="FOLDER/copied",
)
pulumi.export("hello", hello.stdout)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    install(folder, tmp_path_factory.mktemp("build"))
    return folder


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Project:
    return Project(tmp_path / "project", home)


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
    preview = project.run("preview")
    assert "+ 3 to create" in preview
    assert "second: [unknown]" in preview
    assert not (project.folder / "out.txt").exists(), "a preview runs nothing"

    created = project.up()
    assert 'second: "saw made"' in created
    assert "out.txt" in created
    assert "creating" in created
    assert "saw made" in created.split("Outputs:")[0], "output is shown while it runs"
    assert "a-secret-input" not in project.state()
    resources = project.resources()
    assert resources["first"]["id"].startswith("first")
    assert resources["second"]["outputs"]["stdout"] == "saw made", "not secret, as the real one's"
    assert secret(resources["second"]["outputs"]["stdin"]) == "a-secret-input"

    unchanged = project.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    assert "3 unchanged" in unchanged

    program("berta", "[1]")
    assert "~ 2 updated" in project.up(), "the second follows the first's new output"
    outputs = project.resources()["first"]["outputs"]
    assert outputs["stdout"] == "updated from made"

    program("berta", "[2]")
    assert "+-1 replaced" in project.up()
    assert (project.folder / "deleted").read_text() == "berta\n"

    assert "- 3 deleted" in project.run("destroy", "--yes", "--skip-preview")
    assert (project.folder / "deleted").read_text() == "berta\nberta\n"


def test_the_whole_life_of_remote_commands(
    project: Project, server: SshServer, tmp_path: Path
) -> None:
    def program(create: str, host_key: str = server.host_key) -> None:
        text = REMOTE.replace("PORT", str(server.port)).replace("CREATE", create)
        text = text.replace("USER", server.connection["user"]).replace("HOST_KEY", host_key)
        key = server.folder / "client_key"
        project.program(text.replace("KEY", str(key)).replace("FOLDER", str(tmp_path)))

    server.stop()
    program("cat")
    assert "+ 3 to create" in project.run("preview"), "with the host off"
    server.start()
    created = project.up()
    assert "hello: " in created
    assert (tmp_path / "copied").read_text() == "a text"
    state = project.state()
    for text in ("PRIVATE KEY", "127.0.0.1"):
        assert text not in state, "the connection is secret as a whole"

    assert "3 unchanged" in project.up()

    program("echo failing; exit 3")
    failed = project.up(fails=True)
    assert 'Process exited with status 3: running "echo failing; exit 3":' in failed
    assert project.resources()["hello"]["outputs"]["stdout"] != "failing", "the old state is kept"
    assert "Traceback" not in failed

    program("cat", host_key=(server.folder / "encrypted_key.pub").read_text().strip())
    refused = project.up(fails=True)
    assert f"127.0.0.1:{server.port} showed another host key than" in refused

    program("cat")
    project.up()
    project.run("destroy", "--yes", "--skip-preview")
    assert (tmp_path / "deleted").read_text() == "gone\n"


def test_what_is_not_served_is_said(project: Project) -> None:
    project.program(
        "from pulumi_command import remote\n"
        "remote.CopyFile('old', connection={'host': 'x'}, local_path='a', remote_path='b')\n"
    )
    text = project.run("preview", fails=True)
    assert "command:remote:CopyFile: this stand-in for Pulumi's command plugin serves only" in text
    assert "Traceback" not in text
