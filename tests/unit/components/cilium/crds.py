"""CRDs on an API server of the tests'."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from components.cilium import prerequisites


def await_crds(kubeconfig: Path, *definitions: str) -> str:
    """What the graph's own gate says at its end; `kubectl wait` fails on one just made."""
    words = ["sh", str(prerequisites.CRD_GATE), "-o", "240", *definitions]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    answer = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
