"""Put Pulumi's resource plugins into a PULUMI_HOME of the lab's own, once.

`python -m tools.plugins.install install`. Pulumi's own release plugins where its release site can
be reached; elsewhere the stand-ins of this folder, built on Pulumi's provider SDK. Which of the
two it was is said once and kept in the folder's `plugins.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import pins
from tools.pins import Layout

PLUGINS = {
    "command": "pulumi-command",
    "tls": "pulumi-tls",
    "kubernetes": "pulumi-kubernetes",
}
PROBE_SECONDS = 15
DOWNLOAD_SECONDS = 600
_RECORD = "plugins.json"


class PluginError(Exception):
    """A plugin that could not be put in place."""


def home(layout: Layout) -> Path:
    """The PULUMI_HOME, keyed by everything that is put into it."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    contents = [source.read_bytes() for source in sources]
    return layout.cache / f"pulumi-home-{pins.digest(str(layout.home), *contents)}"


def installed(layout: Layout) -> bool:
    return (home(layout) / _RECORD).exists()


def describe(layout: Layout) -> str:
    """The line that says which plugins are in use."""
    record = json.loads((home(layout) / _RECORD).read_text())
    if record["released"]:
        return "Pulumi's own release plugins are in use"
    return (
        "Pulumi's release plugins can't be downloaded here: "
        "stand-ins for command, tls and kubernetes are in use (docs/stand-ins.md)"
    )


def install(layout: Layout) -> None:
    """Install every plugin."""
    target = home(layout)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    released = release_reachable(target)
    if released:
        for name in PLUGINS:
            pulumi(target, ["plugin", "install", "resource", name, version(name)],
                   DOWNLOAD_SECONDS)  # fmt: skip
    else:
        install_stand_ins(target)
    record = {"released": released, "versions": {name: version(name) for name in PLUGINS}}
    (target / _RECORD).write_text(json.dumps(record) + "\n")


def release_reachable(target: Path) -> bool:
    """Whether a release plugin downloads within the probe's time; the smallest is tried."""
    try:
        arguments = ["plugin", "install", "resource", "tls", version("tls")]
        pulumi(target, arguments, PROBE_SECONDS)
    except (PluginError, subprocess.TimeoutExpired):
        return False
    return True


def install_stand_ins(target: Path) -> None:
    from tools.plugins import package

    with tempfile.TemporaryDirectory(prefix="autojoin-plugins-") as folder:
        for name, release, path in package.build(Path(folder), sys.executable):
            arguments = ["plugin", "install", "resource", name, release, "--file", str(path)]
            pulumi(target, arguments, 60)


def version(name: str) -> str:
    """The plugin's version: that of its Python SDK."""
    return importlib.metadata.version(PLUGINS[name])


def pulumi(target: Path, arguments: list[str], seconds: int) -> None:
    environment = {**os.environ, "PULUMI_HOME": str(target), "PULUMI_SKIP_UPDATE_CHECK": "true"}
    answer = subprocess.run(
        ["pulumi", *arguments, "--non-interactive"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if answer.returncode:
        raise PluginError(answer.stderr.strip() or answer.stdout.strip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["is-done", "install"])
    command = parser.parse_args().command
    layout = Layout()
    if command == "is-done":
        return 0 if installed(layout) else 1
    try:
        install(layout)
    except (PluginError, subprocess.TimeoutExpired) as error:
        print(f"Pulumi plugins: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
