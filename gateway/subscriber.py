"""The subscription: one link to Redis that carries every stream with clients on this replica.

The link never mends itself; here is the loop that makes another. Whatever it is lost for, each
subscription made again is a gap: Redis is asked where the streams stand, and holes are filled from
the log. No client is disconnected for it.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.history import parse_meta, parse_next, read_meta
from gateway.hub import Audience, Hub
from shared.backoff import Backoff
from shared.errors import RedisError, RedisUnavailable
from shared.keys import GLOBAL_BUCKET
from shared.link import Link
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.slices import slices

STREAMS_AT_ONCE: Final = 500
"""Streams subscribed in one round trip."""

PROBE_SECONDS: Final = 2.0
"""Between proofs that the link is alive; also the time a proof may take."""

BEAT_SECONDS: Final = 5.0
"""A relay whose beat was not heard for this long is taken to be away."""

log = get_logger("gateway.subscriber")


class LayoutMismatchError(RedisError):
    """Redis was laid out with another number of user buckets than this process is set to."""


class Subscriber:
    """Keeps the hub's audiences subscribed. `run` does the work, until cancelled."""

    def __init__(self, settings: RedisSettings, hub: Hub, name: str) -> None:
        self._settings = settings
        self._hub = hub
        self._keys = settings.keys
        self._name = name
        self._wake = asyncio.Event()
        self._link: Link | None = None
        self._beat_channel = self._keys.beat(GLOBAL_BUCKET).encode()
        self._beat = 0
        self._beat_at = float("-inf")
        self.is_up = False
        """Everything wanted is subscribed, and the link has been proven alive."""
        self.was_up = False
        """It was up once: this replica may take clients."""
        hub.on_wanted = self._wake.set
        hub.on_flood = self._flooded

    @property
    def hears_relay(self) -> bool:
        """The relay's beat arrives on this replica's own subscription."""
        return self.is_up and asyncio.get_running_loop().time() - self._beat_at < BEAT_SECONDS

    async def run(self) -> None:
        """Subscribe, follow what the hub wants, and begin again when the link is lost.

        Raises LayoutMismatchError, which no waiting mends.
        """
        backoff = Backoff()
        while True:
            try:
                await self._serve(backoff)
            except LayoutMismatchError:
                raise
            except RedisError as error:
                delay_seconds = backoff.next_seconds()
                log.warning("not subscribed, trying again", error=str(error), in_seconds=delay_seconds)
                await asyncio.sleep(delay_seconds)

    async def _serve(self, backoff: Backoff) -> None:
        await self._hub.drained.wait()
        link = await Link.connect(
            self._settings.address,
            name=f"{self._name}-live",
            timeout_seconds=self._settings.redis_timeout_seconds,
            on_push=self._pushed,
            on_lost=self._lost,
        )
        self._link = link
        try:
            await self._check_layout(link)
            await self._listen_to_beat(link)
            self._hub.take_unwanted()
            self._hub.forget_wanted()
            await self._join(link, self._hub.audiences)
            self.is_up = self.was_up = True
            backoff.reset()
            log.info("subscribed", redis=str(self._settings.address), streams=self._hub.stream_count)
            await self._follow(link)
        finally:
            self.is_up = False
            self._link = None
            link.close()

    async def _follow(self, link: Link) -> None:
        """Subscribe what is wanted and drop what is not, until the link is lost."""
        loop = asyncio.get_running_loop()
        probe_at = loop.time() + PROBE_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(probe_at):
                    await self._wake.wait()
            self._wake.clear()
            if not self._hub.drained.is_set():
                # The link is not read: no answer would come. Fan-out drains the hub in any case.
                await self._hub.drained.wait()
                probe_at = loop.time() + PROBE_SECONDS
            if loop.time() >= probe_at:
                await self._probe(link)
                probe_at = loop.time() + PROBE_SECONDS
            while wanted := self._hub.take_wanted(STREAMS_AT_ONCE):
                await self._join(link, wanted)
            if unwanted := self._hub.take_unwanted():
                await self._drop(link, unwanted)
            if link.is_lost:
                raise RedisUnavailable(f"the subscription's link is lost: {link.lost_because}")

    async def _join(self, link: Link, audiences: Iterable[Audience]) -> None:
        buckets: defaultdict[str, list[Audience]] = defaultdict(list)
        for audience in audiences:
            buckets[audience.name.bucket].append(audience)
        for bucket, members in buckets.items():
            for batch in slices(members, STREAMS_AT_ONCE):
                await self._join_batch(link, bucket, batch)

    async def _join_batch(self, link: Link, bucket: str, batch: Sequence[Audience]) -> None:
        """Subscribe, and then, in the same round trip, read where the streams stand."""
        reads = (("HGETALL", self._keys.life(bucket)), *(read_meta(self._keys, audience) for audience in batch))
        timeout_seconds = self._settings.redis_timeout_seconds
        _, (life, *metas) = await asyncio.gather(
            link.subscribe([audience.channel for audience in batch], timeout_seconds=timeout_seconds),
            link.transaction(reads, timeout_seconds=timeout_seconds),
        )
        next_offsets = parse_next(life)
        for audience, meta in zip(batch, metas, strict=True):
            self._hub.joined(audience, parse_meta(meta), next_offsets)

    async def _drop(self, link: Link, audiences: Sequence[Audience]) -> None:
        buckets: defaultdict[str, list[str]] = defaultdict(list)
        for audience in audiences:
            buckets[audience.name.bucket].append(audience.channel)
        for channels in buckets.values():
            for batch in slices(channels, STREAMS_AT_ONCE):
                await link.unsubscribe(batch, timeout_seconds=self._settings.redis_timeout_seconds)

    async def _check_layout(self, link: Link) -> None:
        layout = await link.call("GET", self._keys.layout, timeout_seconds=self._settings.redis_timeout_seconds)
        if layout is not None and int(layout) != self._keys.user_buckets:
            raise LayoutMismatchError(
                f"REDIS_USER_BUCKETS={self._keys.user_buckets}, but this Redis was laid out with {int(layout)}"
            )

    async def _listen_to_beat(self, link: Link) -> None:
        await link.subscribe([self._beat_channel.decode()], timeout_seconds=self._settings.redis_timeout_seconds)
        self._beat = await self._read_beat(link)

    async def _probe(self, link: Link) -> None:
        """Prove that the link answers and that its subscriptions are served.

        A beat is counted and published at once, so on this one link its message comes before any
        reply that counts it. One that is counted but was not heard means that we are deaf.
        """
        heard = self._beat
        beat = await self._read_beat(link)
        if beat > self._beat:
            raise RedisUnavailable(f"deaf: the relay's beat is {beat}, the last one heard {self._beat}")
        if beat < heard:
            self._beat = beat  # Redis has lost it

    async def _read_beat(self, link: Link) -> int:
        reply = await link.call("HGET", self._keys.life(GLOBAL_BUCKET), "beat", timeout_seconds=PROBE_SECONDS)
        return int(reply or 0)

    def _lost(self, _reason: str) -> None:
        self.is_up = False
        self._wake.set()

    def _pushed(self, push: Sequence[Any]) -> None:
        kind, channel, payload = push
        if kind == b"smessage":
            if channel == self._beat_channel:
                self._heard_beat(payload)
            else:
                self._hub.receive(channel, payload)
        elif kind == b"sunsubscribe" and self._link is not None:
            # Nobody asked for it: the slot has moved away, and nothing would come any more.
            self._link.close()

    def _heard_beat(self, payload: bytes) -> None:
        if not payload.isdigit():
            log.error("not a beat of ours, ignored", channel=self._beat_channel.decode())
            return
        self._beat = int(payload)
        self._beat_at = asyncio.get_running_loop().time()

    def _flooded(self, flooded: bool) -> None:
        """Read the link no further while the replica has more due than it can send. Redis buffers
        then, cuts the link when that is too much, and the log fills what was missed."""
        if self._link is not None:
            self._link.pause_reading() if flooded else self._link.resume_reading()
