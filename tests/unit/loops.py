"""For tests that are to hold on the loop of the relay, and on that of the gateway."""

import asyncio
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shared.runner import new_fast_loop

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": new_fast_loop,
}


def run_on(new_event_loop: Callable[[], asyncio.AbstractEventLoop], test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end on a loop of its own."""
    with warnings.catch_warnings():
        # Of a test that fails: made errors, they would keep uvloop's from closing.
        warnings.simplefilter("ignore", ResourceWarning)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(test)
