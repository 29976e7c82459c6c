"""Batches to Redis: atomic calls, repeated until they succeed, in the epoch they were read in.

The link never mends itself: whatever fails, the bucket's epochs are entered again before the next
attempt. When one of them changed, what was read before is worthless (EpochChanged), and reading
starts again where positions.py says.
"""

import asyncio
import secrets
import string
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, TypeVar

from relay.batch import Argument, Batch, BucketMessages
from relay.positions import Start, Witness, parse_witness, witness_text
from relay.routes import ROUTES, Partition, parse_partition_name, partition_name
from relay.settings import HistorySettings
from relay.waiting import Waiting
from shared.errors import EpochChanged, RedisError, RedisRefused, RelayStopped
from shared.keys import GLOBAL_BUCKET
from shared.life import parse_next
from shared.link import Command, Link, RedisAddress
from shared.links import Links
from shared.logging import get_logger
from shared.metrics import RelayMetrics
from shared.settings import RedisSettings

Result = TypeVar("Result")
Life = Mapping[str, int]

EPOCH_CHARACTERS: Final = string.digits + string.ascii_lowercase
EPOCH_LENGTH: Final = 10


class Script:
    """A Lua script beside this file."""

    def __init__(self, name: str) -> None:
        self.source = files("relay").joinpath(name).read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


class Publisher:
    """The only writer of logs, meta and life. One for each relay.

    Its calls may be made from several tasks; they take turns. Each waits for Redis as long as it
    takes, saying so in the log, and may be cancelled: what was under way is then written or not.

    `term` rises each time an epoch of any bucket changes; what was read in an earlier one must not
    be published any more.
    """

    def __init__(self, redis: RedisSettings, history: HistorySettings, metrics: RelayMetrics) -> None:
        self.term = 0
        self._deployment = redis.deployment
        self._links = Links(redis, "notify-relay")
        self._timeout_seconds = redis.redis_timeout_seconds
        self._keys = redis.keys
        self._history = history
        self._metrics = metrics
        self._log = get_logger(__name__)
        self._publish_script = Script("publish.lua")
        self._begin_script = Script("begin.lua")
        self._start_script = Script("start.lua")
        # The links that the buckets were entered on: each call is made on the same ones.
        self._link_of: dict[str, Link] = {}
        self._is_entered = False
        self._epochs: dict[str, str] = {}
        # What every bucket has been given in these epochs, by partition's name.
        self._published: dict[str, int] = {}
        self._turn = asyncio.Lock()

    @property
    def is_up(self) -> bool:
        """Redis answered last time, and its epochs are ours."""
        return self._is_entered and not any(link.is_lost for link in self._link_of.values())

    async def enter(self) -> None:
        """Wait until Redis is there and every bucket's epoch is known.

        Raises RelayStopped when this Redis cannot be used: its layout or its memory policy.
        """
        await self._until_done(self._nothing)

    async def publish(self, batch: Batch) -> list[int]:
        """Publish a batch, each event once, in order. Gives how many of each of its partitions'
        events were new; the others were in Redis already.

        Raises EpochChanged when it was read in an earlier term; a part of it may be published.
        """

        async def once() -> list[int]:
            self._check_term(batch.term)
            counts = [0] * len(batch.next_offsets)
            for published in await self._call_publish(batch.buckets, batch.next_offsets, beat=False):
                counts = [count + new for count, new in zip(counts, published, strict=True)]
            self._published.update(batch.next_offsets)
            return counts

        started = time.monotonic()
        counts = await self._until_done(once)
        self._metrics.publish_seconds.observe(time.monotonic() - started)
        return counts

    async def beat(self) -> None:
        """Let every gateway know that this relay lives, and raise `next` in every bucket."""

        async def once() -> None:
            await self._call_publish(dict.fromkeys(self._keys.buckets, BucketMessages()), self._published, beat=True)

        await self._until_done(once)

    async def read_lives(self) -> tuple[int, dict[str, Life]]:
        """The term, and each bucket's `next` offsets by partition's name in it."""

        async def once() -> tuple[int, dict[str, Life]]:
            replies = await self._call(
                [(bucket, ("HGETALL", self._keys.life(bucket))) for bucket in self._keys.buckets]
            )
            lives = dict(zip(self._keys.buckets, replies, strict=True))
            for bucket, life in lives.items():
                if life.get(b"epoch") != self._epochs[bucket].encode():
                    raise RedisRefused(f"another epoch than ours in {bucket}")
            return self.term, {
                bucket: {name.decode(): offset for name, offset in parse_next(life).items()}
                for bucket, life in lives.items()
            }

        return await self._until_done(once)

    async def record_first_start(self, ends: Mapping[Partition, int]) -> dict[Partition, int]:
        """The ends of all partitions at the very first start: `ends` if this is it, and they are given."""

        async def once() -> dict[Partition, int]:
            arguments = [word for partition, end in ends.items() for word in (partition_name(partition), end)]
            link = await self._links.of_key(self._keys.start)
            await link.call("SCRIPT", "LOAD", self._start_script.source, timeout_seconds=self._timeout_seconds)
            command = self._start_script.call([self._keys.start], arguments)
            flat = await link.call(*command, timeout_seconds=self._timeout_seconds)
            pairs = zip(flat[::2], flat[1::2], strict=True)
            return {parse_partition_name(name.decode())[0]: int(end) for name, end in pairs}

        return await self._until_done(once)

    async def store_starts(self, term: int, starts: Mapping[Partition, Start]) -> None:
        """Write where reading starts into the `next` of the buckets that have none.

        Raises EpochChanged when `term` is over.
        """
        by_bucket: dict[str, dict[str, int]] = {}
        for partition, start in starts.items():
            for bucket in start.lost:
                by_bucket.setdefault(bucket, {})[partition_name(partition, start.generation)] = start.offset

        async def once() -> None:
            self._check_term(term)
            for bucket, next_offsets in by_bucket.items():
                await self._call_publish({bucket: BucketMessages()}, next_offsets, beat=False)

        await self._until_done(once)

    async def read_witnesses(self) -> dict[str, Witness]:
        """By which record each partition's topic is known, by partition's name."""

        async def once() -> dict[str, Witness]:
            (found,) = await self._call([(GLOBAL_BUCKET, ("HGETALL", self._keys.witnesses))])
            return {name.decode(): parse_witness(text.decode()) for name, text in found.items()}

        return await self._until_done(once)

    async def store_witnesses(self, witnesses: Mapping[str, Witness]) -> None:
        """Remember records that were read. An older one would do as well: none is ever wrong."""
        words: list[Argument] = [word for name, found in witnesses.items() for word in (name, witness_text(found))]

        async def once() -> None:
            await self._call([(GLOBAL_BUCKET, ("HSET", self._keys.witnesses, *words))])

        if words:
            await self._until_done(once)

    def close(self) -> None:
        """Close the links. May be called twice."""
        self._links.close()

    def _check_term(self, term: int) -> None:
        if term != self.term:
            raise EpochChanged

    async def _until_done(self, once: Callable[[], Awaitable[Result]]) -> Result:
        """Do `once` where the epochs are known; on any trouble with Redis wait and do both again."""
        async with self._turn:
            waiting = Waiting(self._log)
            while True:
                try:
                    if not self.is_up:
                        await self._enter()
                    result = await once()
                except RedisError as error:
                    self._is_entered = False
                    self._metrics.redis_up.set(0)
                    await waiting.wait("redis_not_usable", error=str(error), redis=str(self._deployment))
                except EpochChanged:
                    waiting.over("redis_usable")
                    raise
                else:
                    waiting.over("redis_usable")
                    return result

    async def _nothing(self) -> None:
        """Entering is all that is wanted."""

    async def _enter(self) -> None:
        buckets = self._keys.buckets
        self._link_of = {bucket: await self._links.of(bucket) for bucket in buckets}
        for link in dict.fromkeys(self._link_of.values()):
            await self._prepare(link)
        await self._check_layout()
        begun = await self._call(
            [(bucket, self._begin_script.call([self._keys.life(bucket)], [_new_epoch()])) for bucket in buckets]
        )
        epochs = {bucket: epoch.decode() for bucket, (epoch, _) in zip(buckets, begun, strict=True)}
        for bucket, (epoch, is_new) in zip(buckets, begun, strict=True):
            if is_new:
                self._metrics.epochs_begun.inc()
                self._log.warning("epoch_begun", bucket=bucket, epoch=epoch.decode())
        if epochs != self._epochs:
            self._epochs = epochs
            self._published.clear()
            self.term += 1
        self._is_entered = True
        self._metrics.redis_up.set(1)

    async def _prepare(self, link: Link) -> None:
        """Have a server know the scripts, if it keeps what it is given."""
        memory = await link.call("INFO", "memory", timeout_seconds=self._timeout_seconds)
        _check_memory_policy(link.address, memory)
        loads: list[Command] = [
            ("SCRIPT", "LOAD", script.source) for script in (self._publish_script, self._begin_script)
        ]
        await link.pipeline(loads, timeout_seconds=self._timeout_seconds)

    async def _check_layout(self) -> None:
        layout = str(self._keys.user_buckets).encode()
        link = await self._links.of_key(self._keys.layout)
        commands: list[Command] = [("SET", self._keys.layout, layout, "NX"), ("GET", self._keys.layout)]
        _, found = await link.pipeline(commands, timeout_seconds=self._timeout_seconds)
        if found != layout:
            raise RelayStopped(
                f"this Redis was laid out for REDIS_USER_BUCKETS={found.decode()}, not {layout.decode()}: "
                "set that, or begin with an empty Redis (the logs are rebuilt from Redpanda)"
            )

    async def _call_publish(
        self, buckets: Mapping[str, BucketMessages], next_offsets: Mapping[str, int], *, beat: bool
    ) -> list[list[int]]:
        """publish.lua on each of `buckets`; gives what each call gave."""
        partitions: list[Argument] = []
        for name, offset in next_offsets.items():
            partitions += (name, offset, ROUTES[parse_partition_name(name)[0].topic].type)
        asked_at = time.monotonic()
        replies = await self._call(
            [
                (
                    bucket,
                    self._publish_script.call(
                        self._script_keys(bucket, messages),
                        [
                            self._epochs[bucket],
                            self._history.messages_of(bucket),
                            self._history.history_seconds,
                            self._keys.beat(bucket) if beat else "",
                            messages.stream_count,
                            len(next_offsets),
                            *partitions,
                            *messages.arguments,
                        ],
                    ),
                )
                for bucket, messages in buckets.items()
            ]
        )
        if buckets:
            self._metrics.redis_round_trip_seconds.observe(time.monotonic() - asked_at)
        if stale := [bucket for bucket, reply in zip(buckets, replies, strict=True) if reply == b"EPOCH"]:
            raise RedisRefused(f"another epoch than ours in {', '.join(stale)}")
        return replies

    def _script_keys(self, bucket: str, messages: BucketMessages) -> list[str]:
        last = [self._keys.last] if bucket == GLOBAL_BUCKET else []
        return [self._keys.life(bucket), *messages.keys, *last]

    async def _call(self, calls: Sequence[tuple[str, Command]]) -> list[Any]:
        """Make calls, each on its bucket's server: one write for a server, all servers at once.

        Gives their replies in order. Raises what the first failed with, after all have ended.
        """
        places: defaultdict[Link, list[int]] = defaultdict(list)
        for place, (bucket, _) in enumerate(calls):
            places[self._link_of[bucket]].append(place)
        if len(places) == 1:
            (link,) = places
            return await link.pipeline([command for _, command in calls], timeout_seconds=self._timeout_seconds)
        answers = await asyncio.gather(
            *(
                link.pipeline([calls[place][1] for place in own], timeout_seconds=self._timeout_seconds)
                for link, own in places.items()
            ),
            return_exceptions=True,
        )
        replies: list[Any] = [None] * len(calls)
        for own, answer in zip(places.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for place, reply in zip(own, answer, strict=True):
                replies[place] = reply
        return replies


def _check_memory_policy(server: RedisAddress, info: bytes) -> None:
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    policy = fields.get(b"maxmemory_policy", b"noeviction").decode()
    if policy != "noeviction":
        raise RelayStopped(
            f"the Redis at {server} has maxmemory-policy {policy}, which removes keys that resuming relies on: "
            "set it to noeviction"
        )


def _new_epoch() -> str:
    """Random: two epochs of a bucket are never alike, 36 ** 10 are possible."""
    return "".join(secrets.choice(EPOCH_CHARACTERS) for _ in range(EPOCH_LENGTH))
