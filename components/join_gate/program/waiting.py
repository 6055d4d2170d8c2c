"""Waiting on the event loop, with an end."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, future: asyncio.Future[T]) -> T:
    """The future's result; asyncio.TimeoutError, by then the future's own, after `seconds`.

    asyncio.wait_for makes a task for each wait before Python 3.12, which costs as much as the
    whole of what a join waits for.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, future)
    try:
        return await future
    finally:
        timer.cancel()


def _give_up(future: asyncio.Future[T]) -> None:
    if not future.done():
        future.set_exception(asyncio.TimeoutError())
