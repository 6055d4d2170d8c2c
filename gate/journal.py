"""Log lines: one JSON object each, on standard output, for the service manager to keep.

Callers pass facts (names, serials, reasons); keys, tokens and request bodies never come here.
"""

from __future__ import annotations

import json
import sys
import threading
import time

_lock = threading.Lock()


def record(event: str, **facts: object) -> None:
    """Write one line: the time, what happened, and the facts that are not None."""
    line: dict[str, object] = {"at": round(time.time(), 3), "event": event}
    line.update((key, value) for key, value in facts.items() if value is not None)
    text = json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"
    with _lock:
        sys.stdout.write(text)
        sys.stdout.flush()
