"""Log lines: one JSON object each, on standard output, for the service manager to keep.

Callers pass facts (names, serials, reasons); keys, tokens and request bodies never come here.
"""

from __future__ import annotations

import json
import os
import time

_STANDARD_OUTPUT = 1


def record(event: str, **facts: object) -> None:
    """Write one line: the time, what happened, and the facts that are not None."""
    line: dict[str, object] = {"at": round(time.time(), 3), "event": event}
    line.update((key, value) for key, value in facts.items() if value is not None)
    # In one call: several processes write to the same file.
    os.write(_STANDARD_OUTPUT, _ENCODER.encode(line).encode() + b"\n")


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
