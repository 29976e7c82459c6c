"""What this replica hears: a subscription for each server that holds buckets, and which those are.

Which server holds a bucket may change at any time. Whenever something speaks for that, it is asked,
and subscriptions to servers that hold others than before end; new ones begin, and fill the gap.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.hub import Hub
from gateway.subscription import LayoutMismatchError, Subscription
from shared.backoff import Backoff
from shared.errors import RedisError
from shared.logging import get_logger
from shared.servers import Servers
from shared.settings import RedisSettings
from shared.topology import Placement

__all__ = ["LayoutMismatchError", "Subscriber"]

LOOK_SECONDS: Final = 1.0
"""Between looks at whether somebody else in this process doubts where the buckets are."""

log = get_logger("gateway.subscriber")


class Subscriber:
    """Keeps the hub's audiences subscribed. `run` does the work, until cancelled."""

    def __init__(self, settings: RedisSettings, hub: Hub, name: str, servers: Servers | None = None) -> None:
        self._settings = settings
        self._hub = hub
        self._keys = settings.keys
        self._name = name
        self._servers = servers or Servers(settings)
        self._doubted = asyncio.Event()
        self._running: dict[Subscription, asyncio.Task[None]] = {}
        self.was_up = False
        """It was up once: this replica may take clients."""
        self.on_notice: Callable[[str, bytes], None] = lambda _bucket, _notice: None
        """A replica has a notice for those that have users of a bucket; of the global one, for all."""
        self.on_subscribed: Callable[[Iterable[str]], None] = lambda _buckets: None
        """These buckets are subscribed; notices may have been missed before."""
        self.on_answered: Callable[[float], None] = lambda _seconds: None
        """A server answered the proof that a subscription is alive, in so many seconds."""
        hub.on_wanted = self._wanted
        hub.on_flood = self._flooded

    @property
    def is_up(self) -> bool:
        """Everything wanted is subscribed, and every link has been proven alive."""
        return bool(self._running) and all(subscription.is_up for subscription in self._running)

    @property
    def hears_relay(self) -> bool:
        """The relay's beat arrives on this replica's own subscriptions."""
        return bool(self._running) and all(subscription.hears_relay for subscription in self._running)

    @property
    def is_deaf(self) -> bool:
        """The relay's beat rises in Redis and is not heard here; until a link is proven to hear."""
        return any(subscription.is_deaf for subscription in self._running)

    async def run(self) -> None:
        """Have a subscription at each server that holds buckets, and follow when that changes.

        Raises LayoutMismatchError, which no waiting mends.
        """
        backoff = Backoff()
        try:
            while True:
                self._doubted.clear()
                try:
                    await self._follow(await self._servers.placement())
                except RedisError as error:
                    delay_seconds = backoff.next_seconds()
                    log.warning("cannot tell where the buckets are", error=str(error), in_seconds=delay_seconds)
                    await asyncio.sleep(delay_seconds)
                else:
                    backoff.reset()
                    await self._doubt()
                for task in self._running.values():
                    if task.done():
                        task.result()  # raises what ended it
        finally:
            await self._end(list(self._running))

    async def _doubt(self) -> None:
        """Until somebody doubts, a subscription has failed, or it is time for another look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._doubted.wait()

    async def _follow(self, placement: Placement) -> None:
        """End the subscriptions that hold other buckets than they should, and begin those that are missing."""
        homes = placement.homes(self._keys)
        layout_server = placement.server_of(self._keys.layout)
        is_deaf = self.is_deaf
        await self._end([one for one in self._running if homes.get(one.server) != one.buckets])
        served = {subscription.server for subscription in self._running}
        for server, buckets in homes.items():
            if server not in served:
                subscription = Subscription(self._settings, self._hub, self._name, server, buckets, self)
                subscription.is_deaf = is_deaf
                task = asyncio.create_task(subscription.run())
                task.add_done_callback(lambda _: self._doubted.set())
                self._running[subscription] = task
        for subscription in self._running:
            subscription.layout_server = layout_server

    async def _end(self, subscriptions: Sequence[Subscription]) -> None:
        tasks = [self._running.pop(subscription) for subscription in subscriptions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What subscriptions tell

    def subscribed(self, buckets: frozenset[str]) -> None:
        """One of them is up."""
        self.was_up = self.was_up or self.is_up
        self.on_subscribed(buckets)

    def noticed(self, bucket: str, notice: bytes) -> None:
        """One of them heard a notice."""
        self.on_notice(bucket, notice)

    def answered(self, seconds: float) -> None:
        """The proof that one of them is alive took so long."""
        self.on_answered(seconds)

    def doubt(self) -> None:
        """One of them may not hold its buckets any more."""
        self._servers.doubt()
        self._doubted.set()

    # What the hub tells

    def _wanted(self) -> None:
        for subscription in self._running:
            subscription.wake()

    def _flooded(self, flooded: bool) -> None:
        for subscription in self._running:
            subscription.flood(flooded)
