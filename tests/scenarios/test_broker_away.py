"""Redpanda restarts, or is dead for a while. Each test has an Apache Kafka of its own."""

import asyncio

import pytest
from harness.stage import Stage
from harness.waiting import eventually

from demo.process import Process


async def is_degraded(stage: Stage, relay: Process) -> bool:
    """What /health of the relay says; it answers in any case."""
    status, health = await stage.get(relay, "/health")
    assert status == 200
    return bool(health["status"] == "degraded")


async def supervise(relay: Process, ends: list[int]) -> None:
    """Start the relay again whenever it ends by itself, and keep with which code."""
    relay.expected_to_run = False
    while True:
        if (code := relay.returncode) is not None:
            ends.append(code)
            relay.start()
            relay.expected_to_run = False
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("away_seconds", [0, 45])
async def test_a_broker_that_comes_back_with_its_data_goes_on_being_read(
    own_broker_stage: Stage, own_broker: Process, away_seconds: int
) -> None:
    stage = own_broker_stage
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    ends: list[int] = []
    supervising = asyncio.create_task(supervise(relay, ends))
    try:
        async with stage.load(stage.users) as load:
            await load.more(200)
        await own_broker.kill()
        await eventually(lambda: is_degraded(stage, relay), "/health degraded")
        await asyncio.sleep(away_seconds)
        await own_broker.start().wait_until_ready()
        async with stage.load(stage.users) as load:
            await load.more(200)
        await stage.exact(seconds=120)
    finally:
        supervising.cancel()
    assert all(code == 1 for code in ends), f"a relay that gives up says so with 1, got {ends}"

    async def is_healthy() -> bool:
        return not await is_degraded(stage, relay)

    await eventually(is_healthy, "/health healthy again")
