"""Install what autojoin needs on this machine: `python3 tools/install.py install SET`.

A set is one of
    check    the virtual environment: enough for `make check`
    engine   and the Pulumi engine with its plugins: enough for `make preview`
    all      and Debian packages, the lab's binaries and its machine image
    arm64    and what the lab's stand-ins of arm64 boards need to be arm64 themselves
    test     and what the tests need besides
    bench    and what the benchmark is measured against

Everything but the Debian packages goes to a cache outside the checkout (see tools/pins.py), each
thing under a temporary name first, so that an interrupted run goes on where it was. Standard
library only: this is what makes the virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file, before anything is installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import pins
from tools.errors import tell
from tools.pins import CHECKOUT, GO_FILES, GO_TOOLS, MODULES, GoFile, GoTool, Layout

NEEDED_GO = (1, 26)
NEEDED_PYTHON = (3, 11)
NEEDED_DISK_GIB = 12
HEARTBEAT_SECONDS = 30
ENGINE_TOOLS = {
    "pulumi",
    "pulumi-language-python",
    "pulumi-language-python-exec",
    "helm",
    "kubectl",
}
SETS = ("check", "engine", "all", "arm64", "test", "bench")
LAB_SETS = ("all", "arm64", "test", "bench")
ARM64_SETS = ("arm64", "test")


class SetupError(Exception):
    """What is missing or failed, as lines for a person."""


@dataclass(frozen=True)
class Step:
    """One thing to have: `done` is cheap, `run` makes it and logs to the path that it is given."""

    name: str
    done: Callable[[], bool]
    run: Callable[[Path], None]
    needs_go: bool = False


# --- steps ----------------------------------------------------------------------------------


def debian_step(packages: dict[str, str]) -> Step:
    def missing() -> list[str]:
        return [name for name, file in packages.items() if not Path(file).exists()]

    def run(log: Path) -> None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
        logged(["dpkg", "--configure", "-a"], log, environment=environment)
        logged([*apt, "update"], log, environment=environment)
        install = [*apt, "install", "--no-install-recommends", *missing()]
        logged(install, log, environment=environment)

    return Step("Debian packages", lambda: not missing(), run)


def venv_step(layout: Layout) -> Step:
    complete = layout.venv / ".complete"

    def run(log: Path) -> None:
        shutil.rmtree(layout.venv, ignore_errors=True)
        logged([sys.executable, "-m", "venv", str(layout.venv)], log)
        pip = [str(layout.venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        logged([*pip, "--require-hashes", "--requirement", str(pins.requirements())], log)
        complete.touch()

    return Step("Python packages", complete.exists, run)


def go_tool_step(layout: Layout, tool: GoTool) -> Step:
    target = layout.tool(tool)

    def run(log: Path) -> None:
        with temporary_beside(target) as folder:
            found = fitting_on_path(tool)
            if found:
                shutil.copy2(found, folder / tool.name)  # a copy stays what it is
            else:
                build(tool, folder / tool.name, log)
            replace_folder(folder, target.parent)

    return Step(tool.name, target.exists, run, needs_go=True)


def go_file_step(layout: Layout, file: GoFile) -> Step:
    target = layout.tool(file)

    def run(log: Path) -> None:
        module = MODULES / file.module
        logged(["go", "mod", "download", file.source_module], log, folder=module)
        listing = ["go", "list", "-m", "-f", "{{.Dir}}", file.source_module]
        answer = subprocess.run(listing, cwd=module, check=True, capture_output=True, text=True)
        source = Path(answer.stdout.strip()) / file.path
        with temporary_beside(target) as folder:
            copy_writable(source, folder / file.name, executable=file.executable)
            replace_folder(folder, target.parent)

    return Step(file.name, target.exists, run, needs_go=True)


def links_step(layout: Layout, tools: list[GoTool | GoFile]) -> Step:
    """One folder for PATH. Hard links: the engine looks for its language host beside its own file.

    Through a symbolic link it would find neither the host nor the host's executor.
    """
    wanted = {layout.binaries / tool.name: layout.tool(tool) for tool in tools}

    def done() -> bool:
        pairs = wanted.items()
        return all(link.exists() and link.samefile(target) for link, target in pairs)

    def run(log: Path) -> None:
        layout.binaries.mkdir(parents=True, exist_ok=True)
        for link, target in wanted.items():
            link.unlink(missing_ok=True)
            link.hardlink_to(target)

    return Step("links", done, run)


def is_program(tool: GoTool | GoFile) -> bool:
    return isinstance(tool, GoTool) or tool.executable


def module_step(layout: Layout, name: str, module: str, arguments: list[str]) -> Step:
    """A step that is a module of this project, run by the virtual environment's Python.

    `module` answers `is-done` with exit status 0 or 1, and `install` by doing it.
    """
    python = str(layout.venv / "bin" / "python")
    environment = {**os.environ, "PATH": search_path(layout), "PYTHONPATH": str(CHECKOUT)}

    def done() -> bool:
        if not Path(python).exists():
            return False
        command = [python, "-m", module, "is-done", *arguments]
        return subprocess.run(command, cwd=CHECKOUT, env=environment).returncode == 0

    def run(log: Path) -> None:
        command = [python, "-m", module, "install", *arguments]
        logged(command, log, folder=CHECKOUT, environment=environment)

    return Step(name, done, run)


def steps(layout: Layout, wanted: str) -> list[Step]:
    """The steps of a set, in the order in which they can run."""
    found = [venv_step(layout)]
    if wanted == "check":
        return found
    everything: list[GoTool | GoFile] = [*GO_TOOLS, *GO_FILES]
    tools = [tool for tool in everything if wanted in LAB_SETS or tool.name in ENGINE_TOOLS]
    tools += pins.ARM64_TOOLS if wanted in ARM64_SETS else []
    tools += pins.TEST_TOOLS if wanted in ("test", "bench") else []
    tools += pins.BENCH_TOOLS if wanted == "bench" else []
    if wanted in LAB_SETS:
        packages = dict(pins.DEBIAN_PACKAGES)
        packages |= pins.ARM64_PACKAGES if wanted in ARM64_SETS else {}
        packages |= pins.TEST_PACKAGES if wanted in ("test", "bench") else {}
        found.insert(0, debian_step(packages))
    for tool in tools:
        make = go_tool_step if isinstance(tool, GoTool) else go_file_step
        found.append(make(layout, tool))  # type: ignore[arg-type]
    found.append(links_step(layout, [tool for tool in tools if is_program(tool)]))
    found.append(module_step(layout, "Pulumi plugins", "tools.plugins.install", []))
    if wanted in LAB_SETS:
        found.append(module_step(layout, "machine image", "lab.image", []))
    if wanted in ARM64_SETS:
        found.append(module_step(layout, "arm64 machine image", "lab.arm64_image", []))
    return found


# --- building -------------------------------------------------------------------------------


def build(tool: GoTool, target: Path, log: Path) -> None:
    environment = {
        **os.environ,
        "CGO_ENABLED": "1" if tool.cgo else "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    if tool.architecture:
        environment["GOARCH"] = tool.architecture
    flags = ["-trimpath", f"-ldflags=-s -w {tool.linker_flags}".rstrip()]
    if tool.tags:
        flags += ["-tags", tool.tags]
    command = ["go", "build", *flags, "-o", str(target), tool.package]
    logged(command, log, folder=MODULES / tool.module, environment=environment)


def fitting_on_path(tool: GoTool) -> str | None:
    """The path of this very version where the machine already has it, or None."""
    found = shutil.which(tool.name) if tool.version else None
    if not found or Path(found).resolve().is_relative_to(pins.cache()):
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        command = [found, *tool.version_arguments]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
        words = (answer.stdout + answer.stderr).replace("\n", " ") + " "
        # A prefix such as `v3.22.` ends in a dot; a whole version must end where a word does.
        exact = tool.version if tool.version.endswith(".") else tool.version + " "
        return found if exact in words else None
    return None


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A fresh folder on the same file system as `target`'s folder, gone afterwards."""
    root = target.parent.parent
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.parent.name}-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    folder.chmod(0o755)
    folder.rename(target)
    folder.mkdir()  # so that the context manager has something to remove


def copy_writable(source: Path, target: Path, *, executable: bool) -> None:
    """Copy out of the module cache, where everything is read-only."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for folder, _, _ in os.walk(target):
            Path(folder).chmod(0o755)
        return
    shutil.copyfile(source, target)
    target.chmod(0o755 if executable else 0o644)


def logged(
    command: list[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run `command` with its output in `log`; SetupError with the log's end where it fails."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise SetupError("\n".join([f"`{' '.join(command[:4])} …` ended with {status}:", *lines]))


# --- prerequisites --------------------------------------------------------------------------


def missing_prerequisites(pending: list[Step], wanted: str) -> list[str]:
    """One line for each thing that this machine lacks and that no step can install."""
    lines = []
    if sys.platform != "linux":
        lines.append(f"Linux is needed (found {sys.platform}); run this in a Linux machine or VM")
    if sys.version_info < NEEDED_PYTHON:
        found = sys.version.split()[0]
        lines.append(f"Python ≥ 3.11 is needed as python3 (found {found}); install a newer one")
    if not module_available("ensurepip"):
        lines.append("Python's venv is needed; apt-get install python3-venv")
    if wanted in LAB_SETS and os.geteuid() != 0:
        lines.append("root is needed for the lab's machines; run it as root or with sudo")
    if wanted in LAB_SETS and not shutil.which("apt-get"):
        lines.append("apt-get is needed (the lab is made of Debian packages): use Debian")
    if any(step.needs_go for step in pending):
        lines += missing_go()
    if len(pending) > 1:
        lines += missing_disk()
    return lines


def missing_go() -> list[str]:
    go = shutil.which("go")
    if not go:
        return ["Go ≥ 1.26 is needed (found none on PATH); install it and put its bin on PATH"]
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True,
                            env=environment)  # fmt: skip
    version = answer.stdout.strip()
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    fits = numbers and tuple(int(number) for number in numbers.groups()) >= NEEDED_GO
    return [] if fits else [f"Go ≥ 1.26 is needed (found {version or 'no answer'} at {go})"]


def missing_disk() -> list[str]:
    folder = pins.cache()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free >= NEEDED_DISK_GIB:
        return []
    return [
        f"{NEEDED_DISK_GIB} GiB of free disk are needed at {folder} (found {free:.1f});"
        " free some, or point XDG_CACHE_HOME elsewhere"
    ]


def module_available(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


# --- running --------------------------------------------------------------------------------


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two checkouts share the cache: the second waits, and says so."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("autojoin: another set-up is under way on this machine; waiting for it",
                  flush=True)  # fmt: skip
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_step(step: Step, place: str, log: Path) -> None:
    """Run one step with a line at its start and end, and a sign of life in between."""
    import threading

    started = time.monotonic()
    ended = threading.Event()

    def elapsed() -> str:
        return f"{time.monotonic() - started:.0f} s"

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            print(f"autojoin: {place} {step.name} … {elapsed()}", flush=True)

    print(f"autojoin: {place} {step.name}", flush=True)
    watcher = threading.Thread(target=beat, daemon=True)
    watcher.start()
    try:
        step.run(log)
    finally:
        ended.set()
    print(f"autojoin: {place} {step.name} done in {elapsed()}", flush=True)


def install(wanted: str) -> None:
    """Make everything of the set that is not there yet."""
    layout = Layout()
    every = steps(layout, wanted)
    if all(step.done() for step in every):
        return
    with only_one(layout.cache):
        pending = [step for step in every if not step.done()]
        lines = missing_prerequisites(pending, wanted)
        if lines:
            raise SetupError("\n".join(lines))
        started = time.monotonic()
        logs = layout.cache / "logs"
        logs.mkdir(exist_ok=True)
        for number, step in enumerate(every, 1):
            if step not in pending:
                continue
            log = logs / f"{step.name.replace(' ', '-')}.log"
            log.unlink(missing_ok=True)
            try:
                run_step(step, f"[{number}/{len(every)}]", log)
            except (SetupError, OSError, subprocess.SubprocessError) as error:
                message = f"{step.name}: {error}\nThe whole log: {log}; run it again to go on"
                raise SetupError(message) from error
        print(f"autojoin: set-up done in {time.monotonic() - started:.0f} s", flush=True)


def search_path(layout: Layout) -> str:
    """PATH with the virtual environment and the pinned tools first."""
    own = [str(layout.venv / "bin"), str(layout.binaries)]
    rest = [part for part in os.environ.get("PATH", "").split(":") if part not in own]
    # Debian's system tools live where a plain user's PATH does not look.
    rest += [part for part in ("/usr/sbin", "/sbin") if part not in rest]
    return ":".join(own + rest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install").add_argument("set", choices=SETS, nargs="?", default="all")
    commands.add_parser("python", help="print the path of the virtual environment's Python")
    commands.add_parser("path", help="print PATH with the pinned tools first")
    arguments = parser.parse_args()
    layout = Layout()
    if arguments.command == "python":
        print(layout.venv / "bin" / "python")
        return 0
    if arguments.command == "path":
        print(search_path(layout))
        return 0
    try:
        install(arguments.set)
    except SetupError as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        print("autojoin: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
