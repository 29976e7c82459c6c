"""Shows what child processes print, while they print it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from demo.process import Processes

_LOOK_SECONDS = 0.2


@contextlib.asynccontextmanager
async def shown_logs(processes: Processes, is_wanted: bool) -> AsyncIterator[None]:
    """While the block runs, print the processes' new log lines, each with its process' name."""
    if not is_wanted:
        yield
        return
    positions: dict[str, int] = {}

    def show() -> None:
        for process in processes.all:
            if not process.log_path.exists():
                continue
            with process.log_path.open("rb") as log:
                log.seek(positions.get(process.name, 0))
                whole = log.read()
            whole = whole[: whole.rfind(b"\n") + 1]  # the rest of a line comes with the next look
            positions[process.name] = positions.get(process.name, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                print(f"{process.name:>9} | {line}", flush=True)

    async def follow() -> None:
        while True:
            show()
            await asyncio.sleep(_LOOK_SECONDS)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        show()
