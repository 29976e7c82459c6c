"""How the services are run: by which name, on which event loop."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

new_fast_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop as new_fast_loop
except ImportError:  # no wheel for this platform: asyncio's own loop does, more slowly
    new_fast_loop = asyncio.new_event_loop


def run(
    main: Coroutine[Any, Any, None], new_event_loop: Callable[[], asyncio.AbstractEventLoop] = new_fast_loop
) -> None:
    """Run `main` to its end, on uvloop where there is one, or on another loop."""
    # What was made by importing stays for good: no collection need look at it again. And with ten
    # thousand connections made in a second, the default thresholds have it look far too often.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


def program(module: str) -> str:
    """What this process was started as: a command that was installed, or `python -m <module>`."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("notification-") else f"python -m {module}"
