"""Watching clients on every replica, and the topics themselves to compare with."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import aiohttp
from aiokafka import AIOKafkaConsumer

from demo.oracle import Oracle
from demo.watcher import Watcher, WatchFailed
from shared.message import TYPE_OF_TOPIC

_CONNECT_SECONDS = 10.0
_POLL_MS = 200


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
    watchers = list(_watchers(oracle, replicas, users, tabs))
    async with contextlib.AsyncExitStack() as stack:
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)))
        await _read_from_end(consumer)

        async def follow() -> None:
            await asyncio.gather(_records(consumer, oracle), *(watcher.run(session) for watcher in watchers))

        following = asyncio.create_task(follow())
        try:
            await _all_connected(watchers, following)
            yield following
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _watchers(oracle: Oracle, replicas: Mapping[str, str], users: Sequence[str], tabs: int) -> Iterator[Watcher]:
    urls = list(replicas.values())
    for place, replica in enumerate(replicas):
        for user_id in users:
            for tab in range(tabs):
                name = f"{user_id} on {replica}, tab {tab + 1}"
                oracle.joined(name, user_id)
                yield Watcher(name, user_id, urls[place:] + urls[:place], functools.partial(_arrived, oracle, name))


def _arrived(oracle: Oracle, name: str, frame: str) -> None:
    oracle.arrived(name, frame, time.time())


async def _all_connected(watchers: Sequence[Watcher], following: asyncio.Task[None]) -> None:
    """Raises WatchFailed when some are not in time, or what `following` failed with."""
    connecting = asyncio.gather(*(watcher.is_connected.wait() for watcher in watchers))
    await asyncio.wait((connecting, following), timeout=_CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if connecting.done():
        return
    connecting.cancel()
    if following.done():
        following.result()
    waiting = [watcher.name for watcher in watchers if not watcher.is_connected.is_set()]
    raise WatchFailed(f"{', '.join(waiting)} could not connect within {_CONNECT_SECONDS:g} s")


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
