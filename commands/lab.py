"""The commands behind the Makefile: `python -m commands.lab COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from commands.check import show
from components.bgp.routers import frr
from components.bgp.routers.router import routers
from components.load import examine, from_stack_file
from components.shell import kubectl
from lab import example, lab, place, router, stack
from stack.problem import ConfigError
from tools import install as tools
from tools.errors import LabError, tell
from tools.pins import CHECKOUT, Layout
from tools.plugins import install as plugins

# The lab waits up to 5 minutes for a node; all of them join side by side.
PARALLEL = "64"
REJOIN_SECONDS = 60


def up() -> None:
    """The lab, then `pulumi up` of its stack, then a table of nodes."""
    started = time.monotonic()
    print(f"autojoin: {plugins.describe(Layout())}", flush=True)
    where = stack.prepare()
    lab.up(where)
    configure_router(where)
    unlock(where)
    environment = {**os.environ, **stack.environment(where)}
    example.apply(environment)
    arguments = ["up", "--yes", "--skip-preview", "--suppress-outputs", "--parallel", PARALLEL]
    engine(arguments, stack.environment(where))
    await_nodes(where)
    print_nodes(where)
    if from_stack_file(stack.FILE).bgp:
        url, pod = example.await_answer(environment)
        elapsed = f"{time.monotonic() - started:.0f} s after the start"
        print(f"autojoin: {url} answers from outside the cluster (pod {pod}), {elapsed}")
    print(f"autojoin: up in {time.monotonic() - started:.0f} s. To look around:")
    print('    eval "$(make env)"\n    kubectl get nodes\n    pulumi stack output nodes')


def configure_router(where: place.Place) -> None:
    """Give the lab's router what `make render` writes for the peer that it is, if there is one.

    With IPv6 it is a second one besides, `router-ipv6`.
    """
    known = {each.name: each for each in routers(from_stack_file(stack.FILE))}
    found = [known[name] for name in ("router", "router-ipv6") if name in known]
    if found:
        sessions = tuple(session for each in found for session in each.sessions)
        router.configure(where, frr.text(replace(found[0], sessions=sessions)))


def down(everything: bool) -> None:
    """`pulumi destroy`, then the lab stopped and removed."""
    where = place.find(CHECKOUT)
    if where is not None:
        if where.running() and stack.exists(where):
            unlock(where)
            arguments = ["destroy", "--yes", "--skip-preview", "--parallel", PARALLEL]
            try:
                engine(arguments, stack.environment(where))
            except LabError as error:
                print(f"autojoin: {error}; the lab is removed all the same", file=sys.stderr)
        lab.down(where)
        stack.LINK.unlink(missing_ok=True)
    if everything:
        lab.down_all(CHECKOUT)


def unlock(where: place.Place) -> None:
    """Remove the lock of an engine that was killed; the lab's backend has no other user."""
    locks = where.state / "pulumi" / ".pulumi" / "locks"
    for lock in locks.rglob("*.json") if locks.exists() else []:
        try:
            pid = int(json.loads(lock.read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not Path(f"/proc/{pid}").exists():
            lock.unlink(missing_ok=True)


def engine(arguments: list[str], environment: dict[str, str], folder: Path = CHECKOUT) -> None:
    """Run `pulumi` for the person at the terminal; LabError where it fails."""
    command = ["pulumi", *arguments, "--non-interactive"]
    status = subprocess.run(command, cwd=folder, env={**os.environ, **environment}).returncode
    if status:
        raise LabError(f"`pulumi {arguments[0]}` ended with {status}; what failed stands above")


def await_nodes(where: place.Place) -> None:
    """After a restart of the lab, nodes that joined before need a moment to be Ready again."""
    deadline = time.monotonic() + REJOIN_SECONDS
    while time.monotonic() < deadline:
        ready = readiness(where)
        if all(ready.get(name) == "True" for name in configured(where)):
            return
        time.sleep(0.5)


def configured(where: place.Place) -> dict[str, Any]:
    """The nodes of the stack's outputs, by name."""
    command = ["pulumi", "stack", "output", "nodes", "--json"]
    environment = {**os.environ, **stack.environment(where)}
    answer = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise LabError(f"`{' '.join(command)}` failed: {answer.stderr.strip()}")
    return dict(json.loads(answer.stdout))


def print_nodes(where: place.Place) -> None:
    """Name, hardware, Ready and seconds to join of every node."""
    nodes = configured(where)
    ready = readiness(where)
    rows = [("NAME", "HARDWARE", "ADDRESS", "READY", "SECONDS TO JOIN")]
    for name, node in nodes.items():
        seconds = (node["joined"] or {}).get("readySeconds")
        state = ready.get(name, "missing")
        shown = "?" if seconds is None else f"{seconds:.2f}"
        rows.append((name, node["hardware"], node["address"], state, shown))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print()
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print()
    late = [name for name in nodes if ready.get(name) != "True"]
    if late:
        raise LabError(f"not Ready: {', '.join(late)}; `make status`, kubectl describe node NAME")


def readiness(where: place.Place) -> dict[str, str]:
    """Node name to the status of its Ready condition, as the API server has it now."""
    try:
        return kubectl.readiness(str(where.state / "kubeconfig"))
    except kubectl.KubectlError as error:
        raise LabError(f"{where.api_server}: {error}") from None


def check(path: Path) -> None:
    if not show(path, examine(path)):
        sys.exit(1)


def network(text: str) -> IPv4Network:
    found = IPv4Network(text)
    if found.prefixlen != 24:
        raise argparse.ArgumentTypeError(f"{text} is no /24, such as 10.65.0.0/24")
    return found


def environment(name: str) -> None:
    """Of the lab's stack all that it needs. Of any other the tools: its plugins and its backend
    are the user's own, which nothing of the lab's may stand in for."""
    if name == stack.STACK:
        print(stack.exports(stack.environment(stack.prepare())))
    else:
        print(stack.exports({"PATH": tools.search_path(Layout())}))


def run(command: list[str]) -> None:
    code = subprocess.run(command, cwd=CHECKOUT).returncode
    if code:
        sys.exit(code)


def lint() -> None:
    run(["ruff", "check", "."])
    run(["ruff", "format", "--check", "."])
    run(["mypy", "."])
    run(["lint-imports", "--no-cache"])


# Each has labs of its own. All edits of day two take longer than the rest: they run where EDITS
# says how many. Virtual machines are slow where they are emulated: but for one, `make machines`.
ON_LABS = ("tests/e2e", "tests/lifecycle", "tests/machines")
ONE_MACHINE = tuple(
    f"tests/machines/test_bhyve.py::{test}"
    for test in ("test_a_guest_joins_from_its_disc_alone", "test_a_memory_limit_is_enforced")
)
FOUR_MINUTES_OF_EDITS = "tests/lifecycle/test_random_edits.py"

# In the order of their folders: those that take longest come in its middle, not last.
SPREAD = ("--numprocesses=auto", "--dist=loadfile", "--no-loadscope-reorder")


def test(wanted: list[str]) -> None:
    """The tests named; else the checks of style and types, and the tests in two halves at once.

    The half on labs waits for them most of the time; the other one is spread over the processors,
    by files, since the tests of some follow each other, and ends with a virtual machine.
    """
    pytest = [sys.executable, "-m", "pytest"]
    if wanted:
        run([*pytest, *wanted])
        return
    edits = os.environ.get("EDITS")
    short = () if edits or os.environ.get("FULL") else ("-m", "not full")
    on_labs = ("tests/e2e", "tests/lifecycle" if edits else FOUR_MINUTES_OF_EDITS)
    with tempfile.TemporaryFile("w+") as output:
        labs = subprocess.Popen(
            [*pytest, *on_labs, *short, "-p", "no:cacheprovider"],
            cwd=CHECKOUT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            lint()
            without_labs = (f"--ignore={folder}" for folder in ON_LABS)
            run([*pytest, "tests", *without_labs, *SPREAD, *short])
            run([*pytest, *ONE_MACHINE])
        finally:
            status = labs.wait()
            output.seek(0)
            print(output.read(), end="", flush=True)
    if status:
        sys.exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "lint"):
        commands.add_parser(name)
    commands.add_parser("env").add_argument("stack", nargs="?", default=stack.STACK)
    commands.add_parser("down").add_argument("--all", action="store_true")
    commands.add_parser("check").add_argument("file", type=Path)
    commands.add_parser("move").add_argument("network", type=network, nargs="?")
    commands.add_parser("test").add_argument("tests", nargs="*", default=[])
    given = parser.parse_args()
    os.environ["PATH"] = tools.search_path(Layout())
    actions: dict[str, Callable[[], None]] = {
        "up": up,
        "env": lambda: environment(given.stack),
        "lint": lint,
        "down": lambda: down(given.all),
        "check": lambda: check(given.file),
        "move": lambda: print(f"autojoin: {stack.move(given.network)}"),
        "test": lambda: test(given.tests),
    }
    try:
        actions[given.command]()
    except (LabError, ConfigError) as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        print("autojoin: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
