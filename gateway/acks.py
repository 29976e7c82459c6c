"""How far each device has got, as it says itself, kept in Redis for `cursor=ack`.

A device's cursor only rises. It is written at most once a second; what was said since is lost with
this process, and the device resumes from the ack before.
"""

import asyncio
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from gateway.control import BadControl
from gateway.cursor import Cursor, Position, parse_cursor
from gateway.resume import end_of
from gateway.stream import Meta, Stream
from shared.errors import RedisError, RedisUnavailable
from shared.keys import Keys
from shared.links import Links
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


class _Said(NamedTuple):
    """An ack that is not written yet, and the streams that it is about."""

    cursor: Cursor
    everyone: Stream
    user: Stream


class Acks:
    """The acks of a replica's clients. `run` writes them, until cancelled."""

    def __init__(self, settings: RedisSettings, links: Links) -> None:
        self._keys: Keys = settings.keys
        self._timeout_seconds = settings.redis_timeout_seconds
        self._links = links
        self._said: dict[Device, _Said] = {}

    def take(self, device: Device, cursor: Cursor, everyone: Stream, user: Stream) -> None:
        """Remember an ack. Raises BadControl for a cursor that is not good, or ahead of its streams."""
        accepted = Cursor(_accept(cursor.everyone, everyone), _accept(cursor.user, user))
        said = self._said.get(device)
        if said is not None:
            accepted = merge(said.cursor, accepted, everyone, user)
        elif len(self._said) >= UNWRITTEN:
            del self._said[next(iter(self._said))]
        self._said[device] = _Said(accepted, everyone, user)

    async def read(self, device: Device) -> Cursor | None:
        """What a device acknowledged last; None when nothing is known of it. Raises RedisError."""
        said = self._said.get(device)
        if said is not None:
            return said.cursor
        key, bucket = self._key(device)
        link = await self._links.of(bucket)
        stored = await link.call("HGET", key, device[1], timeout_seconds=self._timeout_seconds)
        return None if stored is None else parse_stored(stored)[0]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write what was said until now, some at a time. What fails is tried again a second later, or
        gives way to a later ack."""
        errors: list[RedisError] = []
        for batch in slices(list(self._said.items()), WRITES_AT_ONCE):
            outcomes = await asyncio.gather(
                *(self._write(device, said) for device, said in batch), return_exceptions=True
            )
            for (device, said), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, RedisError):
                    errors.append(outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
                elif outcome and self._said.get(device) is said:
                    del self._said[device]
            if any(isinstance(error, RedisUnavailable) for error in errors):
                break  # the others would fare no better
        if errors:
            log.warning("acks are not written, trying again", count=len(errors), error=str(errors[0]))

    async def _write(self, device: Device, said: _Said) -> bool:
        """False when another connection wrote meanwhile: look again."""
        key, bucket = self._key(device)
        link = await self._links.of(bucket)
        flat = await link.call("HGETALL", key, timeout_seconds=self._timeout_seconds)
        now = int(time.time())
        stored = flat.get(device[1].encode(), b"")
        known = parse_stored(stored)[0]
        cursor = said.cursor if known is None else merge(known, said.cursor, said.everyone, said.user)
        written = await link.call(
            "EVAL",
            _SCRIPT,
            1,
            key,
            device[1],
            stored,
            b"%s %d" % (cursor.encode(), now),
            ACK_SECONDS,
            *superfluous(flat, device[1].encode(), now),
            timeout_seconds=self._timeout_seconds,
        )
        return bool(written)

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


def merge(known: Cursor, new: Cursor, everyone: Stream, user: Stream) -> Cursor:
    """Each part only rises. What is known from an epoch that is forgotten gives way."""
    return Cursor(
        _higher(known.everyone, new.everyone, everyone),
        _higher(known.user, new.user, user),
    )


def _higher(known: Position, new: Position, stream: Stream) -> Position:
    try:
        known = _accept(known, stream)
    except BadControl:
        return new
    return known if known.seq > new.seq else new


def _accept(position: Position, stream: Stream) -> Position:
    """The same place in the stream's present epoch. Raises BadControl when there is none."""
    end = end_of(position.epoch, Meta(stream.epoch, stream.seq, stream.forks))
    if end is None or position.seq > end:
        raise BadControl("bad_cursor", "The cursor is past the top of its stream, or of an epoch that is over.")
    return Position(stream.epoch, position.seq)
