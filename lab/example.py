"""A workload that answers from outside the cluster: what the lab is brought up for."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from pathlib import Path

from tools.errors import LabError

MANIFEST = Path(__file__).with_name("example.yaml")
NAME = "example"
ANSWER_SECONDS = 180.0


def apply(environment: dict[str, str]) -> None:
    """Ask for it; its pods start as soon as a node takes them."""
    kubectl(environment, "apply", "--filename", str(MANIFEST))


def await_answer(environment: dict[str, str]) -> tuple[str, str]:
    """Its URL and which pod answered there first. LabError says how far it came."""
    deadline = time.monotonic() + ANSWER_SECONDS
    address, trouble = "", "has no address"
    while time.monotonic() < deadline:
        address = address or given_address(environment)
        if address:
            try:
                return f"http://{address}/", ask(address)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"does not answer at {address} ({error})"
        time.sleep(0.2)
    pods = kubectl(environment, "get", "pods", "--all-namespaces", "--no-headers")
    raise LabError(
        f"Service {NAME} {trouble} after {ANSWER_SECONDS:.0f} s; `make status` says more:\n{pods}"
    )


def given_address(environment: dict[str, str]) -> str:
    service = json.loads(kubectl(environment, "get", "service", NAME, "--output", "json"))
    given = service["status"]["loadBalancer"].get("ingress", [])
    return str(given[0]["ip"]) if given else ""


def ask(address: str) -> str:
    connection = http.client.HTTPConnection(address, 80, timeout=1)
    try:
        connection.request("GET", "/hostname")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def kubectl(environment: dict[str, str], *words: str) -> str:
    command = ["kubectl", "--namespace", "default", *words]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise LabError(f"`{' '.join(command)}` failed: {answer.stderr.strip()}")
    return answer.stdout
