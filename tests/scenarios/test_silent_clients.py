"""Clients that are gone without a word, or do not answer: their sockets do not stay."""

import asyncio

from harness.latency import open_files
from harness.stage import Stage
from harness.stubborn import VARIANTS, Stubborn
from harness.waiting import eventually

from demo.process import Process
from demo.proxy import Proxy

QUICK = {"PING_INTERVAL_SECONDS": "2", "PING_TIMEOUT_SECONDS": "5", "HEARTBEAT_SECONDS": "1"}
SOON_SECONDS = 20
"""For what takes a ping, its deadline and a close: a lot more than that, on a busy machine."""


async def steady_files(gateway: Process) -> int:
    """Open files once there are no more for a second: links for what clients cause are made with the first."""
    while True:
        files = open_files(gateway)
        await asyncio.sleep(1)
        if open_files(gateway) == files:
            return files


async def test_clients_that_never_answer_pings_are_closed_and_others_stay(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env=QUICK)
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    files = await steady_files(gateway)
    silent = [
        Stubborn(gateway.port, stage.users[0], gateway.name, variant, answers_pings=False).reads()
        for variant in ("plain", "v1")
    ]
    for client in silent:
        await client.open()
    for client in silent:
        await eventually(lambda: not client.is_connected, f"{client} to be closed", seconds=SOON_SECONDS)  # noqa: B023
        assert client.close_code == 1011
    # They answer the close frame no more than the pings.
    await eventually(lambda: open_files(gateway) <= files, "the sockets to be gone", seconds=SOON_SECONDS)
    for client in silent:
        await client.close()
    await stage.exact()


async def test_half_open_clients_are_gone_after_the_ping_timeout(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env=QUICK)
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    files = await steady_files(gateway)
    async with Proxy(gateway.port) as proxy:
        lost = [Stubborn(proxy.port, stage.users[0], gateway.name, variant).reads() for variant in ("plain", "v1")]
        for client in lost:
            await client.open()
        await stage.producer.publish_fence(stage.users)
        await stage.everything_arrived(lost)
        # Neither FIN nor RST: what the gateway writes is taken, and nobody ever gets it.
        proxy.deaf()
        assert open_files(gateway) >= files + len(lost)
        await eventually(lambda: open_files(gateway) <= files, "the sockets to be gone", seconds=SOON_SECONDS)
        for client in lost:
            await client.close()
    await stage.exact()


async def test_clients_that_hang_up_are_gone_at_once(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    files, connections = await steady_files(gateway), len(stage.clients)
    rude = [Stubborn(gateway.port, stage.users[0], gateway.name, variant).reads() for variant in VARIANTS]
    for client in rude:
        await client.open()
    assert open_files(gateway) >= files + len(rude)
    for client in rude:
        client.vanish()

    async def are_gone() -> bool:
        _, health = await stage.get(gateway, "/health")
        return bool(health["connections"] == connections and open_files(gateway) <= files)

    # Long before any ping: nobody was asked.
    await eventually(are_gone, "the clients to be gone", seconds=5)
    for client in rude:
        await client.close()
    await stage.exact()
