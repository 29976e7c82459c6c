"""How late an event loop comes to what is due: what every client of a process waits for."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 0.1
"""Between looks: what blocks the loop for longer is always seen, and is seen shorter by this at most."""


async def watch_loop_lag(observe: Callable[[float], None]) -> None:
    """Until cancelled, tell by how many seconds a timer came too late, ten times a second, of the running loop."""
    while True:
        due_at = time.monotonic() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        observe(max(0.0, time.monotonic() - due_at))
