"""Waiting for what starts by itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tools.errors import LabError


def wait_for(
    ready: Callable[[], object],
    seconds: float,
    failure: str,
    details: Callable[[], str] = str,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Return once `ready()` is true.

    LabError with `failure` and what `details` says where it is not within `seconds`, or where
    `process` has ended.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if process is not None and process.poll() is not None:
            raise LabError(
                f"{failure}: the process ended ({process.returncode})\n{details()}".rstrip()
            )
        if time.monotonic() > deadline:
            raise LabError(f"{failure} within {seconds:.0f} s\n{details()}".rstrip())
        time.sleep(0.05)
