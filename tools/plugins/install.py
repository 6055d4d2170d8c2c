"""Put Pulumi's resource plugins into a PULUMI_HOME of the lab's own, once.

`python -m tools.plugins.install install`. Those of PLUGINS=folder where it is given, else Pulumi's
own release plugins where its release site can be reached, else what can be had here: `kubernetes`
built from its module, stand-ins for the others. Which it was is kept in the folder's
`plugins.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import pins
from tools.install import go_tool_step, missing_go
from tools.lanes import SetupError
from tools.pins import Layout
from tools.plugins import given, package
from tools.plugins.given import NAMES
from tools.plugins.package import version

PROBE_SECONDS = 15
DOWNLOAD_SECONDS = 600
_RECORD = "plugins.json"
_SOURCES = {
    "given": f"the plugins of PLUGINS={os.environ.get(given.VARIABLE)} are in use",
    "released": "Pulumi's own release plugins are in use",
    "made": "Pulumi's release plugins can't be downloaded here: kubernetes is built from its "
    "module, stand-ins for command and tls are in use (docs/stand-ins.md)",
}


class PluginError(Exception):
    """A plugin that could not be put in place."""


def home(layout: Layout) -> Path:
    """The PULUMI_HOME, keyed by everything that is put into it."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    contents = [source.read_bytes() for source in sources]
    built = layout.tool(pins.KUBERNETES_PLUGIN)
    about = [(str(file), file.stat().st_mtime_ns) for file in given.files().values()]
    keys = (str(layout.home), str(built), str(about))
    return layout.cache / f"pulumi-home-{pins.digest(*keys, *contents)}"


def installed(layout: Layout) -> bool:
    return (home(layout) / _RECORD).exists()


def describe(layout: Layout) -> str:
    """The line that says which plugins are in use."""
    return _SOURCES[json.loads((home(layout) / _RECORD).read_text())["source"]]


def install(layout: Layout) -> None:
    """Install every plugin."""
    target = home(layout)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if given.files():
        put(target, given.files())
        source = "given"
    elif release_reachable(target):
        for name in NAMES:
            words = ["plugin", "install", "resource", name, version(name)]
            pulumi(target, words, DOWNLOAD_SECONDS)
        source = "released"
    else:
        with tempfile.TemporaryDirectory(prefix="autojoin-plugins-") as folder:
            put(target, made(layout, Path(folder)))
        source = "made"
    (target / _RECORD).write_text(json.dumps({"source": source}) + "\n")


def made(layout: Layout, folder: Path) -> dict[str, Path]:
    """What can be had where nothing can be downloaded, by name; the stand-ins in `folder`."""
    step = go_tool_step(layout, pins.KUBERNETES_PLUGIN)
    if not step.done():
        lines = missing_go()
        if lines:
            raise PluginError("\n".join(lines))
        step.run(layout.cache / "logs" / f"{step.name}.log")
    kubernetes = layout.tool(pins.KUBERNETES_PLUGIN)
    return {**package.build(folder, sys.executable), "kubernetes": kubernetes}


def put(target: Path, files: dict[str, Path]) -> None:
    """Install plugins from their executables into the PULUMI_HOME `target`."""
    for name, file in files.items():
        words = ["plugin", "install", "resource", name, version(name), "--file", str(file)]
        pulumi(target, words, 60)


def release_reachable(target: Path) -> bool:
    """Whether a release plugin downloads within the probe's time; the smallest is tried."""
    try:
        pulumi(target, ["plugin", "install", "resource", "tls", version("tls")], PROBE_SECONDS)
    except (PluginError, subprocess.TimeoutExpired):
        return False
    return True


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
    except (PluginError, SetupError, subprocess.TimeoutExpired) as error:
        print(f"Pulumi plugins: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
