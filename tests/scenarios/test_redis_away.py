"""Redis keeps what it has, but takes no part for a while: it is frozen, or its memory is full."""

import asyncio
import signal

from harness.stage import GROUP_SECONDS, Stage
from harness.waiting import eventually

from demo.process import Process


async def redis_is_up(stage: Stage, relay: Process) -> bool:
    """What the relay's metric says."""
    return await stage.metric(relay, "redis_up") == 1


async def is_down(stage: Stage, relay: Process) -> bool:
    """The relay's metric and its /health say that Redis is not usable."""
    health = (await stage.get(relay, "/health"))[1]
    return not await redis_is_up(stage, relay) and health["status"] == "degraded"


async def test_a_redis_that_froze_for_a_while_costs_nothing_but_time(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users) as load:
        await load.more(100)
        stage.redis.signal(signal.SIGSTOP)
        await eventually(lambda: is_down(stage, relay), "the relay sees it")
        await load.more(200)
        stage.redis.signal(signal.SIGCONT)
        await load.more(100)
    await stage.exact()
    await eventually(lambda: redis_is_up(stage, relay), "the relay sees it again")


async def test_a_redis_without_memory_stalls_the_relay_and_loses_nothing(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users) as load:
        await load.more(100)
        stage.redis_control.leave_memory(200_000)
        await eventually(lambda: is_down(stage, relay), "the relay stalls and says so", seconds=60)
        assert "OOM" in relay.log()
        await load.more(200)
        assert relay.is_running
        stage.redis_control.leave_memory(None)
        await load.more(100)
    await stage.exact()


async def test_partitions_change_hands_while_redis_is_away(stage: Stage) -> None:
    stage.needs_groups_of_several()
    first, second, gateway = stage.add_relay("relay-1"), stage.add_relay("relay-2"), stage.add_gateway()
    await stage.start(first, gateway)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users, per_second=150) as load:
        await load.more(100)
        await stage.start(second, seconds=GROUP_SECONDS)
        await load.more(100)
        stage.redis.signal(signal.SIGSTOP)
        await eventually(lambda: is_down(stage, second), "the second relay sees it")
        had = second.log().count("partitions_assigned")
        await first.kill()
        await eventually(
            lambda: second.log().count("partitions_assigned") > had, "all partitions are its own", seconds=GROUP_SECONDS
        )
        await asyncio.sleep(1)
        stage.redis.signal(signal.SIGCONT)
        await load.more(100)
    await stage.exact(seconds=GROUP_SECONDS)
