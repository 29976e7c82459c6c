"""What Redis remembers of a stream, read when live messages do not tell the whole story.

Reads go over a link of their own, so that a long log never delays live messages. They may be placed
among live messages all the same: a stream holds those while its log is read (gateway.stream).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.hub import Audience, Hub
from gateway.stream import NO_EPOCH, Meta
from shared.backoff import Backoff
from shared.errors import RedisError
from shared.keys import Keys
from shared.link import Command, Link, Reply
from shared.logging import get_logger
from shared.message import Message, parse_message
from shared.settings import RedisSettings

PAGE_MESSAGES: Final = 200
"""Messages of one stream read at a time."""

STREAMS_AT_ONCE: Final = 16
"""Streams read in one round trip."""

META_FIELDS: Final = ("epoch", "seq", "fork")

log = get_logger("gateway.history")


def read_meta(keys: Keys, audience: Audience) -> Command:
    """The command whose reply `parse_meta` takes."""
    return ("HMGET", keys.meta(audience.name), *META_FIELDS)


def parse_meta(reply: Sequence[bytes | None]) -> Meta:
    """A stream's meta; that of one which never had a message is empty."""
    epoch, seq, fork = reply
    if epoch is None or seq is None:
        return Meta(NO_EPOCH, 0)
    forks = (entry.split(b":") for entry in (fork or b"").split())
    return Meta(epoch, int(seq), {ended: int(at) for ended, at in forks})


def parse_next(life: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """The next offset to publish of each partition, from a bucket's life."""
    return {name[2:]: int(offset) for name, offset in life.items() if name.startswith(b"n:")}


def parse_page(reply: Sequence[Any]) -> list[Message]:
    """Messages from an XRANGE reply. An entry that is not ours is left out, which is a hole."""
    messages = []
    for entry_id, fields in reply:
        try:
            messages.append(parse_message(fields[1]))
        except ValueError as error:
            log.error("an entry of a log is not a message of ours", entry=entry_id.decode(), error=str(error))
    return messages


class History:
    """Fills holes: reads logs for the hub until its streams have caught up.

    `request` may be called from anywhere in the loop; `run` does the work, until cancelled. While
    Redis is away requests are kept: there is at most one for each stream.
    """

    def __init__(self, settings: RedisSettings, hub: Hub, name: str) -> None:
        self._settings = settings
        self._hub = hub
        self._keys = settings.keys
        self._name = name
        self._requested: dict[Audience, int | None] = {}
        self._wake = asyncio.Event()
        self.gaps: Counter[str] = Counter()
        """Holes by what became of them: filled, unfillable."""
        hub.on_fetch = self.request

    def request(self, audience: Audience) -> None:
        """Have the log of `audience` read. Its stream is filling until then."""
        self._requested[audience] = None
        self._wake.set()

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._serve(backoff)
            except RedisError as error:
                delay_seconds = backoff.next_seconds()
                if self._requested:
                    log.warning("cannot read history, trying again", error=str(error), in_seconds=delay_seconds)
                await asyncio.sleep(delay_seconds)

    async def _serve(self, backoff: Backoff) -> None:
        await self._wake.wait()
        link = await Link.connect(
            self._settings.address, name=f"{self._name}-history", timeout_seconds=self._settings.redis_timeout_seconds
        )
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._requested:
                    await self._hub.drained.wait()
                    await self._read(link, list(self._requested.items())[:STREAMS_AT_ONCE])
                    backoff.reset()
        finally:
            link.close()
            if self._requested:
                self._wake.set()

    async def _read(self, link: Link, batch: list[tuple[Audience, int | None]]) -> None:
        starts = [(audience, audience.stream.seq if start is None else start) for audience, start in batch]
        replies = await asyncio.gather(*(self._read_page(link, audience, start) for audience, start in starts))
        for (audience, start), (meta_reply, page_reply) in zip(starts, replies, strict=True):
            self._took(audience, start, parse_meta(meta_reply), page_reply)

    async def _read_page(self, link: Link, audience: Audience, start: int) -> list[Reply]:
        """Meta and log of one moment."""
        page: Command = ("XRANGE", self._keys.log(audience.name), f"({start}", "+", "COUNT", PAGE_MESSAGES)
        return await link.transaction(
            (read_meta(self._keys, audience), page), timeout_seconds=self._settings.redis_timeout_seconds
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
