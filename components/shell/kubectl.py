"""What the cluster has, read by kubectl. Imports no Pulumi: `commands/` reads by it too."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

REQUEST_SECONDS = 5
# kubectl asks five times before it gives up.
SECONDS = 8


class KubectlError(Exception):
    """kubectl is not there, or the cluster did not answer as wanted; one line."""


def readiness(kubeconfig: str) -> dict[str, str]:
    """The status of the Ready condition of each Node that has one, by name."""
    return {
        node["metadata"]["name"]: condition["status"]
        for node in items(kubeconfig, "nodes")
        for condition in node["status"].get("conditions", [])
        if condition["type"] == "Ready"
    }


def items(kubeconfig: str, *words: str) -> list[dict[str, Any]]:
    """The objects that `kubectl get WORDS` finds; none where their kind does not exist."""
    found = ask(kubeconfig, "get", *words)
    if found is None:
        return []
    return list(found["items"]) if "items" in found else [found]


def ask(kubeconfig: str, *words: str) -> Any:
    """What `kubectl WORDS` answers; None where there is nothing of the kind that is asked for."""
    command = ["kubectl", f"--request-timeout={REQUEST_SECONDS}s", *words, "--output=json"]
    environment = {**os.environ, "KUBECONFIG": str(Path(kubeconfig).expanduser())}
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,  # where its login is not in the kubeconfig, it would ask
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise KubectlError(f"the API server does not answer in {SECONDS} s") from None
    except OSError as error:
        raise KubectlError(f"kubectl can't be run ({error.strerror})") from None
    if answer.returncode:
        if "the server doesn't have a resource type" in answer.stderr:
            return None
        raise KubectlError((answer.stderr.strip().splitlines() or ["no reason given"])[-1])
    return json.loads(answer.stdout) if answer.stdout.strip() else None
