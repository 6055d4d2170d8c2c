"""Install what autojoin needs on this machine: `python3 tools/install.py install SET`.

A set is one of
    check    the virtual environment: enough for `make check`
    engine   and the Pulumi engine with its plugins: enough for `make preview`
    all      and Debian packages, the lab's binaries and its machine image
    arm64    and what the lab's stand-ins of arm64 boards need to be arm64 themselves
    test     and what the tests need besides
    edits    and what all edits of day two need besides
    bench    and what the benchmark is measured against

or, beside those,
    conformance  `all`, and Kubernetes' conformance suite with the images of its specs
    machines     `all`, and what the lab's virtual machines need

Everything but the Debian packages goes to a cache outside the checkout (see tools/pins.py), each
thing under a temporary name first, so that an interrupted run goes on where it was. What waits
for the disk, the network or an emulated program is made beside what Go builds. Standard library
only: this is what makes the virtual environment.
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
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):  # run as a file, before anything is installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import pins
from tools.errors import tell
from tools.lanes import Lanes, SetupError, Step, logged
from tools.pins import CHECKOUT, GO_FILES, GO_TOOLS, MODULES, GoFile, GoTool, Layout, Patch
from tools.plugins import given

NEEDED_PYTHON = (3, 11)
NEEDED_DISK_GIB = 12
ENGINE_TOOLS = {
    "pulumi",
    "pulumi-language-python",
    "pulumi-language-python-exec",
    "kubectl",
}
DEBIAN_STEP = "Debian packages"
VENV_STEP = "Python packages"
SETS = ("check", "engine", "all", "arm64", "test", "edits", "bench", "conformance", "machines")
LAB_SETS = SETS[2:]
ARM64_SETS = ("arm64", "test", "edits")
TEST_SETS = ("test", "edits", "bench")


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

    return Step(DEBIAN_STEP, lambda: not missing(), run)


def venv_step(layout: Layout) -> Step:
    complete = layout.venv / ".complete"

    def run(log: Path) -> None:
        shutil.rmtree(layout.venv, ignore_errors=True)
        logged([sys.executable, "-m", "venv", str(layout.venv)], log)
        pip = [str(layout.venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        files = [word for file in pins.requirements() for word in ("--requirement", str(file))]
        logged([*pip, "--require-hashes", *files], log)
        complete.touch()

    return Step(VENV_STEP, complete.exists, run)


def go_tool_step(layout: Layout, tool: GoTool) -> Step:
    target = layout.tool(tool)

    def run(log: Path) -> None:
        with temporary_beside(target) as folder:
            found = fitting_on_path(tool)
            if found:
                shutil.copy2(found, folder / tool.name)  # a copy stays what it is
            else:
                with module_folder(tool, log) as module:
                    build(tool, module, folder / tool.name, log)
            replace_folder(folder, target.parent)

    return Step(tool.name, target.exists, run, lane="go", needs_go=True)


def go_file_step(layout: Layout, file: GoFile) -> Step:
    target = layout.tool(file)

    def run(log: Path) -> None:
        source = module_source(MODULES / file.module, file.source_module, log) / file.path
        with temporary_beside(target) as folder:
            copy_writable(source, folder / file.name, executable=file.executable)
            replace_folder(folder, target.parent)

    return Step(file.name, target.exists, run, lane="download", needs_go=True)


def modules_step(steps: list[Step]) -> Step:
    """The source of every Go tool, fetched while the first of them is built."""

    def run(log: Path) -> None:
        logged(["go", "mod", "download"], log, folder=MODULES / "shared")

    def done() -> bool:
        return all(step.done() for step in steps)

    return Step("Go modules", done, run, lane="download", needs_go=True)


def links_step(layout: Layout, tools: list[GoTool | GoFile]) -> Step:
    """One folder for PATH. Hard links: the engine looks for its language host beside its own file.

    Through a symbolic link it would find neither the host nor the host's executor.
    """
    wanted = {layout.binaries / tool.command: layout.tool(tool) for tool in tools}

    def done() -> bool:
        return all(
            link.exists() and target.exists() and link.samefile(target)
            for link, target in wanted.items()
        )

    def run(log: Path) -> None:
        layout.binaries.mkdir(parents=True, exist_ok=True)
        for link, target in wanted.items():
            link.unlink(missing_ok=True)
            link.hardlink_to(target)

    files = tuple(tool.name for tool in tools if isinstance(tool, GoFile))
    return Step("links", done, run, lane="go", after=files)


def is_program(tool: GoTool | GoFile) -> bool:
    return isinstance(tool, GoTool) or tool.executable


def module_step(layout: Layout, name: str, module: str, lane: str = "machine") -> Step:
    """A step that is a module of this project, run by the virtual environment's Python.

    `module` answers `is-done` with exit status 0 or 1, and `install` by doing it.
    """
    python = str(layout.venv / "bin" / "python")
    environment = {**os.environ, "PATH": search_path(layout), "PYTHONPATH": str(CHECKOUT)}

    def done() -> bool:
        if not Path(python).exists():
            return False
        command = [python, "-m", module, "is-done"]
        return subprocess.run(command, cwd=CHECKOUT, env=environment).returncode == 0

    def run(log: Path) -> None:
        command = [python, "-m", module, "install"]
        logged(command, log, folder=CHECKOUT, environment=environment)

    return Step(name, done, run, lane=lane, after=(VENV_STEP,))


def steps(layout: Layout, wanted: str) -> list[Step]:
    """The steps of a set, in an order in which they can run."""
    found = [venv_step(layout)]
    if wanted == "check":
        return found
    everything: list[GoTool | GoFile] = [*GO_TOOLS, *GO_FILES]
    tools = [tool for tool in everything if wanted in LAB_SETS or tool.name in ENGINE_TOOLS]
    tools += pins.IMAGE_TOOLS if wanted in LAB_SETS else []
    tools += pins.ARM64_TOOLS if wanted in ARM64_SETS else []
    tools += pins.TEST_TOOLS if wanted in TEST_SETS else []
    tools += pins.PREVIOUS_TOOLS if wanted == "edits" else []
    tools += pins.BENCH_TOOLS if wanted == "bench" else []
    tools += pins.CONFORMANCE_TOOLS if wanted == "conformance" else []
    if wanted in LAB_SETS:
        packages = dict(pins.DEBIAN_PACKAGES)
        packages |= pins.ARM64_PACKAGES if wanted in ARM64_SETS else {}
        packages |= pins.TEST_PACKAGES if wanted in TEST_SETS else {}
        packages |= pins.MACHINE_PACKAGES if wanted == "machines" else {}
        found.insert(0, debian_step(packages))
    go_tools = [go_tool_step(layout, tool) for tool in tools if isinstance(tool, GoTool)]
    found += [modules_step(go_tools), *go_tools]
    found += [go_file_step(layout, file) for file in tools if isinstance(file, GoFile)]
    found.append(links_step(layout, [tool for tool in tools if is_program(tool)]))
    found.append(module_step(layout, "Pulumi plugins", "tools.plugins.install", lane="go"))
    if wanted in LAB_SETS:
        found.append(module_step(layout, "machine image", "lab.image"))
        found.append(module_step(layout, "container images", "lab.registry", lane="go"))
    if wanted == "conformance":
        name = "images of the conformance specs"
        found.append(module_step(layout, name, "lab.conformance_images", lane="go"))
    if wanted in ARM64_SETS:
        found.append(module_step(layout, "arm64 machine image", "lab.arm64_image"))
    if wanted == "machines":
        found.append(module_step(layout, "Debian's installer", "lab.debian_installer"))
    if wanted in ("test", "edits", "machines"):
        found.append(module_step(layout, "virtual machines' disk", "lab.machine_image"))
        found.append(module_step(layout, "plain machine image", "lab.plain_image", lane="go"))
    return found


# --- building -------------------------------------------------------------------------------


def module_source(module: Path, name: str, log: Path) -> Path:
    """The folder of the module `name`, at the version that `module` pins, checked by its sum."""
    logged(["go", "mod", "download", name], log, folder=module)
    listing = ["go", "list", "-m", "-f", "{{.Dir}}", name]
    answer = subprocess.run(listing, cwd=module, check=True, capture_output=True, text=True)
    return Path(answer.stdout.strip())


@contextlib.contextmanager
def module_folder(tool: GoTool, log: Path) -> Iterator[Path]:
    """The folder in which `tool` is built: its module, or a copy with the tool's patch in it."""
    module = MODULES / tool.module
    if not tool.patch:
        yield module
        return
    source = module_source(module, tool.patch.module, log)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=pins.cache()) as name:
        folder = Path(name)
        copy_writable(source, folder / "patched", executable=False)
        apply_patch(tool.patch, folder / "patched")
        for file in ("go.mod", "go.sum"):
            shutil.copyfile(module / file, folder / file)
        edit = ["go", "mod", "edit", f"-replace={tool.patch.module}=./patched"]
        logged(edit, log, folder=folder)
        yield folder


def apply_patch(patch: Patch, folder: Path) -> None:
    for edit in patch.edits:
        path = folder / edit.file
        lines = path.read_text().split("\n")
        found = lines.count(edit.line)
        if found != 1:
            raise SetupError(
                f"{patch.module} is not what its patch in tools/pins.py was made for:"
                f" {edit.file} holds {found} times: {edit.line.strip()}"
            )
        at = lines.index(edit.line)
        lines[at : at + 1] = [edit.instead] if edit.instead else []
        path.write_text("\n".join(lines))
    for source, target in patch.copied:
        shutil.copyfile(folder / source, folder / target)


def build(tool: GoTool, module: Path, target: Path, log: Path) -> None:
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    if tool.architecture:
        environment["GOARCH"] = tool.architecture
    if tool.system:
        environment["GOOS"] = tool.system
    flags = ["-trimpath", f"-ldflags=-s -w {tool.linker_flags}".rstrip()]
    if tool.tags:
        flags += ["-tags", tool.tags]
    compile_ = ["go", "test", "-c", "-vet=off"] if tool.test else ["go", "build"]
    command = [*compile_, *flags, "-o", str(target), tool.package]
    logged(command, log, folder=module, environment=environment)


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
    text = (MODULES / "shared/go.mod").read_text()
    needed = next(line.removeprefix("go ") for line in text.splitlines() if line[:3] == "go ")
    go = shutil.which("go")
    if not go:
        return [f"Go ≥ {needed} is needed (found none on PATH); install it, put its bin on PATH"]
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True,
                            env=environment)  # fmt: skip
    version = answer.stdout.strip()
    if version.startswith("go") and go_numbers(version[2:]) >= go_numbers(needed):
        return []
    return [f"Go ≥ {needed} is needed (found {version or 'no answer'} at {go})"]


def go_numbers(version: str) -> list[int]:
    """`1.26.6` or `1.27rc1` as numbers: a new minor release is enough as a candidate."""
    return [int(number) for number in re.findall(r"\d+", version.partition("rc")[0])]


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


def install(wanted: str) -> None:
    """Make everything of the set that is not there yet."""
    try:
        given.check()
    except given.UnusablePlugin as error:
        raise SetupError(str(error)) from None
    layout = Layout()
    make(layout, steps(layout, wanted), wanted)


def make(layout: Layout, every: list[Step], wanted: str) -> None:
    """Make those of the steps that are not done yet."""
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
        Lanes(every, pending, logs).run()
        print(f"autojoin: set-up done in {time.monotonic() - started:.0f} s", flush=True)


def cfssl(system: str, architecture: str) -> Path:
    """The CFSSL for CA hosts of a platform, made where it is not there yet."""
    if (system, architecture) not in pins.CFSSL_PLATFORMS:
        known = ", ".join("/".join(platform) for platform in pins.CFSSL_PLATFORMS)
        raise SetupError(f"CFSSL is made for {known}, not for {system}/{architecture}")
    layout = Layout()
    tool = pins.cfssl(system, architecture)
    make(layout, [go_tool_step(layout, tool)], "")
    return layout.tool(tool)


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
    program = commands.add_parser("cfssl", help="make the CFSSL of a platform, print its path last")
    program.add_argument("system", help="linux, illumos, freebsd, openbsd or netbsd")
    program.add_argument("architecture", help="amd64 or arm64")
    arguments = parser.parse_args()
    layout = Layout()
    if arguments.command == "python":
        print(layout.venv / "bin" / "python")
        return 0
    if arguments.command == "path":
        print(search_path(layout))
        return 0
    try:
        if arguments.command == "cfssl":
            print(cfssl(arguments.system, arguments.architecture))
            return 0
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
