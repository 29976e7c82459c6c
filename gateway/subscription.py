"""One server's subscription: a link that carries the streams of the buckets which it holds.

The link never mends itself; here is the loop that makes another. Whatever it is lost for, each
subscription made again is a gap: Redis is asked where the streams stand, and holes are filled from
the log. No client is disconnected for it.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from gateway.audience import Audience
from gateway.history import parse_meta, read_meta
from gateway.hub import Hub
from shared.backoff import Backoff
from shared.errors import RedisError, RedisRefused, RedisUnavailable
from shared.life import parse_next
from shared.link import Link, RedisAddress
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.slices import slices
from shared.topology import is_primary

STREAMS_AT_ONCE: Final = 500
"""Streams subscribed in one round trip."""

PROBE_SECONDS: Final = 2.0
"""Between proofs that the link is alive; also the time a proof may take."""

COMPARED_A_SECOND: Final = 500
"""Streams that are compared with their meta, over all servers; that of everyone and those which are not
settled come on top."""

COMPARE_SECONDS: Final = 25.0
"""In which every stream is compared with its meta; longer when there are too many for that."""

BEAT_SECONDS: Final = 5.0
"""A relay whose beat was not heard for this long is taken to be away."""

UNREADABLE_SECONDS: Final = 30.0
"""The longest wait before a stream is looked at again whose meta could not be read."""

log = get_logger("gateway.subscription")


class LayoutMismatchError(RedisError):
    """Redis was laid out with another number of user buckets than this process is set to."""


class Owner(Protocol):
    """Who has subscriptions, as they know it."""

    def subscribed(self, buckets: frozenset[str]) -> None:
        """Everything of this one, which has these buckets, is subscribed."""

    def noticed(self, bucket: str, notice: bytes) -> None:
        """A replica tells those that have users of a bucket something; of the global one, all of them."""

    def answered(self, seconds: float) -> None:
        """The proof that its link is alive took so long."""

    def doubt(self) -> None:
        """Its server may not hold its buckets any more."""


class Subscription:
    """Keeps the hub's audiences of `buckets` subscribed at `server`. `run` does the work."""

    def __init__(
        self,
        settings: RedisSettings,
        hub: Hub,
        name: str,
        server: RedisAddress,
        buckets: frozenset[str],
        owner: Owner,
    ) -> None:
        self.server = server
        self.buckets = buckets
        self.layout_server = server
        """Where it is said how Redis is laid out."""
        self._settings = settings
        self._hub = hub
        self._keys = settings.keys
        self._name = name
        self._owner = owner
        self._wake = asyncio.Event()
        self._link: Link | None = None
        self._streams: OrderedDict[Audience, None] = OrderedDict()
        """Those subscribed on the link, the one compared longest ago first."""
        self._unreadable: list[Audience] = []
        """Those subscribed that Redis could not say of where they stand."""
        self._read_again = Backoff(1.0, UNREADABLE_SECONDS)
        self._read_again_at = 0.0
        # Any bucket's will do, the global one's if it is here: the first in the alphabet.
        self._beat_bucket = min(buckets)
        self._beat_channel = self._keys.beat(self._beat_bucket).encode()
        self._notices = {self._keys.notices(one).encode(): one for one in buckets}
        """Channels of what replicas tell each other, with their buckets."""
        self._beat = 0
        self._beat_when_probed = 0
        self._beat_at = float("-inf")
        self.is_up = False
        """Everything wanted is subscribed, and the link has been proven alive."""
        self.is_deaf = False
        """The relay's beat rises in Redis and was not heard here; until a link is proven to hear."""

    @property
    def hears_relay(self) -> bool:
        """The relay's beat arrives on this subscription."""
        return self.is_up and asyncio.get_running_loop().time() - self._beat_at < BEAT_SECONDS

    def wake(self) -> None:
        """The hub wants something, or wants it no more."""
        self._wake.set()

    def flood(self, flooded: bool) -> None:
        """Read the link no further while the replica has more due than it can send. Redis buffers
        then, cuts the link when that is too much, and the log fills what was missed."""
        if self._link is not None:
            self._link.pause_reading() if flooded else self._link.resume_reading()

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
                self._owner.doubt()
                delay_seconds = backoff.next_seconds()
                log.warning("not subscribed, trying again", error=str(error), in_seconds=delay_seconds)
                await asyncio.sleep(delay_seconds)

    async def _serve(self, backoff: Backoff) -> None:
        await self._hub.drained.wait()
        link = await Link.connect(
            self.server,
            name=f"{self._name}-live",
            timeout_seconds=self._settings.redis_timeout_seconds,
            on_push=self._pushed,
            on_lost=self._lost,
        )
        self._link = link
        try:
            await self._check_layout(link)
            await self._listen_to_beat(link)
            await self._listen_to_notices(link)
            self._hub.take_unwanted(self.buckets)
            self._hub.forget_wanted(self.buckets)
            self._streams.clear()
            self._unreadable.clear()
            await self._join(link, [one for one in self._hub.audiences if one.name.bucket in self.buckets])
            self.is_up = True
            self._owner.subscribed(self.buckets)
            backoff.reset()
            log.info("subscribed", redis=str(self.server), streams=len(self._streams))
            await self._follow(link)
        finally:
            self.is_up = False
            self._link = None
            link.close()

    async def _follow(self, link: Link) -> None:
        """Subscribe what is wanted and drop what is not, until the link is lost."""
        loop = asyncio.get_running_loop()
        probe_at = loop.time() + PROBE_SECONDS
        compare_at = loop.time() + 1
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(probe_at, compare_at)):
                    await self._wake.wait()
            self._wake.clear()
            if not self._hub.drained.is_set():
                # The link is not read: no answer would come. Fan-out drains the hub in any case.
                await self._hub.drained.wait()
                probe_at = loop.time() + PROBE_SECONDS
            if loop.time() >= probe_at:
                await self._probe(link)
                probe_at = loop.time() + PROBE_SECONDS
            if wanted := self._hub.take_wanted(STREAMS_AT_ONCE, self.buckets):
                await self._join(link, wanted)
                self._wake.set()  # there may be more; but what else is to be done has its turn between
            if unwanted := self._hub.take_unwanted(self.buckets):
                await self._drop(link, unwanted)
            if loop.time() >= compare_at:
                await self._compare(link)
                await self._look_again(link)
                compare_at = loop.time() + 1
            if link.is_lost:
                raise RedisUnavailable(f"the subscription's link is lost: {link.lost_because}")

    # Joining and dropping

    async def _join(self, link: Link, audiences: Sequence[Audience]) -> None:
        """Some at a time, those of all buckets in one round trip."""
        for batch in slices(audiences, STREAMS_AT_ONCE):
            buckets: defaultdict[str, list[Audience]] = defaultdict(list)
            for audience in batch:
                buckets[audience.name.bucket].append(audience)
            await asyncio.gather(*(self._join_batch(link, bucket, members) for bucket, members in buckets.items()))

    async def _join_batch(self, link: Link, bucket: str, batch: Sequence[Audience]) -> None:
        """Subscribe, and then, in the same round trip, read where the streams stand."""
        reads = (("HGETALL", self._keys.life(bucket)), *(read_meta(self._keys, audience.name) for audience in batch))
        timeout_seconds = self._settings.redis_timeout_seconds
        try:
            _, (life, *metas) = await asyncio.gather(
                link.subscribe([audience.channel for audience in batch], timeout_seconds=timeout_seconds),
                link.snapshot(reads, timeout_seconds=timeout_seconds),
            )
        except RedisRefused as error:
            if not _is_moving(error):
                raise
            self._cannot_read(self._keys.life(bucket), error, batch)
            return
        try:
            next_offsets = parse_next(_readable(life))
        except (RedisRefused, ValueError) as error:
            self._cannot_read(self._keys.life(bucket), error, batch)
            return
        for audience, meta in zip(batch, metas, strict=True):
            try:
                self._hub.joined(audience, parse_meta(_readable(meta)), next_offsets)
            except (RedisRefused, ValueError) as error:
                self._cannot_read(self._keys.meta(audience.name), error, (audience,))
            else:
                self._streams[audience] = None

    def _cannot_read(self, key: str, error: Exception, audiences: Iterable[Audience]) -> None:
        if not self._unreadable:
            self._read_again.reset()
            self._read_again_at = asyncio.get_running_loop().time() + self._read_again.next_seconds()
        self._unreadable += audiences
        log.error("where a stream stands cannot be read; its clients wait", key=key, error=str(error))

    async def _look_again(self, link: Link) -> None:
        """Join those that could not be read, some at a time, at longer and longer intervals."""
        loop = asyncio.get_running_loop()
        if not self._unreadable or loop.time() < self._read_again_at:
            return
        self._read_again_at = loop.time() + self._read_again.next_seconds()
        batch, rest = self._unreadable[:STREAMS_AT_ONCE], self._unreadable[STREAMS_AT_ONCE:]
        # None is left out of the list meanwhile: an empty one would begin the waiting anew.
        self._unreadable = [*rest, *batch]
        await self._join(link, batch)
        del self._unreadable[len(rest) : len(rest) + len(batch)]

    async def _drop(self, link: Link, audiences: Sequence[Audience]) -> None:
        buckets: defaultdict[str, list[str]] = defaultdict(list)
        dropped = set(audiences)
        self._unreadable = [audience for audience in self._unreadable if audience not in dropped]
        for audience in audiences:
            self._streams.pop(audience, None)
            buckets[audience.name.bucket].append(audience.channel)
        for channels in buckets.values():
            for batch in slices(channels, STREAMS_AT_ONCE):
                await link.unsubscribe(batch, timeout_seconds=self._settings.redis_timeout_seconds)

    # Proofs

    async def _check_layout(self, link: Link) -> None:
        timeout_seconds = self._settings.redis_timeout_seconds
        if self.layout_server == self.server:
            layout = await link.call("GET", self._keys.layout, timeout_seconds=timeout_seconds)
        else:
            other = await Link.connect(self.layout_server, name=f"{self._name}-layout", timeout_seconds=timeout_seconds)
            try:
                layout = await other.call("GET", self._keys.layout, timeout_seconds=timeout_seconds)
            finally:
                other.close()
        if layout is not None and layout != str(self._keys.user_buckets).encode():
            raise LayoutMismatchError(
                f"REDIS_USER_BUCKETS={self._keys.user_buckets}, but this Redis was laid out with "
                f"{layout.decode(errors='replace')}"
            )

    async def _listen_to_beat(self, link: Link) -> None:
        await link.subscribe([self._beat_channel.decode()], timeout_seconds=self._settings.redis_timeout_seconds)
        self._beat = self._beat_when_probed = await self._read_beat(link)

    async def _listen_to_notices(self, link: Link) -> None:
        for channels in slices([channel.decode() for channel in self._notices], STREAMS_AT_ONCE):
            # Each is in a slot of its own.
            timeout_seconds = self._settings.redis_timeout_seconds
            await asyncio.gather(*(link.subscribe([one], timeout_seconds=timeout_seconds) for one in channels))

    async def _probe(self, link: Link) -> None:
        """Prove that the link answers, that its server is the primary still, and that its
        subscriptions are served.

        A beat is counted and published at once, so on this one link its message comes before any
        reply that counts it. One that is counted but was not heard means that we are deaf.
        """
        heard, asked_at = self._beat, time.monotonic()
        try:
            beat = await self._read_beat(link)
        except RedisRefused as error:
            if not _is_moving(error):
                raise
            return  # the relay cannot beat either, until the bucket has arrived: then the link is lost
        self._owner.answered(time.monotonic() - asked_at)
        if beat > self._beat:
            self.is_deaf = True
            raise RedisUnavailable(f"deaf: the relay's beat is {beat}, the last one heard {self._beat}")
        self.is_deaf = False
        if beat < heard:
            self._beat = beat  # Redis has lost it
        if beat == self._beat_when_probed:
            # Perhaps the relay is away; perhaps it beats elsewhere, and this server was replaced
            # without knowing.
            self._owner.doubt()
        self._beat_when_probed = beat

    async def _read_beat(self, link: Link) -> int:
        key = self._keys.life(self._beat_bucket)
        beat, role = await link.pipeline((("HGET", key, "beat"), ("ROLE",)), timeout_seconds=PROBE_SECONDS)
        if not is_primary(role):
            raise RedisUnavailable(f"{self.server} is a replica: only a primary has the last word")
        try:
            return int(beat or 0)
        except ValueError:
            raise RedisRefused(f"the field beat of {key} is not a number: {beat[:80]!r}") from None

    async def _compare(self, link: Link) -> None:
        """Ask where some streams stand, so that a lost message is found in silence, too. On this
        link the answer comes after every message that was published before it."""
        # This server's share of what the replica compares.
        most = max(1, COMPARED_A_SECOND * len(self._streams) // max(1, self._hub.stream_count))
        count = min(most, math.ceil(len(self._streams) / COMPARE_SECONDS))
        batch = dict.fromkeys(itertools.islice(self._streams, count))
        if self._hub.everyone in self._streams:
            batch[self._hub.everyone] = None  # nobody's place can be told when this one's is old
        # Those first that somebody waits for with a cursor.
        unsettled = [audience for audience in self._hub.unsettled if audience in self._streams]
        unsettled = sorted(unsettled, key=lambda audience: not audience.newcomers)[:most]
        batch.update(dict.fromkeys(unsettled))
        # How far their buckets are, too; first, so that it is not further than the metas.
        buckets = sorted({audience.name.bucket for audience in unsettled})
        empty = {audience for audience in batch if not audience.stream.seq}
        replies = await link.each(
            [
                *(("HGETALL", self._keys.life(bucket)) for bucket in buckets),
                *(read_meta(self._keys, audience.name) for audience in batch),
            ],
            timeout_seconds=self._settings.redis_timeout_seconds,
        )
        if link.is_displaced:
            raise RedisUnavailable(f"{self.server} does not hold its buckets any more")
        unreadable: dict[str, str] = {}
        next_offsets: dict[str, dict[bytes, int]] = {}
        for bucket, life in zip(buckets, replies, strict=False):
            try:
                next_offsets[bucket] = parse_next(_readable(life))
            except (RedisRefused, ValueError) as error:
                unreadable[self._keys.life(bucket)] = str(error)
        for audience, meta in zip(batch, replies[len(buckets) :], strict=True):
            self._streams.move_to_end(audience)
            try:
                found = parse_meta(_readable(meta))
            except (RedisRefused, ValueError) as error:
                unreadable[self._keys.meta(audience.name)] = str(error)
                continue
            if not found.seq and audience.stream.seq and audience in empty:
                continue  # its first message came meanwhile
            self._hub.compared(audience, found, next_offsets.get(audience.name.bucket))
        if unreadable:
            key, error_text = next(iter(unreadable.items()))
            log.error("streams cannot be compared with Redis", count=len(unreadable), key=key, error=error_text)

    # What the link says

    def _lost(self, _reason: str) -> None:
        self.is_up = False
        self._wake.set()

    def _pushed(self, push: Sequence[Any]) -> None:
        kind, channel, payload = push
        if kind == b"smessage":
            if channel == self._beat_channel:
                self._heard_beat(payload)
            elif channel in self._notices:
                self._owner.noticed(self._notices[channel], payload)
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
        self.is_deaf = False


def _is_moving(refused: RedisRefused) -> bool:
    """Whether this was refused since its slot is on the way to another node, key by key."""
    return str(refused).startswith(("ASK ", "TRYAGAIN "))


def _readable(reply: Any) -> Any:
    if isinstance(reply, RedisRefused):
        raise reply
    return reply
