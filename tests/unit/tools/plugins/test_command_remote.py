"""Commands and copies over SSH to a real sshd, without an engine."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.plugins.ssh_server import SshServer, generate_key
from tools.plugins import command
from tools.plugins.base import CheckFailures, Failure, Request
from tools.plugins.values import UNKNOWN, Asset

REMOTE = command.RemoteCommand()
COPY = command.CopyToRemote()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    running = SshServer(tmp_path_factory.mktemp("sshd"))
    running.start()
    yield running
    running.stop()


class Lines:
    """An engine that keeps what is logged, with the time."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float]] = []

    def log(self, urn: str, message: str, severity: str, ephemeral: bool) -> None:
        self.lines.append((message, time.monotonic()))


def request(inputs: dict[str, Any], **options: Any) -> Request:
    urn = "urn:pulumi:dev::test::command:remote:Command::greet"
    return Request(urn=urn, type="command:remote:Command", name="greet", inputs=inputs, **options)


def run(server: SshServer, **inputs: Any) -> dict[str, Any]:
    """The outputs of a create; a `connection` adds to the server's."""
    connection = {**server.connection, **inputs.pop("connection", {})}
    asked = request({**inputs, "connection": connection})
    asked.inputs = REMOTE.check(asked)
    return REMOTE.create(asked).outputs


def test_a_command_runs_there_with_its_stdin_and_both_outputs(server: SshServer) -> None:
    outputs = run(server, create="cat; echo warning >&2", stdin="a secret\nof two lines\n\n")
    assert outputs["stdout"] == "a secret\nof two lines\n", "one final line break is trimmed"
    assert outputs["stderr"] == "warning"


def test_a_large_stdin_that_is_not_read_is_no_error(server: SshServer) -> None:
    assert run(server, create="echo done", stdin="x" * 3_000_000)["stdout"] == "done"


def test_without_a_create_nothing_is_dialled(server: SshServer) -> None:
    outputs = run(server, update="false", connection={"host": "192.0.2.1", "dialErrorLimit": 0})
    assert (outputs["stdout"], outputs["stderr"]) == ("", "")


def test_a_preview_does_not_dial_and_knows_no_output(server: SshServer) -> None:
    inputs = {"create": UNKNOWN, "connection": {"host": UNKNOWN}}
    created = REMOTE.create(request(REMOTE.check(request(inputs)), preview=True))
    assert created.identifier.startswith("greet")
    assert len(created.identifier) == len("greet") + 8
    assert created.outputs["stdout"] is created.outputs["stderr"] is UNKNOWN
    assert created.outputs["connection"]["user"] == "root"


@pytest.mark.parametrize("status", [3, 255])
def test_a_failing_command_is_run_once_and_told_with_its_output(
    server: SshServer, tmp_path: Path, status: int
) -> None:
    ran = tmp_path / "ran"
    script = f"echo once >> {ran}; echo out; echo err >&2; exit {status}"
    with pytest.raises(Failure) as error:
        run(server, create=script, connection={"dialErrorLimit": 5})
    text = str(error.value)
    assert text.startswith(f'Process exited with status {status}: running "echo once')
    assert "out\n" in text
    assert "err\n" in text
    assert ran.read_text() == "once\n"


def test_a_connection_lost_midway_does_not_run_the_command_again(
    server: SshServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    # The parent of the login shell is the sshd of this one connection.
    script = f"echo once >> {ran}; kill -9 $PPID; sleep 5"
    with pytest.raises(Failure, match="was lost while the command ran"):
        run(server, create=script, connection={"dialErrorLimit": 5})
    assert ran.read_text() == "once\n"


def test_another_host_key_is_refused_at_once(server: SshServer, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other")
    before, started = server.logins(), time.monotonic()
    with pytest.raises(Failure, match="showed another host key than") as error:
        run(server, create="true", connection={"hostKey": other, "dialErrorLimit": -1})
    assert f"127.0.0.1:{server.port}" in str(error.value)
    assert server.logins() == before
    assert time.monotonic() - started < 5


def test_a_host_key_of_another_type_is_refused(server: SshServer, tmp_path: Path) -> None:
    generate_key(tmp_path / "other", kind="ecdsa")
    key = (tmp_path / "other.pub").read_text()
    with pytest.raises(Failure, match="showed another host key"):
        run(server, create="true", connection={"hostKey": key})


def test_without_a_host_key_any_is_taken(server: SshServer) -> None:
    connection = {key: each for key, each in server.connection.items() if key != "hostKey"}
    asked = request({"create": "echo in", "connection": connection})
    assert REMOTE.create(asked).outputs["stdout"] == "in"


def test_a_malformed_host_key_is_a_failed_check(server: SshServer) -> None:
    with pytest.raises(CheckFailures, match=r"connection.hostKey: .*ssh_host_ed25519_key.pub"):
        run(server, create="true", connection={"hostKey": "SHA256:abcdef"})


def test_a_host_that_is_down_is_dialled_again_until_it_is_up(tmp_path: Path) -> None:
    late = SshServer(tmp_path)
    starter = threading.Timer(0.6, late.start)
    starter.start()
    try:
        assert run(late, create="echo up", connection={"dialErrorLimit": 30})["stdout"] == "up"
    finally:
        starter.join()
        late.stop()


def test_the_dials_are_counted(server: SshServer) -> None:
    engine = Lines()
    connection = {**server.connection, "port": 1, "dialErrorLimit": 2}
    asked = request({"create": "true", "connection": connection}, engine=engine)
    with pytest.raises(Failure, match=r"cannot connect to .*:1: .*Connection refused.*3 tries"):
        REMOTE.create(asked)
    assert len(engine.lines) == 2


def test_an_encrypted_key_is_opened_with_its_passphrase(server: SshServer) -> None:
    key = (server.folder / "encrypted_key").read_text()
    keyed = {"privateKey": key, "privateKeyPassword": "correct horse", "dialErrorLimit": 0}
    assert run(server, create="echo in", connection=keyed)["stdout"] == "in"
    with pytest.raises(Failure, match="Permission denied"):
        run(server, create="true", connection={**keyed, "privateKeyPassword": "wrong"})


def test_variables_reach_the_command_or_are_an_error(server: SshServer) -> None:
    hello = run(server, create='echo "$GREETING"', environment={"GREETING": "good\nday"})
    assert hello["stdout"] == "good\nday"
    with pytest.raises(Failure, match="does not accept OTHER; name it in AcceptEnv"):
        run(server, create="true", environment={"GREETING": "x", "OTHER": "y"})


def test_an_update_and_a_delete_see_the_output_before(server: SshServer) -> None:
    inputs = {
        "create": "echo made",
        "update": 'echo "was $PULUMI_COMMAND_STDOUT"',
        "delete": '[ "$PULUMI_COMMAND_STDOUT" = "was made" ]',
        "connection": server.connection,
    }
    state = REMOTE.create(request(inputs)).outputs
    state = REMOTE.update(request(inputs, old_outputs=state))
    assert state["stdout"] == "was made"
    REMOTE.delete(request({}, old_outputs=state))
    with pytest.raises(Failure, match="exited with status 1"):
        REMOTE.delete(request({}, old_outputs={**state, "stdout": "other"}))


def test_lines_are_shown_while_the_command_runs(server: SshServer) -> None:
    engine = Lines()
    inputs = {"create": "echo one; sleep 0.6; echo two", "connection": server.connection}
    REMOTE.create(request(inputs, engine=engine))
    (one, first), (two, second) = engine.lines
    assert (one, two) == ("one", "two")
    assert second - first > 0.4


@pytest.mark.parametrize(
    ("logging", "shown"), [("none", []), ("stdout", ["out"]), ("stderr", ["err"])]
)
def test_logging_chooses_what_is_shown(server: SshServer, logging: str, shown: list[str]) -> None:
    engine = Lines()
    inputs = {"create": "echo out; echo err >&2", "logging": logging}
    REMOTE.create(request({**inputs, "connection": server.connection}, engine=engine))
    assert [line for line, _ in engine.lines] == shown


def test_no_secret_is_an_argument_or_stays_on_disk(server: SshServer, tmp_path: Path) -> None:
    found = tmp_path / "arguments"
    script = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' > {found}; echo $GREETING"
    environment = {"GREETING": "the-secret-variable"}
    outputs = run(server, create=script, stdin="the-secret-input", environment=environment)
    assert outputs["stdout"] == "the-secret-variable"
    arguments = found.read_text()
    assert "SendEnv=GREETING" in arguments, "the client was running meanwhile"
    assert "the-secret" not in arguments
    assert "PRIVATE KEY" not in arguments
    assert not own_folders()


def own_folders() -> list[Path]:
    """Folders of this process's calls; other engines on this machine have theirs beside them."""
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return [path for place in places for path in place.glob(f"autojoin-ssh-{os.getpid()}-*")]


def test_what_a_killed_plugin_left_is_swept(server: SshServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "pass"]
    with subprocess.Popen(command) as gone:
        gone.wait()
    left = Path("/dev/shm", f"autojoin-ssh-{gone.pid}-left")
    left.mkdir(mode=0o700)
    (left / "identity").write_text("a key")
    inputs = {"create": "sleep 0.5", "connection": server.connection}
    running = threading.Thread(target=lambda: REMOTE.create(request(inputs)))
    running.start()
    deadline = time.monotonic() + 5
    while not own_folders():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run(server, create="true")
    assert own_folders(), "a call that still runs keeps its folder"
    running.join()
    assert not left.exists()
    assert not own_folders()


def test_a_proxy_is_refused_rather_than_ignored(server: SshServer) -> None:
    with pytest.raises(Failure, match="does not serve proxies"):
        run(server, create="true", connection={"proxy": {"host": "bastion"}})


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(CheckFailures) as error:
        REMOTE.check(request({"creat": "x", "stdin": 3, "environment": {}}))
    assert dict(error.value.failures).keys() == {"connection", "creat", "stdin"}
    with pytest.raises(CheckFailures, match=r"connection\.host: missing"):
        REMOTE.check(request({"connection": {"user": "root"}}))
    with pytest.raises(CheckFailures, match="logging: one of"):
        REMOTE.check(request({"connection": {"host": "x"}, "logging": "all"}))


# --- copies ----------------------------------------------------------------------------------


def copy(server: SshServer, source: Asset, target: Path) -> str:
    inputs = {"source": source, "remotePath": str(target), "connection": server.connection}
    return COPY.create(request(inputs)).identifier


def test_a_file_is_copied_and_its_parents_are_made(server: SshServer, tmp_path: Path) -> None:
    source = tmp_path / 'odd "name" [1]*.txt'
    source.write_bytes(b"\x00content\n")
    target = tmp_path / "new" / "deep" / "it's here"
    identifier = copy(server, Asset(is_archive=False, path=str(source)), target)
    assert target.read_bytes() == b"\x00content\n"
    assert len(bytes.fromhex(identifier)) == 4
    target.unlink()
    target.mkdir()
    copy(server, Asset(is_archive=False, path=str(source)), target)
    assert (target / source.name).exists(), "into a directory that is there"


def test_a_text_is_copied(server: SshServer, tmp_path: Path) -> None:
    text = Asset(is_archive=False, text="text ü\n")
    copy(server, text, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "text ü\n"
    with pytest.raises(Failure, match="is a directory"):
        copy(server, text, tmp_path)


@pytest.mark.parametrize(("suffix", "below"), [("", "tree"), ("/", "")])
def test_a_directory_is_copied_as_cp_does(
    server: SshServer, tmp_path: Path, suffix: str, below: str
) -> None:
    tree = tmp_path / "tree"
    (tree / "sub folder").mkdir(parents=True)
    (tree / "top").write_text("1")
    (tree / "sub folder" / "leaf").write_text("2")
    target = tmp_path / "target"
    copy(server, Asset(is_archive=True, path=f"{tree}{suffix}"), target)
    assert (target / below / "top").read_text() == "1"
    assert (target / below / "sub folder" / "leaf").read_text() == "2"


def test_a_copy_that_fails_says_why(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"cannot copy to .*/file/below on .*127.0.0.1"):
        copy(server, Asset(is_archive=False, text="x"), tmp_path / "file" / "below")
    with pytest.raises(Failure, match="does not exist on this machine"):
        copy(server, Asset(is_archive=False, path=str(tmp_path / "none")), tmp_path / "x")


def test_a_copy_is_repeated_only_for_another_source_or_target(
    server: SshServer, tmp_path: Path
) -> None:
    source = Asset(is_archive=False, text="x", hash="1")
    old = {
        "source": source,
        "remotePath": str(tmp_path / "target"),
        "connection": server.connection,
    }
    COPY.update(request({**old, "triggers": [1]}, old_outputs=old))
    assert not (tmp_path / "target").exists()
    new = {**old, "source": dataclasses.replace(source, text="y", hash="2")}
    COPY.update(request(new, old_outputs=old))
    assert (tmp_path / "target").read_text() == "y"
