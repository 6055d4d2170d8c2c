"""The plugin server as the engine sees it: over gRPC, in the protocol's own messages."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2

from tools.plugins import base, package, values
from tools.plugins.command_run import run
from tools.plugins.protocol import engine_pb2_grpc, provider_pb2, provider_pb2_grpc, status_pb2
from tools.plugins.values import UNKNOWN, Secret

URN = "urn:pulumi:dev::test::a:b:C$test:index:{}::name"


class Plain(base.Handler):
    """Its create does what its input `action` says."""

    secret_outputs = frozenset({"key"})
    replace_on = frozenset({"size"})
    barrier = threading.Barrier(3)

    def create(self, request: base.Request) -> base.Created:
        action = request.inputs.get("action")
        if action == "fail":
            raise base.Failure(f"no luck with {request.inputs['token']}")
        if action == "bug":
            raise KeyError("missing")
        if action == "half":
            outputs = {**request.inputs, "key": "k"}
            raise base.InitializationFailed("half-1", outputs, ["not ready yet"])
        if action == "meet":
            self.barrier.wait(10)
        if action == "sleep":
            status = run(["sleep", "30"]).status
            raise base.Failure(f"ended with {status}")
        if action == "log":
            request.log(f"using {request.inputs['token']}")
        return base.Created("id-1", {**request.inputs, "key": "k", "later": UNKNOWN})

    def read(self, request: base.Request) -> base.State | None:
        return None if request.identifier == "gone" else super().read(request)


class Log(engine_pb2_grpc.EngineServicer):
    """An engine that keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Log(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return empty_pb2.Empty()


@pytest.fixture
def log() -> Iterator[tuple[Log, str]]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = Log()
    engine_pb2_grpc.add_EngineServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def stub(
    log: tuple[Log, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    monkeypatch.setattr(base, "PROCESSES", base.Processes())
    monkeypatch.setattr("tools.plugins.command_run.PROCESSES", base.PROCESSES)
    provider = base.Provider("test", {"test:index:Plain": Plain()})
    server, port = base.serve(provider, "1.2.3", base.Engine(log[1]))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield provider_pb2_grpc.ResourceProviderStub(channel)
    server.stop(None)


def urn(name: str = "Plain") -> str:
    return URN.format(name)


def creation(**inputs: Any) -> Any:
    return provider_pb2.CreateRequest(urn=urn(), properties=values.encode_map(inputs))


def fails(call: Any, request: Any) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        call(request)
    return error.value


def test_secrets_are_kept_over_a_create_and_unknowns_are_sent(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    inputs = {
        "token": Secret("abcdef"),
        "nested": {"open": 1, "closed": Secret("x")},
        "list": ["a", Secret("b")],
        "count": 3,
    }
    answer = stub.Create(creation(**inputs))
    assert answer.id == "id-1"
    outputs = values.decode_map(answer.properties)
    assert outputs == {
        **inputs,
        "list": Secret(["a", "b"]),  # a list's members may have moved
        "key": Secret("k"),
        "later": UNKNOWN,
    }


def test_a_failure_is_its_message_without_the_secrets(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    error = fails(stub.Create, creation(action="fail", token=Secret("hunter22")))
    assert error.details() == "no luck with [secret]"


def test_an_error_of_the_plugin_itself_is_one_line(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    text = fails(stub.Create, creation(action="bug")).details()
    assert text.startswith("error in the stand-in for Pulumi's test plugin itself")
    assert "KeyError at test_base.py:" in text
    assert "\n" not in text


def test_a_resource_that_did_not_become_ready_is_kept(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    error = fails(stub.Create, creation(action="half", token=Secret("abcdef")))
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    detail = provider_pb2.ErrorResourceInitFailed()
    assert status.details[0].Unpack(detail)
    assert detail.id == "half-1"
    assert list(detail.reasons) == ["not ready yet"]
    kept = values.decode_map(detail.properties)
    assert kept == {"action": "half", "token": Secret("abcdef"), "key": Secret("k")}


@pytest.mark.parametrize(
    ("call", "request_", "said"),
    [
        ("Create", provider_pb2.CreateRequest(urn=urn("Other")), "test:index:Other: .*serves only"),
        ("Check", provider_pb2.CheckRequest(urn=urn("Other")), "test:index:Other: .*serves only"),
        ("Invoke", provider_pb2.InvokeRequest(tok="test:index:get"), "serves no such function"),
        ("Call", provider_pb2.CallRequest(tok="test:index:m"), "serves no methods"),
        ("Construct", provider_pb2.ConstructRequest(type="test:a:B"), "serves no component"),
        ("Update", provider_pb2.UpdateRequest(urn=urn(), id="x"), "does not serve update"),
        ("Read", provider_pb2.ReadRequest(urn=urn(), id="x"), "does not serve import"),
    ],
)
def test_what_is_not_served_says_so(
    stub: provider_pb2_grpc.ResourceProviderStub, call: str, request_: Any, said: str
) -> None:
    import re

    assert re.search(said, fails(getattr(stub, call), request_).details())


def test_operations_run_side_by_side(stub: provider_pb2_grpc.ResourceProviderStub) -> None:
    calls: list[Future[Any]] = [stub.Create.future(creation(action="meet")) for _ in range(3)]
    assert [call.result(10).id for call in calls] == ["id-1"] * 3


def test_a_cancel_ends_running_programs(stub: provider_pb2_grpc.ResourceProviderStub) -> None:
    started = time.monotonic()
    call = stub.Create.future(creation(action="sleep"))
    time.sleep(0.3)
    stub.Cancel(empty_pb2.Empty())
    assert call.exception(10).details() == "ended with -15"
    assert "cancelled before" in fails(stub.Create, creation(action="sleep")).details()
    assert time.monotonic() - started < 5


def test_log_lines_reach_the_engine_at_their_resource(
    stub: provider_pb2_grpc.ResourceProviderStub, log: tuple[Log, str]
) -> None:
    stub.Create(creation(action="log", token=Secret("hunter22")))
    (line,) = log[0].requests
    assert (line.urn, line.message) == (urn(), "using [secret]")


def test_diff_names_paths_and_replacements(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    kinds = provider_pb2.PropertyDiff.Kind
    old = {"a": {"b.c": [1, 2]}, "size": 1, "gone": True, "same": Secret("s")}
    new = {"a": {"b.c": [1, 3, 4]}, "size": 2, "same": "s"}
    answer = stub.Diff(
        provider_pb2.DiffRequest(
            urn=urn(), id="x", old_inputs=values.encode_map(old), news=values.encode_map(new)
        )
    )
    assert answer.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert {path: kinds.Name(each.kind) for path, each in answer.detailedDiff.items()} == {
        'a["b.c"][1]': "UPDATE",
        'a["b.c"][2]': "ADD",
        "size": "UPDATE_REPLACE",
        "gone": "DELETE",
    }
    assert list(answer.replaces) == ["size"]
    same = stub.Diff(
        provider_pb2.DiffRequest(
            urn=urn(), id="x", old_inputs=values.encode_map(old), news=values.encode_map(old)
        )
    )
    assert same.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_read_echoes_the_state_or_finds_nothing(
    stub: provider_pb2_grpc.ResourceProviderStub,
) -> None:
    state = values.encode_map({"token": Secret("abcdef"), "size": 1.5})
    request = provider_pb2.ReadRequest(urn=urn(), id="x", properties=state, inputs=state)
    answer = stub.Read(request)
    assert (answer.id, answer.properties, answer.inputs) == ("x", state, state)
    assert stub.Read(provider_pb2.ReadRequest(urn=urn(), id="gone", properties=state)).id == ""


def test_a_long_error_arrives_whole(stub: provider_pb2_grpc.ResourceProviderStub) -> None:
    """gRPC bounds what an error may hold; the engine's client takes 16 MiB."""
    text = fails(stub.Create, creation(action="fail", token="x" * 6000)).details()
    assert text == f"no luck with {'x' * 6000}"


def test_a_packaged_plugin_starts_quickly_and_tells_its_version(
    tmp_path: Path, log: tuple[Log, str]
) -> None:
    built = {name: (version, folder) for name, version, folder
             in package.build(tmp_path, sys.executable)}  # fmt: skip
    version, folder = built["command"]
    process = subprocess.Popen(
        [folder / "pulumi-resource-command", log[1]], stdout=subprocess.PIPE, cwd="/"
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = provider_pb2_grpc.ResourceProviderStub(channel)
            assert stub.GetPluginInfo(empty_pb2.Empty()).version == version
    finally:
        process.kill()
        process.wait()
    assert not (folder / "tools" / "plugins" / "kubernetes.py").exists()


def test_a_plugin_ends_when_its_engine_was_killed() -> None:
    script = f"{sys.executable} -m tools.plugins.command 127.0.0.1:1 & echo $!; wait"
    engine = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    plugin = int(engine.stdout.readline())
    assert int(engine.stdout.readline()) > 0, "it serves"
    engine.kill()
    engine.wait()
    assert engine.stdout.read() == "", "the pipe closes when the plugin is gone"
    assert not Path(f"/proc/{plugin}/exe").exists()


def test_a_plugin_that_is_started_by_hand_explains_itself() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tools.plugins.command"], capture_output=True, text=True
    )
    assert answer.returncode != 0
    assert "Pulumi's engine starts it" in answer.stderr


def test_a_value_of_an_unknown_kind_is_refused() -> None:
    odd = {"4dabf18193072939515e22adb298388d": struct_pb2.Value(string_value="new kind")}
    with pytest.raises(ValueError, match="new kind"):
        values.decode(struct_pb2.Value(struct_value=struct_pb2.Struct(fields=odd)))
