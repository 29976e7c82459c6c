"""The console's feed: the deployment once a second, to whoever looks. Redis is asked only while somebody does."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from gateway.operators.fleet import RedisLook, fleet
from shared.errors import RedisError
from shared.statuses import Statuses, Told

LOOK_SECONDS: Final = 1.0

MOST_LOOKERS: Final = 16

STREAM_SECONDS: Final = 25.0
"""How long one answer lasts; its reader asks again. The port gives no answer more than 30 s (BoundedHttp)."""

RETRY_MS: Final = 200


class Feed:
    """`run` looks, until cancelled; `frames` is for each who wants to see."""

    def __init__(self, statuses: Statuses, redis_address: str) -> None:
        self._statuses = statuses
        self._address = redis_address
        self._told: Sequence[Told] = ()
        self._told_at = 0.0
        self._lookers = 0
        self._wanted = asyncio.Event()
        self._next: asyncio.Future[bytes] | None = None

    @property
    def is_full(self) -> bool:
        """As many look as may."""
        return self._lookers >= MOST_LOOKERS

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            frame = b"event: fleet\ndata: %s\n\n" % await self._look()
            waiting, self._next = self._next, None
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)
            await asyncio.sleep(LOOK_SECONDS)

    async def frames(self) -> AsyncIterator[bytes]:
        """An event stream (HTML section 9.2); who reads slowly misses some of it."""
        self._lookers += 1
        self._wanted.set()
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            until = time.monotonic() + STREAM_SECONDS
            while time.monotonic() < until:
                if self._next is None:
                    self._next = asyncio.get_running_loop().create_future()
                yield await asyncio.shield(self._next)
        finally:
            self._lookers -= 1
            if not self._lookers:
                self._wanted.clear()

    async def _look(self) -> bytes:
        began = time.monotonic()
        try:
            self._told = await self._statuses.read()
        except RedisError as error:
            since_ms = round(1_000 * (time.monotonic() - self._told_at))
            told = [one._replace(seen_ms_ago=one.seen_ms_ago + since_ms) for one in self._told]
            return fleet(told, RedisLook(self._address, error=str(error)))
        self._told_at = time.monotonic()
        return fleet(self._told, RedisLook(self._address, ms=round(1_000 * (self._told_at - began), 2)))
