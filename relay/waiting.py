"""Waiting for a server that is away: bounded waits, and a line in the log now and then."""

import asyncio
import time
from typing import Any, Final

from shared.backoff import Backoff

SAY_AGAIN_SECONDS: Final = 10.0


class Waiting:
    """One run of failed attempts at one thing. The first failure is logged, later ones every 10 s."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        self._since: float | None = None
        self._said_at = 0.0

    async def wait(self, event: str, **why: Any) -> None:
        """Wait before the next attempt: at most 0.1 s the first time, 2 s later on."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self._since == now or now - self._said_at >= SAY_AGAIN_SECONDS:
            self._said_at = now
            self._log.warning(event, waiting_seconds=round(now - self._since, 1), **why)
        await asyncio.sleep(self._backoff.next_seconds())

    def over(self, event: str) -> None:
        """It worked. Says so if there was a failure before."""
        if self._since is not None:
            self._log.info(event, after_seconds=round(time.monotonic() - self._since, 1))
            self._since = None
            self._backoff.reset()
