"""How a program ends, so that its growth with the number of resources is linear."""

from __future__ import annotations

import asyncio


async def begin() -> None:
    """Let all registrations begin; for `pulumi.run`, at the end of the program.

    The SDK (seen in 3.272, `wait_for_rpcs`) waits for the registrations that have begun one by one,
    and then for all values at once, anew after each that is there. What a program has declared
    begins when the event loop gets its next turn; without one, everything would be waited for in
    the second way, which grows with the square of the number of workers.
    """
    await asyncio.sleep(0)
