"""How far each device has got, as it says itself, kept in Redis for `cursor=ack`.

A device's cursor only rises. It is written at most once a second; what was said since is lost with
this process, and the device resumes from the ack before.
"""

import asyncio
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from gateway.control import BadControl
from gateway.cursor import Cursor, Position, parse_cursor
from gateway.history import parse_meta, read_meta
from gateway.resume import end_of
from gateway.stream import Meta, Stream
from shared.errors import RedisError, RedisRefused, RedisUnavailable
from shared.keys import GLOBAL, Keys
from shared.link import Command, Reply
from shared.links import Links, read_from_primary
from shared.logging import get_logger
from shared.settings import RedisSettings
from shared.slices import slices

DEVICES: Final = 16
"""Of a user. One more takes the place of that which acknowledged longest ago."""

ACK_SECONDS: Final = 30 * 86_400
"""For how long an ack is kept."""

WRITE_SECONDS: Final = 1.0
WRITES_AT_ONCE: Final = 500
UNWRITTEN: Final = 20_000
"""Acks kept while Redis is away; above it the oldest go."""

_SCRIPT: Final = files("gateway").joinpath("ack.lua").read_bytes()

Device = tuple[str, str]
"""A user id and the name of one of its devices."""

log = get_logger("gateway.acks")


class Acks:
    """The acks of a replica's clients. `run` writes them, until cancelled."""

    def __init__(self, settings: RedisSettings, links: Links) -> None:
        self._keys: Keys = settings.keys
        self._timeout_seconds = settings.redis_timeout_seconds
        self._links = links
        self._said: dict[Device, Cursor] = {}
        """Acks that are not written yet."""

    def take(self, device: Device, cursor: Cursor, everyone: Stream, user: Stream) -> None:
        """Remember an ack. Raises BadControl for a cursor that is not good, or ahead of its streams."""
        metas = _as_meta(everyone), _as_meta(user)
        accepted = Cursor(_accept(cursor.everyone, metas[0]), _accept(cursor.user, metas[1]))
        said = self._said.get(device)
        if said is not None:
            accepted = merge(said, accepted, *metas)
        elif len(self._said) >= UNWRITTEN:
            del self._said[next(iter(self._said))]
        self._said[device] = accepted

    async def read(self, device: Device) -> Cursor | None:
        """What a device acknowledged last, on whichever replica; None when nothing is known of it.
        Raises RedisError."""
        stored, user = await self._look(device)
        known, said = parse_stored(stored.get(device[1].encode(), b""))[0], self._said.get(device)
        if known is None or said is None:
            return known or said
        return merge(known, said, await self._everyone(), user)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what was said until now, some at a time. What fails is tried again a second later, or
        gives way to a later ack."""
        waiting = list(self._said.items())
        if not waiting:
            return
        errors: list[RedisError] = []
        try:
            everyone = await self._everyone()
            for batch in slices(waiting, WRITES_AT_ONCE):
                errors += await self._write_batch(batch, everyone)
                if any(isinstance(error, RedisUnavailable) for error in errors):
                    break  # the others would fare no better
        except RedisError as error:
            errors.append(error)
        if errors:
            log.warning("acks are not written, trying again", count=len(self._said), error=str(errors[0]))

    async def _write_batch(self, batch: Sequence[tuple[Device, Cursor]], everyone: Meta) -> list[RedisError]:
        """Gives what some failed with."""
        errors: list[RedisError] = []
        outcomes = await asyncio.gather(
            *(self._write(device, said, everyone) for device, said in batch), return_exceptions=True
        )
        for (device, said), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, RedisError):
                errors.append(outcome)
                if self._said.get(device) is said:
                    self._said[device] = self._said.pop(device)  # others first, the next time
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome and self._said.get(device) is said:
                del self._said[device]
        return errors

    async def _write(self, device: Device, said: Cursor, everyone: Meta) -> bool:
        """False when another connection wrote meanwhile: look again."""
        stored, user = await self._look(device)
        now, name = int(time.time()), device[1].encode()
        before = stored.get(name, b"")
        known = parse_stored(before)[0]
        cursor = said if known is None else merge(known, said, everyone, user)
        key, bucket = self._key(device)
        link = await self._links.of(bucket)
        written = await link.call(
            "EVAL",
            _SCRIPT,
            1,
            key,
            name,
            before,
            b"%s %d" % (cursor.encode(), now),
            ACK_SECONDS,
            *superfluous(stored, name, now),
            timeout_seconds=self._timeout_seconds,
        )
        return bool(written)

    async def _look(self, device: Device) -> tuple[dict[bytes, bytes], Meta]:
        """A user's acks as they are stored, by device, and where the user's stream stands."""
        key, bucket = self._key(device)
        commands: list[Command] = [("HGETALL", key), read_meta(self._keys, self._keys.user_stream(device[0]))]
        link = await self._links.of(bucket)
        stored, meta = await read_from_primary(link, commands, timeout_seconds=self._timeout_seconds)
        return stored, _known_meta(meta)

    async def _everyone(self) -> Meta:
        """Where the global stream stands: this replica may be behind another that wrote an ack."""
        link = await self._links.of(GLOBAL.bucket)
        commands = [read_meta(self._keys, GLOBAL)]
        (meta,) = await read_from_primary(link, commands, timeout_seconds=self._timeout_seconds)
        return _known_meta(meta)

    def _key(self, device: Device) -> tuple[str, str]:
        stream = self._keys.user_stream(device[0])
        return self._keys.ack(stream), stream.bucket


def parse_stored(value: bytes) -> tuple[Cursor | None, int]:
    """A device's entry: its cursor, and when it was written (Unix seconds). None for what is none of ours."""
    text, _, written_at = value.decode(errors="replace").partition(" ")
    try:
        return parse_cursor(text), int(written_at)
    except ValueError:
        return None, 0


def superfluous(stored: dict[bytes, bytes], device: bytes, now: int) -> Sequence[bytes]:
    """The devices to forget when `device` writes: those too old, and the oldest above DEVICES."""
    others = sorted(((parse_stored(value)[1], name) for name, value in stored.items() if name != device), reverse=True)
    return [name for number, (at, name) in enumerate(others) if number >= DEVICES - 1 or now - at > ACK_SECONDS]


def merge(known: Cursor, new: Cursor, everyone: Meta, user: Meta) -> Cursor:
    """Each part only rises. What is known from an epoch that is forgotten gives way."""
    return Cursor(
        _higher(known.everyone, new.everyone, everyone),
        _higher(known.user, new.user, user),
    )


def _higher(known: Position, new: Position, meta: Meta) -> Position:
    before, now = _at_present(known, meta), _at_present(new, meta)
    if now is None:
        return new  # a loss took its epoch's end: who resumes from there has to be told so
    return now if before is None or before.seq <= now.seq else before


def _accept(position: Position, meta: Meta) -> Position:
    """Raises BadControl when it is no place of the stream."""
    accepted = _at_present(position, meta)
    if accepted is None:
        raise BadControl("bad_cursor", "The cursor is past the top of its stream, or of an epoch that is over.")
    return accepted


def _at_present(position: Position, meta: Meta) -> Position | None:
    """The same place in the stream's present epoch; None when there is none."""
    end = end_of(position.epoch, meta)
    return None if end is None or position.seq > end else Position(meta.epoch, position.seq)


def _as_meta(stream: Stream) -> Meta:
    return Meta(stream.epoch, stream.seq, stream.forks)


def _known_meta(reply: Reply) -> Meta:
    """Raises RedisRefused for what is none, so that it is a matter of one ack."""
    try:
        return parse_meta(reply)
    except ValueError as error:
        raise RedisRefused(f"a stream's meta is no good: {error}") from None
