"""Cut-offs in Redis, against a real server."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest
from harness.waiting import eventually

from demo.process import Process
from demo.valkey import redis_url
from gateway.authentication.revocations import DAY_SECONDS, Revocations
from shared.link import Link
from shared.links import Links
from shared.settings import RedisSettings


@pytest.fixture
def settings(valkey: Process) -> RedisSettings:
    return RedisSettings(_env_file=None, redis_url=redis_url(valkey), redis_prefix="unit")


@pytest.fixture
def links(settings: RedisSettings) -> Iterator[Links]:
    links = Links(settings, "unit-calls")
    yield links
    links.close()


async def known(redis: Link, settings: RedisSettings) -> dict[str, float]:
    entries = await redis.call("ZRANGE", settings.keys.revoked, 0, -1, "WITHSCORES", timeout_seconds=5)
    return {user_id.decode(): float(cutoff) for user_id, cutoff in entries}


async def test_whoever_revokes_takes_nothing_from_others(redis: Link, settings: RedisSettings, links: Links) -> None:
    """An operator's shell may not have the JWT_MAX_AGE_DAYS that the gateways have."""
    old = int(time.time()) - 40 * DAY_SECONDS
    await redis.call("ZADD", settings.keys.revoked, old, "ann", timeout_seconds=5)
    cutoff = await Revocations(settings, links, 30).revoke("bob")
    assert await known(redis, settings) == {"ann": old, "bob": cutoff}
    assert await redis.call("TTL", settings.keys.revoked, timeout_seconds=5) == -1


async def test_replicas_forget_those_that_no_token_is_old_enough_for(
    redis: Link, settings: RedisSettings, links: Links
) -> None:
    now = int(time.time())
    ages = {"ann": now - 40 * DAY_SECONDS, "bob": now - 29 * DAY_SECONDS}
    for user_id, cutoff in ages.items():
        await redis.call("ZADD", settings.keys.revoked, cutoff, user_id, timeout_seconds=5)
    revocations = Revocations(settings, links, 30)
    running = asyncio.create_task(revocations.run())
    try:
        await eventually(lambda: revocations.are_known, "the cut-offs to be read")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert await known(redis, settings) == {"bob": ages["bob"]}
    assert revocations.cutoffs.all() == {"bob": ages["bob"]}
