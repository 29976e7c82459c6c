"""Waiting for a condition, with a deadline, instead of sleeping for luck."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Final

PATIENCE: Final = 3
"""Deadlines are for a machine that has nothing else to do; others are given this many times as long."""


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str | Callable[[], str],
    *,
    seconds: float = 30.0,
    poll_seconds: float = 0.02,
) -> None:
    """Return once `condition()` is true. An AssertionError with `what` when PATIENCE times `seconds` have passed."""
    seconds *= PATIENCE
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        result = condition()
        if await result if inspect.isawaitable(result) else result:
            return
        if loop.time() > deadline:
            raise AssertionError(f"waited {seconds:g} s for: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(poll_seconds)
