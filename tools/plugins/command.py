"""The lab's stand-in for Pulumi's `command` plugin: local and remote commands.

As in the real one the command itself is an argument of its shell, so anybody on that machine can
see it: secrets belong into `stdin`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from typing import Any

from tools.plugins import process, ssh
from tools.plugins.plugin import Failure, Kind, Properties, Request
from tools.plugins.process import LineSink, Outcome

LONGEST_OUTPUT = 64 * 1024  # characters of a failed command's output in its error
_SHOWN = {None: (True, True), "stdoutAndStderr": (True, True), "stdout": (True, False),
          "stderr": (False, True), "none": (False, False)}  # fmt: skip


class Command(Kind):
    """create, run again on every change, and delete, wherever it runs."""

    inputs = frozenset({"create", "delete", "stdin", "logging", "triggers"})
    required = frozenset({"create"})
    computed = ("stdout", "stderr")

    def run(
        self, request: Request, inputs: Properties, command: str, *sinks: LineSink | None
    ) -> Outcome:
        raise NotImplementedError

    def ended(self, status: int) -> str:
        """How a command that failed ended, as the real plugin says it."""
        raise NotImplementedError

    def foretold_identifier(self, request: Request) -> str:
        return request.name + secrets.token_hex(4)

    def create(self, request: Request) -> tuple[str, Properties]:
        return self.foretold_identifier(request), self.update(request)

    def update(self, request: Request) -> Properties:
        outcome = self._succeeded(request, request.inputs, "create")
        return {
            "stdout": outcome.stdout.removesuffix("\n"),
            "stderr": outcome.stderr.removesuffix("\n"),
        }

    def delete(self, request: Request) -> None:
        if "delete" in request.old:
            self._succeeded(request, request.old, "delete")

    def _succeeded(self, request: Request, inputs: Properties, which: str) -> Outcome:
        sinks = [request.log if shown else None for shown in _SHOWN[inputs.get("logging")]]
        outcome = self.run(request, inputs, inputs[which], *sinks)
        if outcome.status != 0:
            quoted = json.dumps(inputs[which], ensure_ascii=False)
            text = outcome.combined
            if len(text) > LONGEST_OUTPUT:
                text = f"[only its end]\n{text[-LONGEST_OUTPUT:]}"
            raise Failure(f"{self.ended(outcome.status)}: running {quoted}:\n{text}")
        return outcome


class LocalCommand(Command):
    inputs = Command.inputs | {"environment"}

    def run(
        self, request: Request, inputs: Properties, command: str, *sinks: LineSink | None
    ) -> Outcome:
        # What the run before printed: admission knows by it who was there.
        before = {
            f"PULUMI_COMMAND_{name.upper()}": str(request.old[name])
            for name in self.computed
            if name in request.old
        }
        environment = {**os.environ, **inputs.get("environment", {}), **before}
        words = ["/bin/sh", "-c", command]
        return process.run(words, inputs.get("stdin"), environment, *sinks)

    def ended(self, status: int) -> str:
        if status >= 0:
            return f"exit status {status}"
        return f"signal: {signal.strsignal(-status) or -status}".lower()


class RemoteCommand(Command):
    inputs = Command.inputs | {"connection", "addPreviousOutputInEnv"}
    required = Command.required | {"connection"}

    def wrong(self, inputs: Properties) -> dict[str, str]:
        found = super().wrong(inputs)
        connection: Any = inputs.get("connection")
        if isinstance(connection, dict):
            # Without one the real plugin takes any host; this program never leaves it out.
            for place, login in (("", connection), ("proxy.", connection.get("proxy") or {})):
                missing = [name for name in ("host", "hostKey") if login and not login.get(name)]
                found |= {f"connection.{place}{name}": "missing required property"
                          for name in missing}  # fmt: skip
                strange = [name for name in login if name not in ssh.PROPERTIES]
                found |= {f"connection.{place}{name}": "not served by the lab's stand-in"
                          for name in strange}  # fmt: skip
        if inputs.get("addPreviousOutputInEnv") is not False:
            found["addPreviousOutputInEnv"] = "must be false with the lab's stand-in"
        return found

    def complete(self, inputs: Properties) -> Properties:
        connection = inputs["connection"]
        if not isinstance(connection, dict):  # unknown yet
            return inputs
        return {**inputs, "connection": {**ssh.DEFAULTS, **connection}}

    def run(
        self, request: Request, inputs: Properties, command: str, *sinks: LineSink | None
    ) -> Outcome:
        return ssh.execute(inputs["connection"], command, request, inputs.get("stdin"), *sinks)

    def ended(self, status: int) -> str:
        return f"Process exited with status {status}"


KINDS = {
    "command:local:Command": LocalCommand(),
    "command:remote:Command": RemoteCommand(),
}
stop = process.stop
