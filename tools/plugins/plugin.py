"""What a resource plugin is, less its resources: `Kind`, `Request`, `Failure` and `main`.

A plugin is a gRPC server that the engine starts; the protocol's messages come with Pulumi's SDK.
Two things are left to the engine: it marks an output secret where the input of that name is, and
tells what differs between old and new inputs.

Not on the SDK's `pulumi.provider.experimental` (tried again with 3.272): it appends a traceback to
every error, and an unknown value, which every preview has, can't be sent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
)

from tools.plugins import LAB_STACK, lab_stack

Properties = dict[str, Any]

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # the engine's word for: known after the update
MAXIMUM_MESSAGE = 400 * 1024 * 1024
THREADS = 512  # more than any --parallel; they are made as they are needed
ORPHAN_SECONDS = 1.0  # how often to look whether the engine is still there


class Failure(Exception):
    """An operation failed: the message says what, where, what was found and what to do."""


@dataclass
class Request:
    """One operation on one resource; `old` are the outputs that the state has of it."""

    urn: str
    inputs: Properties = field(default_factory=dict)
    old: Properties = field(default_factory=dict)
    engine: Engine | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    def log(self, line: str) -> None:
        """Show a line at this resource while it is worked on."""
        if self.engine is not None:
            self.engine.log(self.urn, line)


class Kind:
    """The operations of one type of resource. `inputs` are those that it takes."""

    inputs: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    computed: tuple[str, ...] = ()  # outputs that a preview doesn't know

    def wrong(self, inputs: Properties) -> dict[str, str]:
        """What is wrong with inputs, by their names."""
        missing = [name for name in self.required if inputs.get(name) is None]
        strange = [name for name, value in inputs.items() if name not in self.inputs and value]
        return dict.fromkeys(missing, "missing required property") | dict.fromkeys(
            strange, f"the lab's stand-in serves {', '.join(sorted(self.inputs))} only"
        )

    def complete(self, inputs: Properties) -> Properties:
        """The inputs with the defaults, as the outputs show them."""
        return inputs

    def replacing(self, request: Request, old_inputs: Properties) -> list[str]:
        """The properties whose change needs another resource."""
        return []

    def foretold_identifier(self, request: Request) -> str:
        """The id that a preview tells."""
        return ""

    def create(self, request: Request) -> tuple[str, Properties]:
        """The id, and the outputs beside the inputs."""
        raise NotImplementedError

    def update(self, request: Request) -> Properties:
        """The outputs beside the inputs."""
        raise NotImplementedError

    def read(self, old: Properties) -> Properties:
        """The outputs as they are now."""
        return old

    def delete(self, request: Request) -> None:
        """Undo it; what is only in the state needs nothing."""


class Engine:
    """The engine's own service, which takes lines to show."""

    def __init__(self, address: str) -> None:
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))

    def log(self, urn: str, line: str) -> None:
        # Shown as it comes, not once more at the end.
        told = engine_pb2.LogRequest(
            severity=engine_pb2.LogSeverity.INFO, message=line, urn=urn, ephemeral=True
        )
        with contextlib.suppress(grpc.RpcError):  # an engine that is gone reads nothing
            self._stub.Log(told, timeout=10)


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """The protocol on one side, kinds of resources on the other."""

    def __init__(
        self,
        name: str,
        version: str,
        kinds: Mapping[str, Kind],
        engine: Engine | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.version, self.kinds, self.engine = name, version, kinds, engine
        self.stop = stop

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=self.version)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.stop()
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            raise self._not_served(request.tok)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            wrong = self._kind(request.urn).wrong(opened(request.news))
            failures = [
                provider_pb2.CheckFailure(property=name, reason=reason)
                for name, reason in wrong.items()
            ]
            return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            asked = self._request(request.urn, request.news, request.olds)
            replacing = self._kind(request.urn).replacing(asked, opened(request.old_inputs))
            answer = provider_pb2.DiffResponse
            computed = [name for name in replacing if name not in asked.inputs]
            # Of the inputs the engine sees for itself what differs.
            changes = answer.DIFF_SOME if computed else answer.DIFF_UNKNOWN
            return answer(changes=changes, replaces=replacing, diffs=computed)

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            kind, asked = self._kind(request.urn), self._request(request.urn, request.properties)
            inputs = kind.complete(asked.inputs)
            if request.preview:
                identifier, made = kind.foretold_identifier(asked), unknown(kind)
            else:
                self._only_for_the_lab(request.urn)
                identifier, made = kind.create(asked)
            return provider_pb2.CreateResponse(id=identifier, properties=closed({**inputs, **made}))

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            kind = self._kind(request.urn)
            asked = self._request(request.urn, request.news, request.olds)
            if not request.preview:
                self._only_for_the_lab(request.urn)
            made = unknown(kind) if request.preview else kind.update(asked)
            outputs = {**kind.complete(asked.inputs), **made}
            return provider_pb2.UpdateResponse(properties=closed(outputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            kind, old = self._kind(request.urn), opened(request.properties)
            if not old:
                raise self._not_served("an import")
            return provider_pb2.ReadResponse(
                id=request.id, properties=closed(kind.read(old)), inputs=request.inputs
            )

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with told(context):
            kind = self._kind(request.urn)
            self._only_for_the_lab(request.urn)
            kind.delete(self._request(request.urn, old=request.properties))
            return empty_pb2.Empty()

    def _kind(self, urn: str) -> Kind:
        token = urn.split("::")[2].rpartition("$")[2]
        if token not in self.kinds:
            raise self._not_served(token)
        return self.kinds[token]

    def _request(
        self, urn: str, inputs: struct_pb2.Struct | None = None, old: Any | None = None
    ) -> Request:
        return Request(urn, opened(inputs), opened(old), self.engine)

    def _not_served(self, what: str) -> Failure:
        return Failure(
            f"{what}: the lab's stand-in for Pulumi's {self.name} plugin serves "
            f"{', '.join(sorted(self.kinds))} only; {self._instead()}"
        )

    def _only_for_the_lab(self, urn: str) -> None:
        stack = urn.split("::")[0].removeprefix("urn:pulumi:")
        if os.environ.get(LAB_STACK) != lab_stack(os.environ.get("PULUMI_BACKEND_URL", ""), stack):
            raise Failure(
                f"stack {stack} is not the lab's, and this is the lab's stand-in for Pulumi's "
                f"{self.name} plugin; {self._instead()}"
            )

    def _instead(self) -> str:
        return (
            "in a shell without the lab's environment (PULUMI_HOME) run "
            f"`pulumi plugin install resource {self.name} {self.version}`"
        )


def opened(properties: struct_pb2.Struct | None) -> Properties:
    """What came over the wire, without what is null."""
    found = {} if properties is None else json_format.MessageToDict(properties)
    return {name: value for name, value in found.items() if value is not None}


def closed(properties: Properties) -> struct_pb2.Struct:
    return json_format.ParseDict(properties, struct_pb2.Struct())


def unknown(kind: Kind) -> Properties:
    return dict.fromkeys(kind.computed, UNKNOWN)


@contextlib.contextmanager
def told(context: grpc.ServicerContext) -> Iterator[None]:
    """A Failure becomes its message at the resource, anything else one line to report."""
    try:
        yield
    except Failure as failure:
        context.abort(grpc.StatusCode.UNKNOWN, str(failure))
    except Exception as error:
        line = f"a fault of the lab's stand-in itself: {type(error).__name__}: {error}"
        context.abort(grpc.StatusCode.INTERNAL, line)


def serve(plugin: Plugin) -> tuple[grpc.Server, int]:
    """The server on a free port of loopback, started, and the port."""
    sizes = [
        ("grpc.max_receive_message_length", MAXIMUM_MESSAGE),
        ("grpc.max_send_message_length", MAXIMUM_MESSAGE),
    ]
    server = grpc.server(ThreadPoolExecutor(max_workers=THREADS), options=sizes)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(plugin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main(
    name: str, version: str, kinds: Mapping[str, Kind], stop: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run as a plugin: the engine's address is the first argument, the port goes to stdout.

    `stop` ends at once what operations have started.
    """
    engine = os.getppid()  # at once: it may be killed at any moment after this
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not addresses:
        sys.exit(f"pulumi-resource-{name} is a plugin: Pulumi's engine starts it")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    _server, port = serve(Plugin(name, version, kinds, Engine(addresses[0]), stop))
    print(port, flush=True)
    while not ended.wait(ORPHAN_SECONDS) and os.getppid() == engine:
        pass  # an engine that was killed could not tell
    stop()
    os._exit(0)
