"""How the program ends where the engine ends first: without a word; imported before anything else.

After a failure, and on Ctrl-C, the engine stops listening and interrupts the program. The SDK may
wait for an answer just then, and Python would show where, in sixty lines below what failed.
"""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGINT, lambda *_: os._exit(1))
