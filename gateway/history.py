"""What Redis remembers of a stream, read when live messages do not tell the whole story.

Reads go over a link of their own, so that a long log never delays live messages. They may be placed
among live messages all the same: a stream holds those while its log is read (gateway.stream).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from gateway.audience import Audience
from gateway.hub import Hub
from gateway.stream import NO_EPOCH, Meta
from shared.backoff import Backoff
from shared.errors import RedisError, RedisRefused
from shared.keys import Keys, StreamName
from shared.link import Command, Link, Reply
from shared.links import Links, read_from_primary
from shared.logging import get_logger
from shared.message import Message, parse_message
from shared.servers import Servers
from shared.settings import RedisSettings
from shared.slices import slices

PAGE_MESSAGES: Final = 200
"""Messages of one stream read at a time."""

STREAMS_AT_ONCE: Final = 16
"""Streams read in one round trip."""

GAP_RESULTS: Final = ("filled", "unfillable")

_META_FIELDS: Final = (b"epoch", b"seq", b"fork")
_OFFSET_FIELD: Final = b"o:"

LOOK_AGAIN_SECONDS: Final = 0.1
"""Between looks at whether it is time for a stream that was put off."""

PUT_OFF_SECONDS: Final = 30.0
"""The longest that a stream is put off whose log cannot be read."""

log = get_logger("gateway.history")


def read_meta(keys: Keys, stream: StreamName) -> Command:
    """The command whose reply `parse_meta` takes."""
    return ("HMGET", keys.meta(stream), *_META_FIELDS)


def parse_meta(reply: Sequence[bytes | None]) -> Meta:
    """A stream's meta; that of one which never had a message is empty."""
    epoch, seq, fork = reply
    if epoch is None or seq is None:
        return Meta(NO_EPOCH, 0)
    forks = (entry.split(b":") for entry in (fork or b"").split())
    return Meta(epoch, int(seq), {ended: int(at) for ended, at in forks})


def parse_whole_meta(reply: Mapping[bytes, bytes]) -> Meta:
    """The same from all fields (HGETALL), with the offsets."""
    offsets = {name[2:]: int(offset) for name, offset in reply.items() if name.startswith(_OFFSET_FIELD)}
    return replace(parse_meta([reply.get(name) for name in _META_FIELDS]), offsets=offsets)


def parse_page(reply: Sequence[Any]) -> list[Message]:
    """Messages from an XRANGE reply. An entry that is not ours is left out, which is a hole."""
    messages = []
    for entry_id, fields in reply:
        try:
            messages.append(parse_message(fields[1]))
        except ValueError as error:
            log.error("an entry of a log is not a message of ours", entry=entry_id.decode(), error=str(error))
    return messages


class _PutOff:
    """A stream that could not be read, and is tried again at longer and longer intervals."""

    __slots__ = ("backoff", "until")

    def __init__(self) -> None:
        self.backoff = Backoff(1.0, PUT_OFF_SECONDS)
        self.until = 0.0


class History:
    """Fills holes: reads logs for the hub until its streams have caught up.

    `request` may be called from anywhere in the loop; `run` does the work, until cancelled. While
    Redis is away requests are kept: there is at most one for each stream. Each bucket is read by
    itself, so that a server that is away, or a stream whose log cannot be read, holds up no other.
    """

    def __init__(self, settings: RedisSettings, hub: Hub, name: str, servers: Servers | None = None) -> None:
        self._settings = settings
        self._hub = hub
        self._keys = settings.keys
        self._links = Links(settings, f"{name}-history", servers)
        self._requested: dict[Audience, int | None] = {}
        self._put_off: dict[Audience, _PutOff] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(STREAMS_AT_ONCE)
        self._wake = asyncio.Event()
        self.gaps_found = 0
        """Holes that were looked into."""
        self.gaps: Counter[str] = Counter()
        """Holes by what became of them, one of GAP_RESULTS."""
        hub.on_fetch = self.request

    def request(self, audience: Audience) -> None:
        """Have the log of `audience` read. Its stream is filling until then."""
        self.gaps_found += 1
        self._requested[audience] = None
        self._wake.set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as readers:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    for bucket in {audience.name.bucket for audience in self._requested} - self._readers.keys():
                        self._readers[bucket] = readers.create_task(self._read_bucket(bucket))
        finally:
            self._readers.clear()
            self._links.close()

    async def _read_bucket(self, bucket: str) -> None:
        """Read until nothing of a bucket is requested any more."""
        backoff = Backoff()
        while requested := [audience for audience in self._requested if audience.name.bucket == bucket]:
            due = [audience for audience in requested if self._is_due(audience)]
            if not due:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            for batch in slices(due, STREAMS_AT_ONCE):
                await self._hub.drained.wait()
                try:
                    link = await self._links.of(bucket)
                    await self._read(link, [(audience, self._requested[audience]) for audience in batch])
                except RedisError as error:
                    delay_seconds = backoff.next_seconds()
                    log.warning(
                        "cannot read history, trying again", bucket=bucket, error=str(error), in_seconds=delay_seconds
                    )
                    await asyncio.sleep(delay_seconds)
                    break
                backoff.reset()
        # No wait since the last look: whoever requests from now on finds no reader, and gets one.
        del self._readers[bucket]

    def _is_due(self, audience: Audience) -> bool:
        put_off = self._put_off.get(audience)
        if put_off is not None and not self._hub.has(audience):
            del self._put_off[audience], self._requested[audience]  # nobody waits for it any more
            return False
        return put_off is None or put_off.until <= asyncio.get_running_loop().time()

    async def _read(self, link: Link, batch: list[tuple[Audience, int | None]]) -> None:
        """Read a page of each. Raises RedisError when that is not a matter of one stream."""
        starts = [(audience, audience.stream.seq if start is None else start) for audience, start in batch]
        replies = await asyncio.gather(
            *(self._read_page(link, audience, start) for audience, start in starts), return_exceptions=True
        )
        for (audience, start), reply in zip(starts, replies, strict=True):
            if isinstance(reply, RedisRefused) and not (link.is_lost or link.is_displaced):
                self._cannot_read(audience, reply)
            elif isinstance(reply, BaseException):
                raise reply
            else:
                try:
                    meta = parse_whole_meta(reply[0])
                except ValueError as error:
                    self._cannot_read(audience, error)
                    continue
                self._put_off.pop(audience, None)
                self._took(audience, start, meta, reply[1])

    async def _read_page(self, link: Link, audience: Audience, start: int) -> list[Reply]:
        """Meta and log of one moment."""
        page: Command = ("XRANGE", self._keys.log(audience.name), f"({start}", "+", "COUNT", PAGE_MESSAGES)
        whole_meta: Command = ("HGETALL", self._keys.meta(audience.name))
        async with self._room:
            timeout_seconds = self._settings.redis_timeout_seconds
            return await read_from_primary(link, (whole_meta, page), timeout_seconds=timeout_seconds)

    def _cannot_read(self, audience: Audience, error: Exception) -> None:
        """Leave this stream for later; nobody but its own clients shall wait for it."""
        put_off = self._put_off.setdefault(audience, _PutOff())
        delay_seconds = put_off.backoff.next_seconds()
        put_off.until = asyncio.get_running_loop().time() + delay_seconds
        log.error(
            "a stream's history cannot be read; its clients wait",
            keys=[self._keys.meta(audience.name), self._keys.log(audience.name)],
            error=str(error),
            in_seconds=delay_seconds,
        )

    def _took(self, audience: Audience, start: int, meta: Meta, page_reply: Reply) -> None:
        read_from = audience.stream.read_from(meta)
        if read_from != start:
            # An epoch ended below the place that was guessed: read from where it forked.
            self._requested[audience] = read_from
            return
        filled = audience.stream.fill(meta, read_from, parse_page(page_reply))
        self._requested[audience] = None
        if filled.complete:
            del self._requested[audience]
        if filled.hole or filled.complete:
            self.gaps["unfillable" if filled.hole else "filled"] += 1
        if filled.hole:
            log.error("a hole that the log cannot fill", stream=audience.name.bucket, after=read_from, top=meta.seq)
        self._hub.filled(audience, filled)
