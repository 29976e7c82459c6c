"""What processes say of themselves, on a real server."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from demo.process import Process
from demo.valkey import redis_url
from shared.errors import RedisUnavailable
from shared.keys import Keys
from shared.link import Link
from shared.links import Links
from shared.settings import RedisSettings
from shared.statuses import KEEP_SECONDS, Statuses, process_name

KEYS = Keys("unit", 2)


@pytest.fixture
async def statuses(valkey: Process, redis: Link) -> AsyncIterator[Statuses]:
    settings = RedisSettings(_env_file=None, redis_url=redis_url(valkey), redis_prefix="unit", redis_user_buckets=2)
    links = Links(settings, "unit")
    yield Statuses(settings, links)
    links.close()


async def call(redis: Link, *command: str | int) -> Any:
    return await redis.call(*command, timeout_seconds=5)


async def test_the_last_word_of_each_process_is_read(statuses: Statuses) -> None:
    assert await statuses.read() == []
    await statuses.tell("b-1", {"kind": "relay", "n": 1})
    await statuses.tell("a-1", {"kind": "gateway", "n": 2})
    await statuses.tell("b-1", {"kind": "relay", "n": 3})
    told = await statuses.read()
    assert [(one.process, one.status) for one in told] == [
        ("a-1", {"kind": "gateway", "n": 2}),
        ("b-1", {"kind": "relay", "n": 3}),
    ]
    assert all(0 <= one.seen_ms_ago < 60_000 for one in told)


async def test_how_long_ago_is_by_the_clock_of_redis(statuses: Statuses, redis: Link) -> None:
    await statuses.tell("a-1", {})
    await call(redis, "ZINCRBY", KEYS.statuses, -30_000, "a-1")
    (told,) = await statuses.read()
    assert 30_000 <= told.seen_ms_ago < 60_000


async def test_a_process_that_says_nothing_more_is_forgotten(statuses: Statuses, redis: Link) -> None:
    await statuses.tell("dead-1", {})
    assert 0 < await call(redis, "PTTL", KEYS.status("dead-1")) <= 1_000 * KEEP_SECONDS
    assert 0 < await call(redis, "PTTL", KEYS.statuses) <= 1_000 * KEEP_SECONDS
    await call(redis, "ZINCRBY", KEYS.statuses, -1_000 * KEEP_SECONDS - 1, "dead-1")
    await statuses.tell("alive-1", {})
    assert await call(redis, "ZRANGE", KEYS.statuses, 0, -1) == [b"alive-1"]


async def test_one_that_has_left_is_seen_no_more(statuses: Statuses) -> None:
    await statuses.tell("a-1", {})
    await statuses.leave("a-1")
    assert await statuses.read() == []


@pytest.mark.parametrize("said", ["", "{", "[]", "1", "[" * 100_000, "\xff"])
async def test_what_is_no_status_is_passed_over(statuses: Statuses, redis: Link, said: str) -> None:
    await statuses.tell("good-1", {"n": 1})
    await statuses.tell("bad-1", {})
    await call(redis, "SET", KEYS.status("bad-1"), said)
    assert [one.process for one in await statuses.read()] == ["good-1"]


async def test_a_status_that_expired_between_is_passed_over(statuses: Statuses, redis: Link) -> None:
    await statuses.tell("a-1", {})
    await call(redis, "DEL", KEYS.status("a-1"))
    assert await statuses.read() == []


async def test_what_fails_is_said_once_and_told_again(
    statuses: Statuses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shared.statuses.TELL_SECONDS", 0)
    outcomes = [RedisUnavailable("away")] * 3 + [None]
    told = asyncio.Event()

    async def tell(process: str, status: object) -> None:
        if outcomes and (error := outcomes.pop(0)) is not None:
            raise error
        told.set()

    monkeypatch.setattr(statuses, "tell", tell)
    with caplog.at_level(logging.WARNING):
        running = asyncio.create_task(statuses.run("a-1", dict))
        await asyncio.wait_for(told.wait(), 10)
    running.cancel()
    assert outcomes == []


def test_a_process_has_another_name_with_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "pod 1_x\n" + "y" * 100)
    first, second = process_name(), process_name()
    assert first != second
    assert first.startswith("pod-1-x-yyy")
    assert len(first) <= 63 + 7
    assert first.split() == [first]
