"""How late an event loop comes to what is due."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest
from harness.waiting import eventually

from shared.loop_lag import LOOK_SECONDS, watch_loop_lag
from shared.runner import new_fast_loop

BLOCKED_SECONDS = 5 * LOOK_SECONDS


def block() -> None:
    until = time.monotonic() + BLOCKED_SECONDS
    while time.monotonic() < until:
        pass


async def _watched() -> list[float]:
    """What is told of a loop that is blocked once, in the middle."""
    lags: list[float] = []
    task = asyncio.create_task(watch_loop_lag(lags.append))
    await eventually(lambda: len(lags) >= 2, "two looks")
    block()
    told = len(lags)
    await eventually(lambda: len(lags) >= told + 2, "two more")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return lags


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_fast_loop])
def test_a_loop_that_is_blocked_is_seen(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        lags = runner.run(_watched())
    assert min(lags) >= 0
    assert max(lags) > BLOCKED_SECONDS - 1.5 * LOOK_SECONDS
