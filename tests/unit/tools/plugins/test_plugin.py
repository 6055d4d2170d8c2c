"""The stand-ins as the engine meets them: packed, started, asked over the protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tools.plugins import LAB_STACK, lab_stack, package
from tools.plugins.plugin import UNKNOWN

BACKEND = "file:///lab"
Stub = provider_pb2_grpc.ResourceProviderStub


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return package.build(tmp_path_factory.mktemp("built"), sys.executable)


@contextmanager
def started(file: Path, **environment: str) -> Iterator[Stub]:
    own = {name: value for name, value in os.environ.items() if name != LAB_STACK}
    process = subprocess.Popen(
        [file, "127.0.0.1:1"], stdout=subprocess.PIPE, cwd="/", env={**own, **environment}
    )
    try:
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        # What this client refuses by default, now and then, the engine takes.
        with grpc.insecure_channel(address, [("grpc.max_metadata_size", 1 << 20)]) as channel:
            yield Stub(channel)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def command(built: dict[str, Path]) -> Iterator[Stub]:
    lab = {"PULUMI_BACKEND_URL": BACKEND, LAB_STACK: lab_stack(BACKEND, "dev")}
    with started(built["command"], **lab) as stub:
        yield stub


def urn(kind: str = "command:local:Command", stack: str = "dev") -> str:
    return f"urn:pulumi:{stack}::test::autojoin:index:Parent${kind}::name"


def struct(**values: Any) -> struct_pb2.Struct:
    return json_format.ParseDict(values, struct_pb2.Struct())


def refusal(call: Callable[[Any], Any], request: Any) -> str:
    with pytest.raises(grpc.RpcError) as error:
        call(request)
    return str(error.value.details())


def creation(create: str, **options: Any) -> Any:
    asked = {"urn": urn(), "properties": struct(create=create), **options}
    return provider_pb2.CreateRequest(**asked)


def test_it_tells_the_version_of_its_sdk(command: Stub) -> None:
    answer = command.GetPluginInfo(empty_pb2.Empty())
    assert answer.version == package.version("command")


def test_a_preview_does_nothing_and_knows_no_output(command: Stub, tmp_path: Path) -> None:
    answer = command.Create(creation(f"touch {tmp_path}/made", preview=True))
    found = json_format.MessageToDict(answer.properties)
    assert found["stdout"] == found["stderr"] == UNKNOWN
    assert not (tmp_path / "made").exists()


def test_a_long_error_arrives_whole(command: Stub) -> None:
    line = "x" * 6000
    assert f"{line}\n" in refusal(command.Create, creation(f"echo {line}; exit 1"))


def test_operations_run_side_by_side(command: Stub, tmp_path: Path) -> None:
    """Each waits for the other one's file."""
    wait = "for i in $(seq 100); do [ -e {there} ] && exit 0; sleep 0.05; done; exit 1"
    one, other = tmp_path / "one", tmp_path / "other"
    calls = [
        command.Create.future(creation(f"touch {here}; " + wait.format(there=there)))
        for here, there in ((one, other), (other, one))
    ]
    assert all(call.result(10).id for call in calls)


@pytest.mark.parametrize("environment", [{}, {LAB_STACK: lab_stack(BACKEND, "dev")}])
@pytest.mark.parametrize(("backend", "stack"), [(BACKEND, "home"), ("file:///mine", "dev")])
def test_for_a_stack_that_is_not_the_labs_it_changes_nothing(
    built: dict[str, Path], environment: dict[str, str], backend: str, stack: str, tmp_path: Path
) -> None:
    """Also in a shell with the lab's environment, where the user's own backend or stack is set."""
    made = tmp_path / "made"
    with started(built["command"], PULUMI_BACKEND_URL=backend, **environment) as stub:
        asked = creation(f"touch {made}", urn=urn(stack=stack))
        said = refusal(stub.Create, asked)
        old = struct(create="x", delete=f"touch {made}")
        deletion = provider_pb2.DeleteRequest(id="x", urn=asked.urn, properties=old)
        assert refusal(stub.Delete, deletion) == said
        update = provider_pb2.UpdateRequest(id="x", urn=asked.urn, news=asked.properties, olds=old)
        assert refusal(stub.Update, update) == said
        preview = stub.Create(creation("x", urn=asked.urn, preview=True))
    assert not made.exists() and preview.id
    assert said == (
        f"stack {stack} is not the lab's, and this is the lab's stand-in for Pulumi's command "
        "plugin; in a shell without the lab's environment (PULUMI_HOME) run "
        f"`pulumi plugin install resource command {package.version('command')}`"
    )


def test_what_is_not_served_is_said(command: Stub) -> None:
    strange = urn("command:remote:CopyToRemote")
    said = refusal(command.Check, provider_pb2.CheckRequest(urn=strange))
    assert said.startswith(
        "command:remote:CopyToRemote: the lab's stand-in for Pulumi's command plugin serves "
        "command:local:Command, command:remote:Command only; in a shell without"
    )
    said = refusal(command.Invoke, provider_pb2.InvokeRequest(tok="command:local:run"))
    assert said.startswith("command:local:run: the lab's stand-in")
    read = provider_pb2.ReadRequest(id="x", urn=urn())
    assert refusal(command.Read, read).startswith("an import: the lab's stand-in")


def test_wrong_inputs_are_named(command: Stub) -> None:
    asked = provider_pb2.CheckRequest(urn=urn(), news=struct(dir="/", triggers=[1]))
    found = {each.property: each.reason for each in command.Check(asked).failures}
    assert found.keys() == {"create", "dir"}


def test_a_cancel_ends_what_runs(built: dict[str, Path], tmp_path: Path) -> None:
    lab = {"PULUMI_BACKEND_URL": BACKEND, LAB_STACK: lab_stack(BACKEND, "dev")}
    with started(built["command"], **lab) as stub:
        call = stub.Create.future(creation(f"sleep 60 & touch {tmp_path}/runs; wait"))
        while not (tmp_path / "runs").exists():
            time.sleep(0.02)
        stub.Cancel(empty_pb2.Empty())
        assert "terminated" in str(call.exception(10).details())
        assert "cancelled" in refusal(stub.Create, creation("true"))


def test_a_plugin_ends_when_its_engine_was_killed(built: dict[str, Path]) -> None:
    script = f"{built['command']} 127.0.0.1:1 & echo $!; wait"
    engine = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    plugin = int(engine.stdout.readline())
    assert int(engine.stdout.readline()) > 0, "it serves"
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    assert engine.stdout.read() == "", "the pipe closes when the plugin is gone"
    assert not Path(f"/proc/{plugin}/exe").exists()


def test_a_plugin_that_is_started_by_hand_explains_itself(built: dict[str, Path]) -> None:
    answer = subprocess.run([built["tls"]], capture_output=True, text=True)
    assert answer.returncode != 0
    assert "Pulumi's engine starts it" in answer.stderr
