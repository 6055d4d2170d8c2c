"""One command on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


class HereError(Exception):
    """Why there is no answer, as a line for a person."""


def run(words: Sequence[str], *, seconds: float) -> str:
    """What a command prints; HereError with what it said where it fails."""
    try:
        answer = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise HereError(f"not done within {seconds:.0f} s") from None
    except OSError as error:
        raise HereError(f"{words[0]} can't be run: {error.strerror}") from None
    if answer.returncode:
        raise HereError(answer.stderr.strip() or f"exit status {answer.returncode}")
    return answer.stdout
