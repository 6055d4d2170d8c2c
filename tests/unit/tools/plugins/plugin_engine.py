"""A Pulumi project under the real engine, with whichever plugins are installed."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import stack

TIMEOUT = 240


@dataclass
class Project:
    """A project with one stack on a file backend in `folder`, one that stand-ins work for."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "Pulumi.yaml").write_text("name: test\nruntime: python\n")
        self.environment = {
            **stack.engine_environment(),
            **stack.lab_stack(self.folder / "state", "dev"),
            "PULUMI_CONFIG_PASSPHRASE": "test",
            **self.environment,
        }
        self.run("stack", "init", "dev")

    def program(self, text: str) -> None:
        """What the project's __main__.py is from now on."""
        (self.folder / "__main__.py").write_text(text)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run `pulumi …`; returns what it printed. Its exit status must be as told."""
        answer = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env={**os.environ, **self.environment},
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

    def steps(self, *arguments: str) -> dict[str, str]:
        """What a preview would do to each resource that it does not leave as it is, by name."""
        text = self.run("preview", "--json", *arguments)
        steps = json.JSONDecoder().raw_decode(text[text.index("{") :])[0].get("steps", [])
        return {
            each["urn"].rpartition("::")[2]: each["op"] for each in steps if each["op"] != "same"
        }

    def state(self) -> str:
        """The state as stored, its secrets encrypted."""
        return self.run("stack", "export")

    def resources(self) -> dict[str, dict[str, Any]]:
        """The resources of the state by name, secrets shown as they are."""
        exported = json.loads(self.run("stack", "export", "--show-secrets"))
        found = exported["deployment"].get("resources", [])
        return {each["urn"].rsplit("::", 1)[-1]: each for each in found}


def secret(value: Any) -> Any:
    """The value inside of a secret of the state; it must be one."""
    assert isinstance(value, dict), value
    assert "plaintext" in value, value
    return json.loads(value["plaintext"])
