"""Clients that drop and resume all the time, each on any replica."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

import aiohttp
from websockets.exceptions import InvalidMessage

from demo.process import Process
from harness.v1 import EventSourceClient, V1Client
from harness.waiting import PATIENCE

COME_AGAIN = {1006, 1012, 4003, 4004, 4005}
"""Ends after which a client connects again. 1006: the process died, or is not there."""

LET_IN_SECONDS = 60.0 * PATIENCE
"""For a client that goes from replica to replica."""


def check_end(client: V1Client | EventSourceClient) -> None:
    """Raise AssertionError when it was ended in a way after which nobody comes again."""
    # A stream that ends is one to come back to; with another status it did not begin.
    is_well = client.status == 200 if isinstance(client, EventSourceClient) else client.close_code in COME_AGAIN
    assert is_well, f"{client}: {client.close_code} {client.close_reason}"


async def come_again(client: V1Client | EventSourceClient, replicas: Sequence[Process], chance: random.Random) -> None:
    """Resume on any of the replicas; while one cannot take it, on another."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LET_IN_SECONDS
    while True:
        replica = chance.choice(replicas)
        with contextlib.suppress(OSError, InvalidMessage, aiohttp.ClientError):  # it is not there, or just died
            await client.resume(replica.port, replica.name)
            if client.is_connected:
                return
            check_end(client)
        assert loop.time() < deadline, (
            f"{client} was let in nowhere for {LET_IN_SECONDS:g} s, at last: {client.close_code} {client.close_reason}"
        )
        await asyncio.sleep(chance.uniform(0.05, 0.3))


async def stay(client: V1Client | EventSourceClient, replicas: Sequence[Process], chance: random.Random) -> None:
    """Come again until it was replayed what it missed: before, a replica may find that it cannot, and end it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LET_IN_SECONDS
    while not client.has_come_to_the_present:
        if not client.is_connected:
            check_end(client)
            await come_again(client, replicas, chance)
        assert loop.time() < deadline, f"{client} was not replayed what it missed within {LET_IN_SECONDS:g} s"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def wandering(
    clients: Sequence[V1Client | EventSourceClient],
    replicas: Sequence[Process],
    *,
    every_seconds: float = 0.4,
    away_seconds: float = 0.1,
) -> AsyncIterator[None]:
    """While the block runs, each client drops about so often and comes again after about
    `away_seconds`; afterwards all are connected, and have come to the present."""
    over = asyncio.Event()

    async def wander(client: V1Client | EventSourceClient, chance: random.Random) -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), chance.uniform(0.2, 1.8) * every_seconds)
            await client.drop()
            await asyncio.sleep(chance.uniform(0, 2) * away_seconds)
            await come_again(client, replicas, chance)
        await stay(client, replicas, chance)

    tasks = [asyncio.create_task(wander(client, random.Random(number))) for number, client in enumerate(clients)]
    try:
        yield
        over.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
