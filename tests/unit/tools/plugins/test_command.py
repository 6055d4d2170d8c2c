"""The command stand-in's own work, without an engine: programs here, and over a real sshd."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.plugins.ssh_server import SshServer, generate_key
from tools.plugins.command import KINDS, LONGEST_OUTPUT, Command
from tools.plugins.plugin import UNKNOWN, Failure, Request

LOCAL, REMOTE = (KINDS[f"command:{kind}:Command"] for kind in ("local", "remote"))


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

    def log(self, urn: str, line: str) -> None:
        self.lines.append((line, time.monotonic()))


def request(inputs: dict[str, Any], engine: Any = None) -> Request:
    return Request("urn:pulumi:dev::test::command:remote:Command::greet", inputs, engine=engine)


def remote(server: SshServer, engine: Any = None, **inputs: Any) -> dict[str, Any]:
    """The outputs of a create; a `connection` adds to the server's."""
    connection = {**server.connection, **inputs.pop("connection", {})}
    inputs |= {"connection": connection, "addPreviousOutputInEnv": False}
    assert REMOTE.wrong(inputs) == {}
    return REMOTE.create(request(inputs, engine))[1]


@pytest.mark.parametrize("kind", [LOCAL, REMOTE])
def test_both_outputs_and_stdin(kind: Command, server: SshServer) -> None:
    inputs = {"create": "cat; echo warning >&2", "stdin": "a secret\nof two lines\n\n"}
    identifier, outputs = kind.create(request({**inputs, "connection": server.connection}))
    assert outputs["stdout"] == "a secret\nof two lines\n", "one final line break is trimmed"
    assert outputs["stderr"] == "warning"
    assert len(identifier) == len("greet") + 8


@pytest.mark.parametrize("kind", [LOCAL, REMOTE])
def test_a_large_stdin_that_is_not_read_is_no_error(kind: Command, server: SshServer) -> None:
    inputs = {"create": "echo done", "stdin": "x" * 3_000_000, "connection": server.connection}
    assert kind.create(request(inputs))[1]["stdout"] == "done"


def test_variables_reach_a_command_here() -> None:
    inputs = {"create": "echo $GREETING from $0", "environment": {"GREETING": "hello"}}
    assert LOCAL.create(request(inputs))[1]["stdout"] == "hello from /bin/sh"


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (LOCAL, 3, "exit status 3"),
        (REMOTE, 3, "Process exited with status 3"),
        (REMOTE, 255, "Process exited with status 255"),
    ],
)
def test_a_failing_command_is_run_once_and_told_with_its_output(
    kind: Command, status: int, words: str, server: SshServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    script = f"echo once >> {ran}; echo out; echo err >&2; exit {status}"
    with pytest.raises(Failure) as error:
        kind.create(request({"create": script, "connection": server.connection}))
    text = str(error.value)
    assert text.startswith(f'{words}: running "echo once')
    assert "out\n" in text and "err\n" in text
    assert ran.read_text() == "once\n"


def test_only_the_end_of_a_long_output_is_told() -> None:
    script = f"head -c {2 * LONGEST_OUTPUT} /dev/zero | tr '\\0' x; echo end; exit 1"
    with pytest.raises(Failure, match=r"only its end(.|\n)*end\n$") as error:
        LOCAL.create(request({"create": script}))
    assert len(str(error.value)) < LONGEST_OUTPUT + 1000


def test_delete_runs_with_what_the_state_holds(tmp_path: Path) -> None:
    old = {"delete": f"cat > {tmp_path}/gone", "stdin": "told"}
    LOCAL.delete(Request("urn:pulumi:dev::test::t::n", old=old))
    LOCAL.delete(Request("urn:pulumi:dev::test::t::n", old={"create": "false"}))
    assert (tmp_path / "gone").read_text() == "told"


@pytest.mark.parametrize(
    ("logging", "shown"), [("none", []), ("stdout", ["one", "two"]), ("stderr", ["err"])]
)
def test_what_is_to_be_shown_is_shown_while_it_runs(
    server: SshServer, logging: str, shown: list[str]
) -> None:
    engine = Lines()
    remote(server, engine, create="echo one; sleep 0.6; echo two; echo err >&2", logging=logging)
    assert [line for line, _ in engine.lines] == shown
    if len(shown) == 2:
        assert engine.lines[1][1] - engine.lines[0][1] > 0.4


def test_a_connection_lost_midway_does_not_run_the_command_again(
    server: SshServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    # The parent of the login shell is the sshd of this one connection.
    script = f"echo once >> {ran}; kill -9 $PPID; sleep 5"
    with pytest.raises(Failure, match="was lost while the command ran"):
        remote(server, create=script, connection={"dialErrorLimit": 5})
    assert ran.read_text() == "once\n"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_another_host_key_is_refused(server: SshServer, tmp_path: Path, kind: str) -> None:
    other = generate_key(tmp_path / "other", kind=kind)
    before = server.logins()
    with pytest.raises(Failure, match=r"cannot connect to .*(verif|no matching)"):
        remote(server, create="true", connection={"hostKey": other})
    assert server.logins() == before


def test_a_host_that_is_down_is_dialled_again_until_it_is_up(tmp_path: Path) -> None:
    late = SshServer(tmp_path)
    starter = threading.Timer(0.6, late.start)
    starter.start()
    try:
        assert remote(late, create="echo up", connection={"dialErrorLimit": 30})["stdout"] == "up"
    finally:
        starter.join()
        late.stop()


def test_the_dials_are_counted(server: SshServer) -> None:
    engine = Lines()
    with pytest.raises(Failure, match=r"cannot connect to .*:1: .*Connection refused"):
        remote(server, engine, create="true", connection={"port": 1, "dialErrorLimit": 2})
    assert len(engine.lines) == 2


def test_no_secret_is_an_argument_or_stays_on_disk(server: SshServer, tmp_path: Path) -> None:
    found = tmp_path / "arguments"
    script = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' > {found}"
    # By its port, and its key: others on this machine may be logged in somewhere meanwhile.
    script += f"; grep -lsx 'Port {server.port}' {folders()}/config"
    here = remote(server, create=script, stdin="the-secret-input")["stdout"].split()
    arguments = found.read_text()
    assert any(path in arguments for path in here), "the client ran meanwhile"
    assert "the-secret" not in arguments
    key = (server.folder / "client_key").read_text().splitlines()
    assert "PRIVATE KEY" in key[0]
    assert not [line for line in key[1:-1] if line in arguments]
    assert not any(Path(path).exists() for path in here)


def folders() -> str:
    place = "/dev/shm" if Path("/dev/shm").exists() else tempfile.gettempdir()
    return f"{place}/autojoin-ssh-*"


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "create"),
        ({"create": "x", "interpreter": ["python"]}, "interpreter"),
        ({"create": "x"}, "connection"),
        ({"create": "x", "connection": {"host": "h"}}, "connection.hostKey"),
        ({"create": "x", "connection": {"proxy": {"host": "h"}}}, "connection.proxy.hostKey"),
        ({"create": "x", "connection": UNKNOWN}, "addPreviousOutputInEnv"),
    ],
)
def test_what_is_not_served_is_named(inputs: dict[str, Any], named: str) -> None:
    assert named in REMOTE.wrong(inputs)
