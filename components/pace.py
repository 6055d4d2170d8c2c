"""What keeps a program of thousands of resources as quick as the engine."""

from __future__ import annotations

import asyncio
import gc

# New objects between two looks for garbage: Python's own 700 are for programs that live longer.
_OBJECTS = 50_000


def collect_rarely() -> None:
    """Leave what was imported out of the search for garbage, and search for it seldom.

    All that the SDK makes for a resource lives until the end; looking it through again and again
    was a sixth of the time with 1000 workers. There is next to nothing to find.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS)


async def begin_registrations() -> None:
    """Let all registrations begin; for `pulumi.run`, at the end of the program.

    The SDK (seen in 3.272, `wait_for_rpcs`) waits for the registrations that have begun one by one,
    and then for all values at once, anew after each that is there. What a program has declared
    begins when the event loop gets its next turn; without one, everything would be waited for in
    the second way, which grows with the square of the number of workers.
    """
    await asyncio.sleep(0)
