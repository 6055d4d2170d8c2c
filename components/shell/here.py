"""One of the program's own commands, on the machine that runs the program, outside the graph."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping


class HereError(Exception):
    """What the command said before it failed."""


async def run(
    words: list[str], stdin: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """What the command prints."""
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate(stdin.encode())
    if process.returncode:
        said = complaint.decode().strip()
        raise HereError(said or f"{words[0]} ended with {process.returncode}")
    return output.decode()
