"""A Sentinel replaces the primary, under load: nothing is lost, nothing comes twice."""

import signal

from harness.stage import Stage
from harness.topologies import WatchedRedis, is_synced, stop_following
from harness.waiting import eventually


async def crowded(stage: Stage) -> WatchedRedis:
    watched = await stage.use_sentinel()
    _, replicas = await stage.start_relay_and_replicas(2)
    await stage.crowd(stage.users, replicas)
    return watched


async def test_a_promotion_there_and_back(stage: Stage) -> None:
    watched = await crowded(stage)
    first = watched.primary
    async with stage.load(stage.users) as load:
        for _ in range(3):  # once more: at the end it must not be as at the beginning
            await load.more(200)
            await watched.fail_over()
        assert watched.primary is not first
        await load.more(200)
    await stage.exact()


async def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(stage: Stage) -> None:
    watched = await crowded(stage)
    first = watched.primary
    async with stage.load(stage.users) as load:
        await load.more(200)
        await first.kill()
        await watched.is_replaced(first)
        await load.more(200)
        await first.restart()  # empty, and it takes itself for a primary until it is told
        await eventually(lambda: is_synced(first), "the former primary to follow", seconds=60)
        await load.more(200)
    await stage.exact()


async def test_a_promoted_replica_lacks_the_tail(stage: Stage) -> None:
    """What it lacks is published again; who had it already does not get it twice."""
    watched = await crowded(stage)
    first, second = watched.servers
    async with stage.load(stage.users) as load:
        await load.more(200)
        await stop_following(second, first)
        await load.more(100)
    await stage.everything_arrived()
    await first.kill()
    await watched.is_replaced(first)
    async with stage.load(stage.users) as load:
        await load.more(200)
    await stage.exact()


async def test_a_primary_that_hangs_is_replaced_and_wakes_up_as_one(stage: Stage) -> None:
    """It takes itself for the primary until the Sentinel tells it that it is not."""
    watched = await crowded(stage)
    first = watched.primary
    async with stage.load(stage.users) as load:
        await load.more(200)
        first.signal(signal.SIGSTOP)
        await watched.is_replaced(first)
        await load.more(100)
        first.signal(signal.SIGCONT)
        await load.more(100)
        await eventually(lambda: is_synced(first), "the former primary to follow", seconds=60)
        await load.more(200)
    await stage.exact()
