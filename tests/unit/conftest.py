"""Fixtures of the unit tests: what hypothesis may do, and a real server of the Redis protocol."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url
from shared.link import Link, RedisAddress

# Other tests run beside: no example has a time limit of its own. Nothing is kept between runs.
settings.register_profile("unit", deadline=None, database=None)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def valkey() -> Iterator[Process]:
    """A real server, one for all tests of a worker."""
    processes = Processes()
    try:
        server = add_valkey(processes)
        asyncio.run(server.start().wait_until_ready())
        yield server
    finally:
        processes.close()


@pytest.fixture
async def redis(valkey: Process) -> AsyncIterator[Link]:
    """A link to the real server, which is empty and has its own settings."""
    link = await Link.connect(RedisAddress.from_url(redis_url(valkey)), name="test", timeout_seconds=5)
    await link.call("FLUSHALL", timeout_seconds=5)
    yield link
    link.close()


@pytest.fixture(scope="module", params=["valkey", "redis-server"])
def each_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server of each kind, for what depends on it: scripts."""
    binary = None if request.param == "valkey" else shutil.which(request.param)
    if request.param != "valkey" and binary is None:
        pytest.skip("no redis-server on this machine")
    processes = Processes()
    try:
        server = add_valkey(processes, binary=binary).start()
        asyncio.run(server.wait_until_ready())
        yield server.port
    finally:
        processes.close()


@pytest.fixture
def redis_address(valkey: Process) -> RedisAddress:
    return RedisAddress.from_url(redis_url(valkey))
