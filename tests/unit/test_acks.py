"""How far each device has got: what is kept, and how it rises."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clients import KEYS, REDIS
from scripted import ScriptedLinks

from demo.process import Process
from demo.valkey import redis_url
from gateway.acks import ACK_SECONDS, DEVICES, Acks, Device, merge, parse_stored, superfluous
from gateway.control import BadControl
from gateway.cursor import START, Cursor, Position
from gateway.stream import Meta, Stream
from shared.errors import RedisUnavailable
from shared.keys import GLOBAL
from shared.link import Link
from shared.links import Links
from shared.settings import RedisSettings


def stream(epoch: bytes, seq: int, forks: dict[bytes, int] | None = None) -> Stream:
    stream = Stream()
    stream.join(Meta(epoch, seq, forks or {}), {})
    return stream


EVERYONE, USER = stream(b"g", 50), stream(b"c", 20, {b"a": 5, b"b": 12})
EVERYONES_META, META = Meta(b"g", 50), Meta(b"c", 20, {b"a": 5, b"b": 12})


def cursor(epoch: bytes, seq: int) -> Cursor:
    return Cursor(START, Position(epoch, seq))


@pytest.mark.parametrize(
    ("known", "new", "kept"),
    [
        ((b"c", 5), (b"c", 6), (b"c", 6)),
        ((b"c", 6), (b"c", 5), (b"c", 6)),
        ((b"b", 12), (b"c", 7), (b"c", 12)),
        ((b"b", 12), (b"c", 13), (b"c", 13)),
        ((b"x", 99), (b"c", 3), (b"c", 3)),
        ((b"b", 13), (b"c", 3), (b"c", 3)),
        ((b"c", 7), (b"b", 12), (b"c", 12)),
        ((b"c", 7), (b"b", 13), (b"b", 13)),
    ],
    ids=[
        "rises",
        "goes back",
        "below one of an earlier epoch",
        "above it",
        "of an epoch that is forgotten",
        "lost",
        "said in an earlier epoch",
        "of which the end was lost since",
    ],
)
def test_each_part_only_rises(known: tuple[bytes, int], new: tuple[bytes, int], kept: tuple[bytes, int]) -> None:
    assert merge(cursor(*known), cursor(*new), EVERYONES_META, META).user == Position(*kept)


def test_the_parts_rise_apart() -> None:
    known = Cursor(Position(b"g", 9), Position(b"c", 3))
    new = Cursor(Position(b"g", 4), Position(b"c", 8))
    assert merge(known, new, EVERYONES_META, META) == Cursor(Position(b"g", 9), Position(b"c", 8))


def test_the_device_that_acknowledged_longest_ago_gives_way() -> None:
    now = 10_000_000
    stored = {b"d%d" % number: b"0.0.0.0 %d" % (now - number) for number in range(DEVICES)}
    assert superfluous(stored, b"new", now) == [b"d%d" % (DEVICES - 1)]
    assert superfluous(stored, b"d3", now) == []
    old = {b"old": b"0.0.0.0 %d" % (now - ACK_SECONDS - 1), b"garbage": b"what is this"}
    assert sorted(superfluous(old, b"new", now)) == [b"garbage", b"old"]


@pytest.mark.parametrize("value", [b"", b"a.1.b.2", b"nonsense 5", b"\xff\xff 7", b"a.1.b.2 x"])
def test_what_is_none_of_ours_is_unknown(value: bytes) -> None:
    assert parse_stored(value) == (None, 0)


@pytest.fixture
async def acks(valkey: Process, redis: Link) -> AsyncIterator[Acks]:
    settings = RedisSettings(_env_file=None, redis_url=redis_url(valkey))
    await redis.call("HSET", KEYS.meta(GLOBAL), "epoch", "g", "seq", 50, timeout_seconds=5)
    for user in ("ann", "bob"):
        meta = KEYS.meta(KEYS.user_stream(user))
        await redis.call("HSET", meta, "epoch", "c", "seq", 20, "fork", "a:5 b:12", timeout_seconds=5)
    links = Links(settings, "unit")
    yield Acks(settings, links)
    links.close()


async def test_an_ack_is_written_and_read_back_also_before_it_is_written(acks: Acks, redis: Link) -> None:
    acks.take(("ann", "phone"), cursor(b"c", 7), EVERYONE, USER)
    assert await acks.read(("ann", "phone")) == Cursor(Position(b"g", 0), Position(b"c", 7))
    await acks.write()
    assert acks._said == {}
    assert await acks.read(("ann", "phone")) == Cursor(Position(b"g", 0), Position(b"c", 7))
    assert await acks.read(("ann", "laptop")) is None
    key = KEYS.ack(KEYS.user_stream("ann"))
    assert ACK_SECONDS - 10 < await redis.call("TTL", key, timeout_seconds=5) <= ACK_SECONDS


async def test_what_another_connection_wrote_is_not_set_back(acks: Acks) -> None:
    for seq in (9, 4):
        acks.take(("ann", "phone"), cursor(b"c", seq), EVERYONE, USER)
        await acks.write()
    read = await acks.read(("ann", "phone"))
    assert read is not None
    assert read.user.seq == 9


@pytest.mark.parametrize("behind", [stream(b"c", 9), stream(b"b", 12, {b"a": 5})], ids=["of the epoch", "before it"])
async def test_what_another_replica_wrote_is_not_set_back_by_one_that_is_behind(acks: Acks, behind: Stream) -> None:
    acks.take(("ann", "phone"), cursor(b"c", 17), EVERYONE, USER)
    await acks.write()
    late = Acks(REDIS, acks._links)
    late.take(("ann", "phone"), cursor(behind.epoch, 8), EVERYONE, behind)
    read = await late.read(("ann", "phone"))
    assert read is not None
    assert read.user == Position(b"c", 17)
    await late.write()
    assert late._said == {}
    assert await acks.read(("ann", "phone")) == read


async def test_of_two_writers_at_once_one_looks_again(acks: Acks, redis: Link) -> None:
    key = KEYS.ack(KEYS.user_stream("ann"))
    script = acks._write.__globals__["_SCRIPT"]
    now = b"a.1.b.1 %d" % time.time()
    assert await redis.call("EVAL", script, 1, key, "phone", b"", now, ACK_SECONDS, timeout_seconds=5) == 1
    assert await redis.call("EVAL", script, 1, key, "phone", b"", b"other", ACK_SECONDS, timeout_seconds=5) == 0
    assert await redis.call("HGET", key, "phone", timeout_seconds=5) == now


async def test_a_key_of_another_type_loses_nobody_elses_ack(acks: Acks, redis: Link) -> None:
    await redis.call("SET", KEYS.ack(KEYS.user_stream("bob")), "x", timeout_seconds=5)
    acks.take(("bob", "phone"), cursor(b"c", 7), EVERYONE, USER)
    acks.take(("ann", "phone"), cursor(b"c", 7), EVERYONE, USER)
    await acks.write()
    assert ("ann", "phone") not in acks._said


async def test_all_that_was_said_is_written_some_at_a_time(acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that ends does so once."""
    monkeypatch.setattr("gateway.acks.WRITES_AT_ONCE", 10)
    devices = [(f"user-{number}", "phone") for number in range(35)]
    for device in devices:
        acks.take(device, cursor(b"c", 7), EVERYONE, USER)
    await acks.write()
    assert acks._said == {}
    read = [await acks.read(device) for device in devices]
    assert read == [Cursor(Position(b"g", 0), Position(b"c", 7))] * len(devices)


async def test_what_is_said_while_a_write_is_under_way_is_written_next(acks: Acks) -> None:
    acks.take(("ann", "phone"), cursor(b"c", 7), EVERYONE, USER)
    writing = asyncio.create_task(acks.write())
    await asyncio.sleep(0)
    acks.take(("ann", "phone"), cursor(b"c", 9), EVERYONE, USER)
    await writing
    assert list(acks._said) == [("ann", "phone")]
    await acks.write()
    assert acks._said == {}
    assert await acks.read(("ann", "phone")) == Cursor(Position(b"g", 0), Position(b"c", 9))


class AwayLinks:
    """Links to a Redis of which the users' part is away, which is found out a moment later."""

    def __init__(self) -> None:
        self.asked = 0

    async def of(self, bucket: str) -> ScriptedLinks:
        if bucket == GLOBAL.bucket:
            return ScriptedLinks(KEYS)
        self.asked += 1
        await asyncio.sleep(0.001)
        raise RedisUnavailable("away")


async def test_while_redis_is_away_the_oldest_acks_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose write is under way."""
    monkeypatch.setattr("gateway.acks.UNWRITTEN", 10)
    links: Any = AwayLinks()
    acks = Acks(REDIS, links)
    for number in range(10):
        acks.take((f"user-{number}", "phone"), cursor(b"c", 7), EVERYONE, USER)
    writing = asyncio.create_task(acks.write())
    await asyncio.sleep(0)
    acks.take(("one more", "phone"), cursor(b"c", 7), EVERYONE, USER)
    await writing
    assert sorted(user for user, _ in acks._said) == ["one more", *(f"user-{number}" for number in range(1, 10))]


async def test_while_redis_is_away_not_every_batch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.acks.WRITES_AT_ONCE", 10)
    links: Any = AwayLinks()
    acks = Acks(REDIS, links)
    for number in range(35):
        acks.take((f"user-{number}", "phone"), cursor(b"c", 7), EVERYONE, USER)
    await acks.write()
    assert links.asked == 10
    assert len(acks._said) == 35


async def test_acks_that_cannot_be_written_hold_up_no_others(monkeypatch: pytest.MonkeyPatch, acks: Acks) -> None:
    """One node of a cluster is away, and all of a batch are its users'."""
    monkeypatch.setattr("gateway.acks.WRITES_AT_ONCE", 10)
    look = acks._look

    async def away_for_some(device: Device) -> tuple[dict[bytes, bytes], Meta]:
        if device[0].startswith("away"):
            raise RedisUnavailable("away")
        return await look(device)

    monkeypatch.setattr(acks, "_look", away_for_some)
    for number in range(10):
        acks.take((f"away-{number}", "phone"), cursor(b"c", 7), EVERYONE, USER)
    acks.take(("ann", "phone"), cursor(b"c", 7), EVERYONE, USER)
    await acks.write()
    await acks.write()
    assert ("ann", "phone") not in acks._said
    assert len(acks._said) == 10


def test_an_ack_that_is_no_place_of_its_stream_is_refused() -> None:
    settings = RedisSettings(_env_file=None)
    acks = Acks(settings, Links(settings, "unit"))
    for bad in (cursor(b"c", 21), cursor(b"a", 6), cursor(b"x", 1), cursor(b"c-", 1)):
        with pytest.raises(BadControl):
            acks.take(("ann", "phone"), bad, EVERYONE, USER)
    assert acks._said == {}
