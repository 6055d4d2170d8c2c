"""What keeps a program of thousands of resources as quick as the engine; imported first."""

from __future__ import annotations

import asyncio
import gc

# Garbage is looked for every so many objects, and not every 700. Next to none is made: modules,
# and all that the SDK makes for a resource, live until the end. Looking them through again and
# again was a fifth of the imports' time, and with 1000 workers a sixth of the whole.
gc.set_threshold(50_000)


async def begin_registrations() -> None:
    """Let all registrations begin; for `pulumi.run`, at the end of the program.

    The SDK (seen in 3.272, `wait_for_rpcs`) waits for the registrations that have begun one by one,
    and then for all values at once, anew after each that is there. What a program has declared
    begins when the event loop gets its next turn; without one, everything would be waited for in
    the second way, which grows with the square of the number of workers.
    """
    await asyncio.sleep(0)
