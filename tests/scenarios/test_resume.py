"""Clients that lose their connection all the time, on random replicas: nothing lost, nothing doubled.

RESUME_SECONDS=60 for the full minute; --log-cli-level=INFO for the figures.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence

import pytest
from harness.stage import Stage
from harness.v1 import AiohttpV1, EventSourceClient, V1Client, WebsocketsV1
from harness.wandering import wandering

from demo.proxy import Proxy, Pump

log = logging.getLogger(__name__)
SECONDS = float(os.environ.get("RESUME_SECONDS") or 12)
FAR_BYTES_PER_SECOND = 250_000
LATE_SECONDS = 0.3


def assert_recovered(clients: Sequence[V1Client]) -> None:
    """Each went on where it was, each time."""
    for client in clients:
        _, *later = client.knowledge.welcomes
        assert len(later) > 3, f"{client} resumed {len(later)} times"
        assert all(welcome["recovered"] for welcome in later), f"{client}: {later}"
        assert not client.knowledge.said("resync"), client


@pytest.mark.timeout(120 + 2 * SECONDS)
async def test_clients_that_drop_every_400_ms_lose_and_double_nothing(stage: Stage) -> None:
    relay, replicas = stage.add_relay(), [stage.add_gateway()]
    for name in ("gateway-2", "gateway-3"):
        # Far from Redis: events are published while a client's last ones are being read.
        proxy = await stage.redis_proxy()
        proxy.slow(FAR_BYTES_PER_SECOND)
        replicas.append(stage.add_gateway(name, redis=proxy))
    await stage.start(relay, *replicas)
    users = [*stage.users, f"{stage.users[0]}/2"]
    devices: list[V1Client] = []
    for number, user in enumerate(users):
        for kind in (WebsocketsV1, AiohttpV1):
            client = await stage.connect(user, replicas[number % 3], kind)
            assert isinstance(client, V1Client)
            devices.append(client)
    browser = await stage.connect(users[0], replicas[0], EventSourceClient)
    assert isinstance(browser, EventSourceClient)
    # `load` waits for each batch's acknowledgements besides: this comes to 300 events a second.
    async with stage.load(users, per_second=450) as load:
        async with wandering([*devices, browser], replicas):
            await asyncio.sleep(SECONDS)
        await load.more(100)
    await stage.exact()
    assert_recovered(devices)
    assert not browser.said("resync")
    resumes = sum(len(device.knowledge.welcomes) - 1 for device in devices)
    replayed = sum(welcome["replayed"] for device in devices for welcome in device.knowledge.welcomes)
    log.info("%s events, %s resumes of %s, %s replayed", load.published, resumes, len(devices), replayed)


class LateSubscription(Proxy):
    """What is published reaches a replica late; its other links are as quick as ever."""

    async def _pump(
        self, owner: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, take: Pump
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await take(reader):
                if b"SSUBSCRIBE" in data:
                    self.late.add(owner)
                elif owner in self.late:
                    await asyncio.sleep(LATE_SECONDS)
                writer.write(data)
                await writer.drain()

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        self.late: set[asyncio.Task[None]] = set()


async def test_a_replica_that_is_behind_where_a_client_was_gives_it_nothing_twice(stage: Stage) -> None:
    proxy = await LateSubscription(stage.redis.port).start()
    relay, quick = stage.add_relay(), stage.add_gateway("gateway-1")
    late = stage.add_gateway("gateway-2", redis=proxy)
    await stage.start(relay, quick, late)
    clients = [await stage.connect_v1(user, quick) for user in stage.users]
    browser = await stage.connect_events(stage.users[0], quick)
    async with stage.load(stage.users) as load:
        for _ in range(4):
            for replica in (late, quick):
                await load.more(60)
                for client in (*clients, browser):
                    await client.drop()
                await asyncio.gather(*(client.resume(replica.port, replica.name) for client in (*clients, browser)))
    await stage.exact()
    assert_recovered(clients)
    assert not browser.said("resync")
    await late.terminate()
    await proxy.aclose()
