"""What `pulumi up` of a stack would change, and a summary: `python -m commands.preview STACK`.

The stack file is checked first. `dev` is previewed in the lab's own backend; another stack in
PULUMI_BACKEND_URL where that has it, else as a new cluster, on a copy that is thrown away.
Needs neither the lab nor its hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components import summary
from components.load import from_stack_file
from lab import stack
from stack.problem import ConfigError
from tools import install as tools
from tools.errors import LabError, tell
from tools.pins import CHECKOUT, Layout

# The kubernetes plugin waits for an API server that takes connections and says nothing, once for
# each resource and for ever; a preview does without it.
UNANSWERED = {"PULUMI_K8S_CLIENT_TIMEOUT": "3"}


@dataclass(frozen=True)
class Target:
    """Where a preview runs: its folder, its environment, further words for the engine."""

    environment: dict[str, str]
    folder: Path = CHECKOUT
    words: list[str] = field(default_factory=list)
    note: str = ""


@contextmanager
def target(name: str, file: Path) -> Iterator[Target]:
    """Where the stack is previewed. LabError where it can't be."""
    if name == stack.STACK:
        from_stack_file(file)
        yield Target(stack.environment(stack.prepare()))
        return
    from_stack_file(file)
    environment = {**stack.engine_environment(), "PULUMI_STACK": name}
    if known_to_backend(name, environment):
        yield Target(environment, words=["--config-file", str(file.resolve())])
        return
    with tempfile.TemporaryDirectory(prefix="autojoin-preview-") as folder:
        yield scratch(name, file, environment, Path(folder))


def known_to_backend(name: str, environment: dict[str, str]) -> bool:
    """Whether the user's own backend holds the stack."""
    if "PULUMI_BACKEND_URL" not in os.environ:
        return False
    answer = subprocess.run(
        ["pulumi", "stack", "ls", "--json", "--non-interactive"],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    try:
        stacks = json.loads(answer.stdout) if answer.returncode == 0 else []
    except ValueError:
        return False
    return any(entry.get("name") == name for entry in stacks)


def scratch(name: str, file: Path, environment: dict[str, str], folder: Path) -> Target:
    """An empty state and a copy of the stack file, so that nothing of the user's is touched."""
    copy = folder / f"Pulumi.{name}.yaml"
    copy.write_bytes(file.read_bytes())
    # Where the copy lies, so that the salt of the new stack is written to it.
    shutil.copy(CHECKOUT / "Pulumi.yaml", folder)
    environment = {**environment, "PULUMI_BACKEND_URL": f"file://{folder}"}
    if not {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"} & set(os.environ):
        passphrase = folder / "passphrase"
        passphrase.write_text(secrets.token_urlsafe(32) + "\n")
        environment["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(passphrase)
    answer = subprocess.run(
        ["pulumi", "stack", "init", name, "--non-interactive"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        hint = ""
        if "passphrase" in answer.stderr:
            hint = (
                "; the file holds secrets: set PULUMI_CONFIG_PASSPHRASE to the stack's passphrase"
            )
        raise LabError(f"`pulumi stack init {name}` failed: {answer.stderr.strip()}{hint}")
    backend = os.environ.get("PULUMI_BACKEND_URL", "not set")
    note = f"no state of stack {name} in PULUMI_BACKEND_URL ({backend}): previewed as a new cluster"
    return Target(environment, words=["--config-file", str(copy)], note=note)


def run(where: Target, *, quiet: bool) -> summary.Preview:
    """Preview once: the engine's own words for the person, its events for the summary."""
    with tempfile.TemporaryDirectory(prefix="autojoin-events-") as folder:
        events = Path(folder) / "events"
        command = ["pulumi", "preview", "--diff", "--event-log", str(events), *where.words]
        # The flag is one of the engine's for developers, shown only where this is set.
        environment = {**UNANSWERED, **os.environ, **where.environment}
        environment["PULUMI_DEBUG_COMMANDS"] = "true"
        answer = subprocess.run(
            [*command, "--non-interactive"],
            cwd=where.folder,
            env=environment,
            stdout=sys.stderr if quiet else None,
        )
        if answer.returncode:
            raise LabError(
                f"`pulumi preview` ended with {answer.returncode}; what failed stands above"
            )
        try:
            return summary.read(events.read_text())
        except (OSError, summary.SummaryError) as error:
            raise LabError(f"there is no summary: {error}") from None


def preview(name: str, file: Path, *, as_json: bool) -> None:
    """Preview a stack and print the summary. LabError or ConfigError where that fails."""
    with target(name, file) as where:
        if where.note:
            print(f"autojoin: {where.note}", file=sys.stderr, flush=True)
        found = summary.summarise(run(where, quiet=as_json))
    if as_json:
        print(json.dumps(summary.as_data(found), indent=2, ensure_ascii=False))
        return
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\nSummary of stack {name}\n{summary.text(found, colours=colours)}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m commands.preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stack", help="name of the stack; its file is Pulumi.STACK.yaml")
    parser.add_argument("--file", type=Path, help="another stack file")
    parser.add_argument("--json", action="store_true", help="only the summary, for a program")
    given = parser.parse_args(arguments)
    os.environ["PATH"] = tools.search_path(Layout())
    file = given.file or CHECKOUT / f"Pulumi.{given.stack}.yaml"
    try:
        preview(given.stack, file, as_json=given.json)
    except (LabError, ConfigError) as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        print("autojoin: interrupted; nothing was changed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
