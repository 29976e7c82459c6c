"""Who is connected where: each replica tells Redis which connections of each user it has, and closes those
of its own that are more than a user may have on all replicas together.

What is told is a state, whole for each user: telling it again changes nothing, so whatever may have been lost
is told again. A replica's word counts as long as its lease holds, so a killed one's share is gone with it.
"""

import asyncio
import contextlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Final

from gateway.audience import Audience
from gateway.close_codes import CloseCode
from gateway.group import Receiver
from gateway.hub import Hub
from gateway.share import Share, encode_share, living, oldest_above, readable
from shared.backoff import Backoff
from shared.errors import RedisError
from shared.keys import StreamName
from shared.link import Command, Link, Reply
from shared.links import Links, read_from_primary
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.slices import slices

LEASE_SECONDS: Final = 25
"""For which a replica's word counts."""

RENEW_SECONDS: Final = 10.0
"""Between renewals, each with some of those users who were told longest ago."""

AGAIN_SECONDS: Final = 600.0
"""In which every user is told again, in any case."""

KEEP_SECONDS: Final = 1_800
"""For which a user's presence is kept that nobody tells any more."""

GATHER_SECONDS: Final = 0.1
"""What happens within it is told in one go. Who came and went is not told at all."""

USERS_AT_ONCE: Final = 100
"""Told in one call: about half a millisecond here, and less in Redis."""

_SCRIPT: Final = files("gateway").joinpath("presence.lua").read_bytes()
_TELL: Final = b"tell"
"""The notice to a replica that it should tell its connections of a user again: some are too many."""

log = get_logger("gateway.presence")


class _Bucket:
    """The users of one bucket, by the channels of their streams."""

    __slots__ = ("changed", "name", "told", "wake")

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed: dict[str, Audience] = {}
        """Those of whom Redis is still to be told."""
        self.told: dict[str, Audience] = {}
        """Those of whom Redis may know something from this replica, told longest ago first."""
        self.wake = asyncio.Event()

    def add(self, users: Iterable[tuple[str, Audience]]) -> None:
        self.changed.update(users)
        if self.changed:
            self.wake.set()


class Presence:
    """The connections of this replica, as Redis is told of them. `run` does the work, until cancelled.

    `replica` is what this one is called in Redis, another name with each start; `cap` is how many connections a
    user may have on all replicas together, 0 for any number.
    """

    def __init__(self, settings: RedisSettings, hub: Hub, links: Links, replica: str, cap: int) -> None:
        self.replica = replica
        self.writes: Counter[str] = Counter()
        """Users told, by what became of it."""
        self._me = self.replica.encode()
        self._keys = settings.keys
        self._timeout_seconds = settings.redis_timeout_seconds
        self._hub = hub
        self._links = links
        self._cap = cap
        self._buckets: dict[str, _Bucket] = {}
        self._new: asyncio.Queue[_Bucket] = asyncio.Queue()
        self._failing: set[_Bucket] = set()
        hub.on_changed = self._changed

    @property
    def user_count(self) -> int:
        """Users with connections here of whom Redis was told."""
        return sum(len(bucket.told) for bucket in self._buckets.values())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._follow(await self._new.get()))

    async def read(self, user_id: str) -> dict[str, Share]:
        """A user's connections on all replicas, by replica. Raises RedisError."""
        stream = self._keys.user_stream(user_id)
        commands: list[Command] = [
            ("HGETALL", self._keys.presence(stream)),
            ("ZRANGE", self._keys.replicas(stream.bucket), 0, -1, "WITHSCORES"),
            ("TIME",),
        ]
        link = await self._links.of(stream.bucket)
        told, leases, time = await read_from_primary(link, commands, timeout_seconds=self._timeout_seconds)
        now_ms = 1000 * int(time[0]) + int(time[1]) // 1000
        return {replica.decode(): share for replica, share in living(told, dict(leases), now_ms).items()}

    async def leave(self) -> None:
        """Give up the leases: what was told of this replica counts no more. Call it when `run` has ended."""
        results = await asyncio.gather(*map(self._leave, self._buckets), return_exceptions=True)
        for error in results:
            if isinstance(error, RedisError):
                log.warning("this replica's share is not taken out, it ends with its lease", error=str(error))
                break
            if error is not None:
                raise error

    async def _leave(self, bucket: str) -> None:
        link = await self._links.of(bucket)
        await link.call("ZREM", self._keys.replicas(bucket), self._me, timeout_seconds=self._timeout_seconds)

    # What the hub and the subscriber say

    def _changed(self, audience: Audience) -> None:
        """A connection of a user was let in, or has gone."""
        channel, bucket = audience.channel, self._bucket(audience.name.bucket)
        if audience.is_idle and channel not in bucket.told:
            bucket.changed.pop(channel, None)  # gone before anybody was told
            return
        bucket.changed[channel] = audience
        bucket.wake.set()
        if self._cap and audience.count > self._cap:
            for member in audience.present()[: -self._cap]:
                member.close(CloseCode.REPLACED)

    def heard(self, bucket: str, notice: bytes) -> None:
        """Take a notice to the replicas that have users of a bucket."""
        match notice.split(b" "):
            case [verb, replica, name] if verb == _TELL:
                channel = self._keys.live(StreamName(bucket, name.decode(errors="replace")))
                if replica == self._me and (audience := self._hub.find(channel)) is not None:
                    self._changed(audience)
            case _:
                log.error("not a notice of ours, ignored", channel=self._keys.notices(bucket))

    def tell_again(self, buckets: Iterable[str]) -> None:
        """Tell everything of these: notices may have been missed, or Redis may have lost it."""
        for name in buckets:
            if (bucket := self._buckets.get(name)) is not None:
                bucket.add(bucket.told.items())

    def _bucket(self, name: str) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(name)
            self._new.put_nowait(bucket)
        return bucket

    # Telling

    async def _follow(self, bucket: _Bucket) -> None:
        """Tell what changes in one bucket; one that cannot be written holds up no others."""
        loop, backoff = asyncio.get_running_loop(), Backoff()
        renew_at = loop.time() + random.uniform(RENEW_SECONDS / 2, RENEW_SECONDS)  # noqa: S311
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at if bucket.told else None):
                    await bucket.wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            bucket.wake.clear()
            if loop.time() >= renew_at:
                count = math.ceil(len(bucket.told) * RENEW_SECONDS / AGAIN_SECONDS)
                bucket.changed.update(itertools.islice(bucket.told.items(), count))
                renew_at = loop.time() + RENEW_SECONDS
            try:
                await self._tell_changed(bucket)
            except RedisError as error:
                if not self._failing:
                    log.warning("presence is not written, trying again", users=len(bucket.changed), error=str(error))
                self._failing.add(bucket)
                await asyncio.sleep(backoff.next_seconds())
                bucket.wake.set()
            else:
                backoff.reset()
                if bucket in self._failing:
                    self._failing.discard(bucket)
                    if not self._failing:
                        log.info("presence is written again")

    async def _tell_changed(self, bucket: _Bucket) -> None:
        """Raises RedisError; what is not told then is changed still, and first in line. So while nothing can be
        told, nobody who comes after is even tried, and they are forgotten when they go."""
        changed, bucket.changed = list(bucket.changed.items()), {}
        done = 0
        try:
            for batch in slices(changed, USERS_AT_ONCE):
                await self._tell(bucket, batch)
                done += len(batch)
        finally:
            if done < len(changed):
                bucket.changed = dict(changed[done:]) | bucket.changed

    async def _tell(self, bucket: _Bucket, batch: Sequence[tuple[str, Audience]]) -> None:
        """Tell what this replica has of some users at this moment, and close what is too many of it."""
        link = await self._links.of(bucket.name)
        told, keys = bucket.told, self._keys
        users: list[tuple[str, Audience]] = []
        shares: list[bytes] = []
        for channel, audience in batch:
            share = encode_share([member.opened_us for member in self._present(audience)])
            if told.pop(channel, None) is None and not share:
                continue  # came and went
            told[channel] = audience
            users.append((channel, audience))
            shares.append(share)
        if not users:
            return
        try:
            began, above, refused = await link.call(
                "EVAL",
                _SCRIPT,
                1 + len(users),
                keys.replicas(bucket.name),
                *[keys.presence(audience.name) for _, audience in users],
                self._me,
                1000 * LEASE_SECONDS,
                KEEP_SECONDS,
                self._cap,
                *shares,
                timeout_seconds=self._timeout_seconds,
            )
        except RedisError:
            self.writes["failed"] += len(users)
            raise
        for (channel, _), share in zip(users, shares, strict=True):
            if not share:
                told.pop(channel, None)
        if began:
            just_told = {channel for channel, _ in users}
            bucket.add((channel, audience) for channel, audience in told.items() if channel not in just_told)
        self.writes["written"] += len(users) - len(refused)
        self.writes["failed"] += len(refused)
        if refused:
            # They come again with all others; sooner would be no use.
            log.error("presence cannot be written", users=len(refused), error=refused[0][1].decode(errors="replace"))
        await self._replace(bucket, link, [(users[place][1], flat) for place, *flat in above])

    async def _replace(self, bucket: _Bucket, link: Link, above: Sequence[tuple[Audience, list[Reply]]]) -> None:
        """Close what is too many here, and have those told again who have some elsewhere."""
        notices: list[Command] = []
        for audience, flat in above:
            shares = readable(dict(zip(flat[::2], flat[1::2], strict=True)))
            for replica, opened_us in oldest_above(self._cap, shares).items():
                if replica == self._me:
                    for member in self._present(audience):
                        if member.opened_us in opened_us:
                            member.close(CloseCode.REPLACED)
                else:
                    notice = b"%s %s %s" % (_TELL, replica, audience.name.name.encode())
                    notices.append(("SPUBLISH", self._keys.notices(bucket.name), notice))
        if notices:
            await link.pipeline(notices, timeout_seconds=self._timeout_seconds)

    def _present(self, audience: Audience) -> list[Receiver]:
        """A user's connections here, oldest first. The hub may have forgotten this stream when its last
        client left, and made it anew for the next."""
        if audience.is_idle and (anew := self._hub.find(audience.channel)) is not None:
            audience = anew
        return audience.present()
