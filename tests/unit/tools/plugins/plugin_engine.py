"""A Pulumi project under the real engine, with the stand-ins as its plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.plugins import package

TIMEOUT = 120


def install(home: Path, build: Path) -> None:
    """Put the stand-ins into the PULUMI_HOME `home`, as the lab does.

    All of them: one that is missing the engine would try to download at every run.
    """
    for name, version, folder in package.build(build, sys.executable):
        arguments = ["plugin", "install", "resource", name, version, "--file", str(folder)]
        subprocess.run(
            ["pulumi", *arguments],
            env={**os.environ, "PULUMI_HOME": str(home), "PULUMI_SKIP_UPDATE_CHECK": "true"},
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )


@dataclass
class Project:
    """A project with one stack on a file backend in `folder`."""

    folder: Path
    home: Path

    def __post_init__(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "Pulumi.yaml").write_text("name: test\nruntime: python\n")
        self.run("stack", "init", "dev")

    def program(self, text: str) -> None:
        """What the project's __main__.py is from now on."""
        (self.folder / "__main__.py").write_text(text)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run `pulumi …`; returns what it printed. Its exit status must be as told."""
        answer = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PULUMI_HOME": str(self.home),
                "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}",
                "PULUMI_CONFIG_PASSPHRASE": "test",
                "PULUMI_SKIP_UPDATE_CHECK": "true",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        assert (answer.returncode != 0) == fails, answer.stdout
        return answer.stdout

    def up(self, fails: bool = False) -> str:
        return self.run("up", "--yes", "--skip-preview", fails=fails)

    def state(self) -> str:
        """The state as stored, its secrets encrypted."""
        return self.run("stack", "export")

    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources of the state by name, secrets shown as they are."""
        stack = json.loads(self.run("stack", "export", "--show-secrets"))
        found = stack["deployment"].get("resources", [])
        return {each["urn"].rsplit("::", 1)[-1]: each for each in found}


def secret(value: Any) -> Any:
    """The value inside of a secret of the state; it must be one."""
    assert isinstance(value, dict), value
    assert "plaintext" in value, value
    return json.loads(value["plaintext"])
