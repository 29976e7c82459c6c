"""One attempt at something for all who want it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from shared.errors import RedisError

Outcome = TypeVar("Outcome")


class Together(Generic[Outcome]):
    """Whoever waits while another attempt is made gets its outcome, also when it failed: a server
    that hangs holds up a crowd for one timeout, not for one after the other."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._attempts = 0
        self._failure: RedisError | None = None

    async def get(self, known: Callable[[], Outcome | None], attempt: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What `known()` gives, else what `attempt()` does. Raises what the attempt raised."""
        seen = self._attempts
        async with self._turn:
            if (outcome := known()) is not None:
                return outcome
            if self._attempts != seen and self._failure is not None:
                raise type(self._failure)(str(self._failure))
            self._failure = None
            try:
                return await attempt()
            except RedisError as error:
                self._failure = error
                raise
            finally:
                self._attempts += 1
