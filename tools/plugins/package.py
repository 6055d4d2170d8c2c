"""Lay the stand-ins out as plugin folders for `pulumi plugin install resource NAME VERSION -f`.

A folder holds the executable `pulumi-resource-NAME` and a copy of the code, so that it does not
depend on the checkout; it does depend on the interpreter, which has the SDK and `cryptography`.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import json
import py_compile
import shlex
import shutil
import subprocess
from pathlib import Path

from tools.plugins import VERSION_VARIABLE

PLUGINS = ("command", "tls", "kubernetes")
_SOURCE = Path(__file__).resolve().parent

_WRAPPER = """\
#!/bin/sh
# Started by Pulumi's engine with the engine's address.
exec {python} "$(dirname "$0")/start.py" "$@"
"""

# Not PYTHONPATH: local commands inherit the plugin's environment.
_START = """\
import os
import runpy

os.environ["{variable}"] = "{version}"
runpy.run_module("tools.plugins.{name}", run_name="__main__", alter_sys=True)
"""


def build(destination: Path, python: str) -> list[tuple[str, str, Path]]:
    """One folder under `destination` for each stand-in; returns (name, version, folder).

    `python`: the interpreter that runs them; the versions are those of the Pulumi SDKs that it
    has installed. What was in the folders before is replaced.
    """
    built = []
    for name, version in _versions(python).items():
        folder = destination / f"{name}-{version}"
        _lay_out(folder, name, version, python)
        built.append((name, version, folder))
    return built


def _versions(python: str) -> dict[str, str]:
    names = [name for name in PLUGINS if (_SOURCE / f"{name}.py").exists()]
    try:
        return {name: importlib.metadata.version(f"pulumi-{name}") for name in names}
    except importlib.metadata.PackageNotFoundError:
        return _versions_elsewhere(python, names)


def _versions_elsewhere(python: str, names: list[str]) -> dict[str, str]:
    """Ask `python`, where this interpreter itself has no SDK."""
    code = (
        "import importlib.metadata, json, sys;"
        "print(json.dumps({n: importlib.metadata.version('pulumi-' + n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run(
        [python, "-c", code, *names], check=True, capture_output=True, text=True
    )
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions


def _lay_out(folder: Path, name: str, version: str, python: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "tools" / "plugins"
    package.mkdir(parents=True)
    shutil.copyfile(_SOURCE.parent / "__init__.py", folder / "tools" / "__init__.py")
    for file in sorted(_SOURCE.glob("*.py")):
        if _belongs(file.stem, name):
            shutil.copyfile(file, package / file.name)
    # Unchecked, because installing the plugin changes the files' times.
    compileall.compile_dir(
        folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    start = _START.format(variable=VERSION_VARIABLE, version=version, name=name)
    (folder / "start.py").write_text(start)
    wrapper = folder / f"pulumi-resource-{name}"
    wrapper.write_text(_WRAPPER.format(python=shlex.quote(python)))
    wrapper.chmod(0o755)


def _belongs(module: str, name: str) -> bool:
    """Whether a module is shared or this plugin's own (`NAME.py`, `NAME_*.py`)."""
    owner = next((each for each in PLUGINS if module.split("_", 1)[0] == each), name)
    return owner == name and module not in ("package", "install")
