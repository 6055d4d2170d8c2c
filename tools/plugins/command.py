"""Stand-in for Pulumi's `command` plugin: local and remote Command, CopyToRemote.

As in the real one the command itself is an argument of its shell, so anybody on that machine can
see it: secrets belong into `stdin` or `environment`, which are kept from argument lists and logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tools.plugins import command_ssh
from tools.plugins.base import (
    CheckFailures,
    Created,
    Failure,
    Handler,
    Properties,
    Provider,
    Request,
    main,
)
from tools.plugins.command_glob import matching_assets
from tools.plugins.command_run import LineSink, Outcome, exit_text, run
from tools.plugins.values import UNKNOWN, Asset, Value

PREVIOUS_STDOUT, PREVIOUS_STDERR = "PULUMI_COMMAND_STDOUT", "PULUMI_COMMAND_STDERR"
LOGGING = ("stdout", "stderr", "stdoutAndStderr", "none")
LONGEST_OUTPUT = 64 * 1024  # characters of a failed command's output in its error
DEFAULT_INTERPRETER = ["/bin/sh", "-c"]

_COMMAND = {
    "create": str,
    "update": str,
    "delete": str,
    "stdin": str,
    "logging": str,
    "environment": dict,
    "triggers": list,
    "addPreviousOutputInEnv": bool,
}
_LOCAL = {"interpreter": list, "dir": str, "assetPaths": list, "archivePaths": list}

Types = Mapping[str, Any]


# --- checking --------------------------------------------------------------------------------


def check_types(inputs: Properties, types: Types, required: tuple[str, ...], at: str = "") -> None:
    """Raises CheckFailures for what is missing, unknown or of another type."""
    failures = [
        (at + name, "missing required property") for name in required if inputs.get(name) is None
    ]
    for name, value in inputs.items():
        if name not in types:
            failures.append((at + name, f"unknown property; known: {', '.join(sorted(types))}"))
        elif value is not None and value is not UNKNOWN and not _fits(value, types[name]):
            failures.append((at + name, f"wrong type: a {_names(types[name])} is needed"))
    if failures:
        raise CheckFailures(*failures)


def _fits(value: Value, wanted: Any) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted)


def _names(wanted: Any) -> str:
    names = {str: "string", dict: "map", list: "list", bool: "boolean", int: "whole number"}
    return names.get(wanted, "asset or archive" if wanted is Asset else "number")


def check_command(inputs: Properties, types: Types, required: tuple[str, ...] = ()) -> None:
    """What local and remote commands have in common."""
    check_types(inputs, types, required)
    if inputs.get("logging") not in (None, UNKNOWN, *LOGGING):
        raise CheckFailures(("logging", f"one of {', '.join(LOGGING)} is needed"))


def with_connection(inputs: Properties) -> Properties:
    """The inputs with the connection's defaults filled in. Raises CheckFailures."""
    connection = inputs["connection"]
    if connection is UNKNOWN:
        return inputs
    check_types(connection, command_ssh.PROPERTIES, ("host",), "connection.")
    host_key = connection.get("hostKey")
    if host_key not in (None, UNKNOWN, ""):
        try:
            command_ssh.parse_host_key(host_key)
        except Failure as error:
            raise CheckFailures(("connection.hostKey", str(error))) from error
    given = {key: value for key, value in connection.items() if value is not None}
    return {**inputs, "connection": {**command_ssh.DEFAULTS, **given}}


# --- commands --------------------------------------------------------------------------------


class CommandHandler(Handler):
    """create, update and delete of a command, wherever it runs."""

    outputs: tuple[str, ...] = ("stdout", "stderr")

    def run(self, request: Request, inputs: Properties, command: str, old: Properties) -> Outcome:
        """Run `command`; `old`: the outputs of the run before."""
        raise NotImplementedError

    def collected(self, inputs: Properties, outcome: Outcome) -> Properties:
        """The outputs after a run that succeeded."""
        return {
            "stdout": outcome.stdout.removesuffix("\n"),
            "stderr": outcome.stderr.removesuffix("\n"),
        }

    def create(self, request: Request) -> Created:
        identifier = request.name + secrets.token_hex(4)
        inputs = request.inputs
        if request.preview:
            return Created(identifier, {**inputs, **dict.fromkeys(self.outputs, UNKNOWN)})
        if inputs.get("create") is None:
            return Created(identifier, {**inputs, "stdout": "", "stderr": ""})
        return Created(identifier, self._ran(request, inputs["create"], {}))

    def update(self, request: Request) -> Properties:
        inputs = request.inputs
        kept = {name: request.old_outputs[name] for name in self.outputs
                if name in request.old_outputs}  # fmt: skip
        command = inputs.get("update")
        if command is None:
            command = inputs.get("create")
        if request.preview:
            return {**inputs, **dict.fromkeys(self.outputs, UNKNOWN)}
        if command is None:
            return {**inputs, **kept}
        return self._ran(request, command, kept)

    def delete(self, request: Request) -> None:
        state = request.old_outputs
        if state.get("delete") is not None:
            self._checked_run(request, state, state["delete"], state)

    def _ran(self, request: Request, command: str, old: Properties) -> Properties:
        outcome = self._checked_run(request, request.inputs, command, old)
        return {**request.inputs, **old, **self.collected(request.inputs, outcome)}

    def _checked_run(
        self, request: Request, inputs: Properties, command: str, old: Properties
    ) -> Outcome:
        hide_no_addresses(request, inputs)
        outcome = self.run(request, inputs, command, old)
        if outcome.status != 0:
            text = request.redact(outcome.combined)
            if len(text) > LONGEST_OUTPUT:
                omitted = len(text) - LONGEST_OUTPUT
                text = f"[… {omitted} characters left out]\n{text[-LONGEST_OUTPUT:]}"
            quoted = json.dumps(request.redact(command), ensure_ascii=False)
            cancelled = " (cancelled)" if request.cancelled.is_set() else ""
            raise Failure(f"{self.exit_text(outcome)}{cancelled}: running {quoted}:\n{text}")
        return outcome

    def exit_text(self, outcome: Outcome) -> str:
        """How the command ended, in words."""
        return exit_text(outcome.status)


def hide_no_addresses(request: Request, inputs: Properties) -> None:
    """A connection is secret as a whole, but its address and user belong into messages."""
    connection = inputs.get("connection")
    if isinstance(connection, dict):
        shown = {connection.get(name) for name in ("host", "user", "hostKey", "agentSocketPath")}
        request.secret_texts -= {text for text in shown if isinstance(text, str)}


def log_sinks(request: Request, inputs: Properties) -> dict[str, LineSink | None]:
    """Where lines go while the command runs, as the `logging` input says."""
    choice = inputs.get("logging") or "stdoutAndStderr"

    def show(line: str) -> None:
        # Ephemeral as in the real plugin: shown as it comes, not once more at the end.
        request.log(line, ephemeral=True)

    return {
        "on_stdout": show if choice in ("stdout", "stdoutAndStderr") else None,
        "on_stderr": show if choice in ("stderr", "stdoutAndStderr") else None,
    }


def previous_output(inputs: Properties, old: Properties) -> dict[str, str]:
    """The variables that hold the outputs of the run before, where there were any."""
    if inputs.get("addPreviousOutputInEnv") is False:
        return {}
    given = {PREVIOUS_STDOUT: old.get("stdout"), PREVIOUS_STDERR: old.get("stderr")}
    return {name: text for name, text in given.items() if text}


class LocalCommand(CommandHandler):
    """command:local:Command"""

    def check(self, request: Request) -> Properties:
        check_command(request.inputs, {**_COMMAND, **_LOCAL})
        return request.inputs

    def run(self, request: Request, inputs: Properties, command: str, old: Properties) -> Outcome:
        interpreter = inputs.get("interpreter") or DEFAULT_INTERPRETER
        return run(
            [*interpreter, command],
            stdin=inputs.get("stdin") or None,
            environment={
                **os.environ,
                **(inputs.get("environment") or {}),
                **previous_output(inputs, old),
            },
            folder=inputs.get("dir"),
            **log_sinks(request, inputs),
        )

    def collected(self, inputs: Properties, outcome: Outcome) -> Properties:
        outputs = super().collected(inputs, outcome)
        folder = inputs.get("dir") or "."
        if inputs.get("assetPaths") is not None:
            outputs["assets"] = matching_assets(folder, inputs["assetPaths"])
        if inputs.get("archivePaths") is not None:
            members = matching_assets(folder, inputs["archivePaths"])
            outputs["archive"] = Asset(is_archive=True, assets=members)
        return outputs


class RemoteCommand(CommandHandler):
    """command:remote:Command"""

    def check(self, request: Request) -> Properties:
        check_command(request.inputs, {**_COMMAND, "connection": dict}, ("connection",))
        return with_connection(request.inputs)

    def run(self, request: Request, inputs: Properties, command: str, old: Properties) -> Outcome:
        environment = inputs.get("environment") or {}
        with command_ssh.session(inputs["connection"]) as session:
            if environment:
                self._refuse_rejected(session, list(environment), request)
            return command_ssh.execute(
                session,
                command,
                request,
                stdin=inputs.get("stdin") or None,
                # A server that rejects the outputs of the run before is no error.
                environment={**environment, **previous_output(inputs, old)},
                **log_sinks(request, inputs),
            )

    def exit_text(self, outcome: Outcome) -> str:
        return f"Process exited with status {outcome.status}"

    @staticmethod
    def _refuse_rejected(session: command_ssh.Session, names: list[str], request: Request) -> None:
        rejected = command_ssh.rejected_variables(session, names, request)
        if rejected:
            raise Failure(
                f"environment: {session.address} does not accept {', '.join(rejected)}; name it "
                "in AcceptEnv of the server's sshd_config, or set it in the command itself: "
                "VARIABLE=value command"
            )


# --- copying ---------------------------------------------------------------------------------


class CopyToRemote(Handler):
    """command:remote:CopyToRemote"""

    def check(self, request: Request) -> Properties:
        types = {"connection": dict, "source": Asset, "remotePath": str, "triggers": list}
        check_types(request.inputs, types, ("connection", "source", "remotePath"))
        source = request.inputs["source"]
        if isinstance(source, Asset) and source.path is None:
            if source.is_archive:
                raise CheckFailures(("source", "an archive must be a FileArchive (a path)"))
            if source.text is None:
                raise CheckFailures(("source", "an asset must be a FileAsset or a StringAsset"))
        return with_connection(request.inputs)

    def create(self, request: Request) -> Created:
        if request.preview:
            return Created("", request.inputs)
        copy(request)
        return Created(secrets.token_hex(4), request.inputs)

    def update(self, request: Request) -> Properties:
        if not request.preview and _copy_needed(request.old_outputs, request.inputs):
            copy(request)
        return request.inputs


def _copy_needed(old: Properties, new: Properties) -> bool:
    hosts = [(each.get("connection") or {}).get("host") for each in (old, new)]
    same = all(old.get(name) == new.get(name) for name in ("source", "remotePath"))
    return not same or hosts[0] != hosts[1]


def copy(request: Request) -> None:
    """Copy the source to the remote path, as `cp -r` would. Raises Failure."""
    inputs = request.inputs
    hide_no_addresses(request, inputs)
    source: Asset = inputs["source"]
    target = inputs["remotePath"]
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(command_ssh.session(inputs["connection"]))
        if source.path is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            batch = _text_batch(session, folder, source.text or "", target, request)
        else:
            batch = copy_batch(source.path, target)
        outcome = command_ssh.transfer(session, batch, request)
        if outcome.status != 0:
            raise Failure(f"cannot copy to {target} on {session.address}: {_copy_reason(outcome)}")


def _copy_reason(outcome: Outcome) -> str:
    """The lines that tell why, without those of a mkdir for what is there already."""
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("remote mkdir")]
    return "; ".join(lines) or f"sftp gave no reason (exit status {outcome.status})"


def _text_batch(
    session: command_ssh.Session, folder: Path, text: str, target: str, request: Request
) -> list[str]:
    if command_ssh.transfer(session, [f"cd {sftp_word(target)}"], request).status == 0:
        raise Failure(
            f"remotePath: {target} is a directory on {session.address}; a StringAsset needs the "
            "path of a file"
        )
    file = folder / "text"
    file.write_text(text)
    return copy_batch(str(file), target)


def copy_batch(source: str, target: str) -> list[str]:
    """The sftp commands that copy a local file or directory (with a final `/`: what is in it)."""
    path = Path(source)
    if not path.exists():
        raise Failure(f"source: {source} does not exist on this machine")
    parents = [str(each) for each in reversed(PurePosixPath(target).parents)]
    batch = [f"-mkdir {sftp_word(each)}" for each in parents if each not in ("/", ".")]
    if not path.is_dir():
        return [*batch, f"put {sftp_word(source)} {sftp_word(target)}"]
    batch.append(f"-mkdir {sftp_word(target)}")
    top = PurePosixPath(target)
    if not source.endswith("/"):
        top /= path.resolve().name
        batch.append(f"-mkdir {sftp_word(str(top))}")
    for here, folders, files in os.walk(path):
        there = top / Path(here).relative_to(path).as_posix()
        batch += [f"-mkdir {sftp_word(str(there / name))}" for name in sorted(folders)]
        batch += [
            f"put {sftp_word(str(Path(here, name)))} {sftp_word(str(there / name))}"
            for name in sorted(files)
        ]
    return batch


def sftp_word(path: str) -> str:
    """A path for sftp's command language; between quotes it takes glob characters as they are."""
    if "\n" in path:
        raise Failure(f"{path!r}: a path with a line break cannot be copied")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


HANDLERS: dict[str, Handler] = {
    "command:local:Command": LocalCommand(),
    "command:remote:Command": RemoteCommand(),
    "command:remote:CopyToRemote": CopyToRemote(),
}


def provider() -> Provider:
    """The plugin."""
    return Provider("command", HANDLERS)


if __name__ == "__main__":
    main("command", "", provider())
