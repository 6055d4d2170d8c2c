"""What a resource plugin is, less its resources: `Provider`, `Handler`, `Request`, `main`.

A plugin is a gRPC server that the engine starts. This one serves each request in a thread of its
own, so a handler may block. A handler sees plain Python values (see values.py): Secret marks are
taken off its inputs, and put back on outputs of the same name. It raises `Failure` with one clear
message; any other exception is reported as an error of the plugin itself, in one line.

Not on the SDK's `pulumi.provider.experimental`: that adds tracebacks to errors, cannot send
unknown values, and hides the old inputs from diff.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2

from tools.plugins import VERSION_VARIABLE, values
from tools.plugins.protocol import (
    engine_pb2,
    engine_pb2_grpc,
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    status_pb2,
)
from tools.plugins.values import UNKNOWN, Properties, Secret, Value

MAXIMUM_MESSAGE = 400 * 1024 * 1024
THREADS = 512  # more than any --parallel; they are made as they are needed
REDACTED = "[secret]"
ORPHAN_SECONDS = 1.0  # how often to look whether the engine is still there

Severity = str  # "debug" | "info" | "warning" | "error"


class Failure(Exception):
    """An operation failed: the message says what, where, what was found and what to do."""


class CheckFailures(Exception):
    """Inputs are wrong: (property, reason) pairs, shown by the engine at the resource."""

    def __init__(self, *failures: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in failures))
        self.failures = failures


class InitializationFailed(Failure):
    """The resource exists and is kept in the state, but did not become ready."""

    def __init__(self, identifier: str, outputs: Properties, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.identifier, self.outputs, self.reasons = identifier, outputs, reasons


@dataclass
class Request:
    """One operation on one resource. `inputs`, `old_inputs`, `old_outputs` hold no Secret marks.

    old_inputs: check, diff, update. old_outputs: diff, read, update, delete. identifier: "" in
    check and create. preview: create and update only; nothing may be changed then. timeout:
    seconds, 0 where none was set. secrets: names of top-level inputs and outputs with a secret.
    """

    urn: str
    type: str
    name: str
    inputs: Properties = field(default_factory=dict)
    old_inputs: Properties = field(default_factory=dict)
    old_outputs: Properties = field(default_factory=dict)
    identifier: str = ""
    preview: bool = False
    timeout: float = 0.0
    random_seed: bytes = b""
    secrets: frozenset[str] = frozenset()
    secret_texts: frozenset[str] = field(default=frozenset(), repr=False)
    engine: Engine | None = field(default=None, repr=False)
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    def log(self, message: str, severity: Severity = "info", ephemeral: bool = False) -> None:
        """Show a line at this resource in the engine's output, at once. Secrets are redacted."""
        if self.engine is not None:
            self.engine.log(self.urn, self.redact(message), severity, ephemeral)

    def redact(self, text: str) -> str:
        """`text` without any secret of this request."""
        for secret in sorted(self.secret_texts, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        return text


@dataclass
class Difference:
    """What diff found. `paths`: property paths (`a.b[0]`) to ADD, DELETE or UPDATE.

    `replaces`: those of the paths (or top-level names) whose change needs a replacement.
    """

    paths: dict[str, str]
    replaces: list[str] = field(default_factory=list)
    delete_before_replace: bool = False


@dataclass
class Created:
    """A resource after create: its id (never empty, but in preview) and its outputs."""

    identifier: str
    outputs: Properties


@dataclass
class State:
    """A resource as read found it."""

    identifier: str
    outputs: Properties
    inputs: Properties


class Handler:
    """The operations of one resource type. The defaults: inputs as they are, no difference but
    in the inputs, read echoes the state, delete forgets. Secret marks: `secret_outputs`.
    """

    replace_on: frozenset[str] = frozenset()  # top-level inputs whose change replaces
    secret_outputs: frozenset[str] = frozenset()  # outputs that are always secret

    def check(self, request: Request) -> Properties:
        """The inputs with defaults. Raises CheckFailures."""
        return request.inputs

    def diff(self, request: Request) -> Difference:
        """Compare request.old_inputs and request.inputs."""
        return default_difference(request, self.replace_on)

    def create(self, request: Request) -> Created:
        """Create, or with request.preview foretell."""
        raise not_served(request, "create")

    def update(self, request: Request) -> Properties:
        """Update in place, or with request.preview foretell; the new outputs."""
        raise not_served(request, "update")

    def read(self, request: Request) -> State | None:
        """The resource as it is now (request.old_outputs, request.inputs: as the state has it;
        both empty for an import). None: it is gone."""
        if not request.old_outputs:
            raise not_served(request, "import")
        return State(request.identifier, request.old_outputs, request.inputs)

    def delete(self, request: Request) -> None:
        """Delete; what is gone already is no error."""


def not_served(request: Request, operation: str) -> Failure:
    """The error for an operation that a stand-in does not have."""
    return Failure(
        f"{request.type}: this stand-in for Pulumi's plugin does not serve {operation}; "
        "install Pulumi's own release plugin for it"
    )


def top_level(path: str) -> str:
    """The first segment of a property path."""
    if path.startswith("["):
        return path.split("]", 1)[0].strip('["')
    return path.split(".", 1)[0].split("[", 1)[0]


def default_difference(request: Request, replace_on: frozenset[str]) -> Difference:
    """old_inputs against inputs; a changed path under one of `replace_on` replaces."""
    paths = values.differences(request.old_inputs, request.inputs)
    return Difference(paths, [path for path in paths if top_level(path) in replace_on])


class Provider:
    """One plugin: its handlers by type token. Subclass it for configuration and functions."""

    def __init__(self, name: str, handlers: Mapping[str, Handler]) -> None:
        self.name = name
        self.handlers = dict(handlers)

    def handler(self, token: str) -> Handler:
        """The handler of a type token. Raises Failure where there is none."""
        if token not in self.handlers:
            raise Failure(
                f"{token}: this stand-in for Pulumi's {self.name} plugin serves only "
                f"{', '.join(sorted(self.handlers))}; install Pulumi's own release plugin for it"
            )
        return self.handlers[token]

    def check_configuration(self, request: Request) -> Properties:
        """The provider's inputs with defaults. Raises CheckFailures."""
        return request.inputs

    def diff_configuration(self, request: Request) -> Difference:
        """Compare the provider's old and new inputs. By default nothing replaces."""
        return default_difference(request, frozenset())

    def configure(self, inputs: Properties) -> None:
        """Take the provider's checked inputs (plain; may hold UNKNOWN in preview)."""

    def invoke(self, token: str, arguments: Properties) -> Properties:
        """Run a function of the plugin."""
        raise Failure(
            f"{token}: this stand-in for Pulumi's {self.name} plugin serves no such function; "
            "install Pulumi's own release plugin for it"
        )


# --- the engine's log ------------------------------------------------------------------------


class Engine:
    """The engine's own gRPC service, which takes log lines."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_send_message_length", MAXIMUM_MESSAGE)]
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address, options=options))

    def log(self, urn: str, message: str, severity: Severity, ephemeral: bool) -> None:
        """Show `message` at the resource `urn`. An engine that is gone is no error."""
        request = engine_pb2.LogRequest(
            severity=engine_pb2.LogSeverity.Value(severity.upper()),
            message=message,
            urn=urn,
            ephemeral=ephemeral,
        )
        with contextlib.suppress(grpc.RpcError):
            self._stub.Log(request, timeout=10)


# --- child processes -------------------------------------------------------------------------


class Processes:
    """Children that run for a request; a cancel ends them with all that they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[Any]] = set()
        self.cancelled = threading.Event()

    @contextlib.contextmanager
    def start(self, arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """A Popen in a session of its own; on leaving the block it is ended where it still runs."""
        if self.cancelled.is_set():
            raise Failure("cancelled before it started")
        process = subprocess.Popen(arguments, start_new_session=True, **options)
        with self._lock:
            self._running.add(process)
        try:
            yield process
        finally:
            if process.poll() is None:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            with self._lock:
                self._running.discard(process)

    def cancel(self) -> None:
        """End every child; nothing starts any more."""
        self.cancelled.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            _signal_group(process, signal.SIGTERM)


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


PROCESSES = Processes()


# --- the server ------------------------------------------------------------------------------


class _Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """Protocol on one side, Provider and Handler on the other."""

    def __init__(self, provider: Provider, version: str, engine: Engine | None) -> None:
        self._provider = provider
        self._version = version
        self._engine = engine

    # Plugin-wide

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=self._version)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        PROCESSES.cancel()
        return empty_pb2.Empty()

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.GetSchemaResponse(
            schema=f'{{"name": "{self._provider.name}", "version": "{self._version}"}}'
        )

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._check(request, context, self._provider.check_configuration)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._diff(request, context, self._provider.diff_configuration)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            self._provider.configure(values.plain(values.decode_map(request.args)))
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=False, acceptOutputs=False
        )

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            arguments = values.plain(values.decode_map(request.args))
            result = self._provider.invoke(request.tok, arguments)
            return provider_pb2.InvokeResponse(**{"return": values.encode_map(result)})

    def Call(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            raise Failure(f"{request.tok}: the stand-in serves no methods of resources")

    def Construct(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            raise Failure(f"{request.type}: the stand-in serves no component resources")

    # Resources

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._check(request, context, lambda asked: self._handler(asked).check(asked))

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._diff(request, context, lambda asked: self._handler(asked).diff(asked))

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            inputs = values.decode_map(request.properties)
            asked = self._asked(request, inputs=inputs, preview=request.preview)
            asked.timeout = request.timeout
            handler = self._handler(asked)
            with self._marked(handler, inputs, asked):
                created = handler.create(asked)
            if not created.identifier and not request.preview:
                raise Failure(f"{asked.type}: create gave no id")
            return provider_pb2.CreateResponse(
                id=created.identifier, properties=_marked_struct(handler, created.outputs, inputs)
            )

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            inputs = values.decode_map(request.news)
            old_inputs = values.decode_map(request.old_inputs)
            old_outputs = values.decode_map(request.olds)
            asked = self._asked(
                request, inputs=inputs, old_inputs=old_inputs, old_outputs=old_outputs,
                preview=request.preview,
            )  # fmt: skip
            asked.timeout = request.timeout
            handler = self._handler(asked)
            with self._marked(handler, inputs, asked):
                outputs = handler.update(asked)
            return provider_pb2.UpdateResponse(properties=_marked_struct(handler, outputs, inputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            inputs = values.decode_map(request.inputs)
            old_outputs = values.decode_map(request.properties)
            asked = self._asked(request, inputs=inputs, old_outputs=old_outputs)
            handler = self._handler(asked)
            with self._marked(handler, inputs, asked):
                found = handler.read(asked)
            if found is None:
                return provider_pb2.ReadResponse()
            marks = {**values.keep_secrets(old_outputs, inputs)}
            return provider_pb2.ReadResponse(
                id=found.identifier,
                properties=_marked_struct(handler, found.outputs, marks),
                inputs=values.encode_map(values.keep_secrets(found.inputs, inputs)),
            )

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._reported(context):
            old_outputs = values.decode_map(request.properties)
            old_inputs = values.decode_map(request.old_inputs)
            asked = self._asked(request, old_outputs=old_outputs, old_inputs=old_inputs)
            asked.timeout = request.timeout
            self._handler(asked).delete(asked)
        return empty_pb2.Empty()

    # What they share

    def _handler(self, request: Request) -> Handler:
        return self._provider.handler(request.type)

    def _asked(
        self,
        request: Any,
        inputs: Properties | None = None,
        old_inputs: Properties | None = None,
        old_outputs: Properties | None = None,
        preview: bool = False,
    ) -> Request:
        given = [inputs or {}, old_inputs or {}, old_outputs or {}]
        secret = {key for each in given for key in each if values.contains_secret(each[key])}
        texts = set().union(*(values.secret_texts(each) for each in given))
        parts = request.urn.split("::")
        return Request(
            urn=request.urn,
            type=parts[2].rsplit("$", 1)[-1] if len(parts) > 3 else request.type,
            name=parts[3] if len(parts) > 3 else request.name,
            inputs=values.plain(given[0]),
            old_inputs=values.plain(given[1]),
            old_outputs=values.plain(given[2]),
            identifier=getattr(request, "id", ""),
            preview=preview,
            secrets=frozenset(secret),
            secret_texts=frozenset().union(*(values.tell_tales(text) for text in texts)),
            engine=self._engine,
            cancelled=PROCESSES.cancelled,
        )

    def _check(
        self, request: Any, context: grpc.ServicerContext, check: Callable[[Request], Properties]
    ) -> Any:
        with self._reported(context):
            inputs = values.decode_map(request.news)
            asked = self._asked(request, inputs, old_inputs=values.decode_map(request.olds))
            asked.random_seed = request.randomSeed
            try:
                checked = check(asked)
            except CheckFailures as error:
                failures = [
                    provider_pb2.CheckFailure(property=name, reason=asked.redact(reason))
                    for name, reason in error.failures
                ]
                return provider_pb2.CheckResponse(failures=failures)
            return provider_pb2.CheckResponse(
                inputs=values.encode_map(values.keep_secrets(checked, inputs))
            )

    def _diff(
        self, request: Any, context: grpc.ServicerContext, diff: Callable[[Request], Difference]
    ) -> Any:
        with self._reported(context):
            asked = self._asked(
                request,
                values.decode_map(request.news),
                old_inputs=values.decode_map(request.old_inputs),
                old_outputs=values.decode_map(request.olds),
            )
            return _diff_response(diff(asked))

    @contextlib.contextmanager
    def _marked(self, handler: Handler, inputs: Properties, asked: Request) -> Iterator[None]:
        """Put the Secret marks on the state of a resource that did not become ready."""
        try:
            yield
        except InitializationFailed as error:
            error.outputs = _marked_outputs(handler, error.outputs, inputs)
            error.reasons = [asked.redact(reason) for reason in error.reasons]
            raise
        except Failure as error:
            raise Failure(asked.redact(str(error))) from error

    @contextlib.contextmanager
    def _reported(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Every exception becomes one message to the engine."""
        try:
            yield
        except InitializationFailed as error:
            _abort_initialized(context, error)
        except Failure as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except Exception as error:
            if type(error) is Exception:  # grpc's own, from context.abort
                raise
            context.abort(grpc.StatusCode.INTERNAL, _internal(self._provider.name, error))


def _internal(name: str, error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return (
        f"error in the stand-in for Pulumi's {name} plugin itself, please report it: "
        f"{type(error).__name__} at {place}: {error}"
    )


def _marked_outputs(handler: Handler, outputs: Properties, inputs: Properties) -> Properties:
    marked = values.keep_secrets(outputs, inputs)
    for name in handler.secret_outputs & marked.keys():
        if marked[name] is not None and not isinstance(marked[name], Secret):
            marked[name] = Secret(marked[name])
    return marked


def _marked_struct(handler: Handler, outputs: Properties, inputs: Properties) -> Any:
    return values.encode_map(_marked_outputs(handler, outputs, inputs))


def _diff_response(difference: Difference) -> Any:
    kinds = provider_pb2.PropertyDiff.Kind
    replaces = set(difference.replaces)
    detailed = {}
    for path, kind in difference.paths.items():
        replace = path in replaces or top_level(path) in replaces
        name = f"{kind}_REPLACE" if replace else kind
        detailed[path] = provider_pb2.PropertyDiff(kind=kinds.Value(name), inputDiff=True)
    changes = bool(difference.paths or replaces)
    response = provider_pb2.DiffResponse
    return response(
        changes=response.DIFF_SOME if changes else response.DIFF_NONE,
        diffs=sorted({top_level(path) for path in difference.paths}),
        replaces=sorted({top_level(path) for path in replaces}),
        deleteBeforeReplace=difference.delete_before_replace,
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def _abort_initialized(context: grpc.ServicerContext, error: InitializationFailed) -> NoReturn:
    detail = provider_pb2.ErrorResourceInitFailed(
        id=error.identifier, properties=values.encode_map(error.outputs), reasons=error.reasons
    )
    packed = any_pb2.Any()
    packed.Pack(detail)
    status = status_pb2.Status(
        code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[packed]
    )
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, str(error))
    raise AssertionError("context.abort raises")


def serve(provider: Provider, version: str, engine: Engine | None) -> tuple[grpc.Server, int]:
    """Start the gRPC server on a free loopback port. Returns it and the port."""
    sizes = [
        ("grpc.max_receive_message_length", MAXIMUM_MESSAGE),
        ("grpc.max_send_message_length", MAXIMUM_MESSAGE),
    ]
    server = grpc.server(ThreadPoolExecutor(max_workers=THREADS), options=sizes)
    servicer = _Servicer(provider, version, engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def installed_version(package: str) -> str:
    """The version of an installed Python SDK, "" where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main(name: str, version: str, provider: Provider) -> None:
    """Run as a plugin: the engine's address is the first argument, the port goes to stdout.

    version: "" takes it from the packaged wrapper, or from the installed SDK.
    """
    engine = os.getppid()  # at once: it may be killed at any moment after this
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not addresses:
        sys.exit(f"pulumi-resource-{name} is a plugin: Pulumi's engine starts it")
    packaged = os.environ.pop(VERSION_VARIABLE, "")  # no business of the commands that we start
    version = version or packaged or installed_version(f"pulumi-{name}")
    warnings.simplefilter("ignore")  # stderr of a plugin is shown as its messages
    server, port = serve(provider, version, Engine(addresses[0]))
    print(port, flush=True)
    # The engine interrupts its plugins when it is done with them, and kills them 5 s later.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: _end())
    while server.wait_for_termination(timeout=ORPHAN_SECONDS):  # true: the time is over
        if os.getppid() != engine:  # it was killed, and could not tell
            _end()


def _end() -> NoReturn:
    PROCESSES.cancel()
    os._exit(0)


__all__ = [
    "PROCESSES",
    "UNKNOWN",
    "CheckFailures",
    "Created",
    "Difference",
    "Engine",
    "Failure",
    "Handler",
    "InitializationFailed",
    "Processes",
    "Properties",
    "Provider",
    "Request",
    "Secret",
    "State",
    "Value",
    "default_difference",
    "main",
    "not_served",
    "serve",
]
