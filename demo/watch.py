"""Watching clients: plain WebSockets on every replica, and the topics themselves to compare with."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
from aiokafka import AIOKafkaConsumer

from demo.oracle import Oracle
from shared.message import TYPE_OF_TOPIC

_CONNECT_SECONDS = 10.0
_POLL_MS = 200


class WatchFailed(Exception):
    """A watching client was refused or disconnected. Its text says which, and why."""


@contextlib.asynccontextmanager
async def watching(
    oracle: Oracle, *, brokers: str, replicas: Mapping[str, str], users: Sequence[str], tabs: int = 1
) -> AsyncIterator[asyncio.Task[None]]:
    """Connect each user `tabs` times to each replica (name to `ws://host:port`), read the four
    topics, and tell `oracle` of all that comes.

    Gives a task that runs until the block is left and raises WatchFailed, or aiokafka's error,
    when something can no longer be watched. Everything that is sent once the block runs is seen.
    """
    consumer = AIOKafkaConsumer(*TYPE_OF_TOPIC, bootstrap_servers=brokers, group_id=None, enable_auto_commit=False)
    timeout = aiohttp.ClientTimeout(total=_CONNECT_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        await _read_from_end(consumer)
        sockets = {}
        for replica, url in replicas.items():
            for user_id in users:
                for tab in range(tabs):
                    name = f"{user_id} on {replica}, tab {tab + 1}"
                    sockets[name] = await stack.enter_async_context(_connected(session, name, url, user_id))
                    oracle.joined(name, user_id)

        async def follow() -> None:
            tasks = [_records(consumer, oracle), *(_frames(oracle, name, ws) for name, ws in sockets.items())]
            await asyncio.gather(*tasks)

        following = asyncio.create_task(follow())
        try:
            yield following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@contextlib.asynccontextmanager
async def _connected(
    session: aiohttp.ClientSession, name: str, url: str, user_id: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    try:
        ws = await session.ws_connect(f"{url}/ws", params={"user_id": user_id}, max_msg_size=0)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise WatchFailed(f"{name} could not connect: {error or type(error).__name__}") from None
    try:
        yield ws
    finally:
        await ws.close()


async def _frames(oracle: Oracle, name: str, ws: aiohttp.ClientWebSocketResponse) -> None:
    while (message := await ws.receive()).type is aiohttp.WSMsgType.TEXT:
        oracle.arrived(name, message.data, time.time())
    raise WatchFailed(f"{name} was disconnected: {message.type.name}, close code {ws.close_code}, {message.extra!r}")


async def _read_from_end(consumer: AIOKafkaConsumer) -> None:
    # Left to itself the consumer looks for the ends when it first fetches, which is too late.
    partitions = consumer.assignment()
    if len({partition.topic for partition in partitions}) != len(TYPE_OF_TOPIC):
        raise WatchFailed(f"not all of {', '.join(TYPE_OF_TOPIC)} are there, only {sorted(partitions)}")
    for partition, end in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, end)


async def _records(consumer: AIOKafkaConsumer, oracle: Oracle) -> None:
    while True:
        batches = await consumer.getmany(timeout_ms=_POLL_MS)
        now = time.time()
        for partition, records in batches.items():
            for record in records:
                if record.value is not None:
                    oracle.produced(partition.topic, partition.partition, record.offset, record.value, now)
