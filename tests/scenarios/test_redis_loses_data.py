"""Redis dies under load and comes back with less than it had: a new epoch begins, what is lost is
published again from Kafka, and whoever stayed connected gets what was missed and nothing twice."""

import pytest
from harness.stage import Stage


@pytest.mark.parametrize("comes_back", ["empty", "with an older snapshot"])
async def test_connected_clients_get_what_they_missed_and_nothing_twice(stage: Stage, comes_back: str) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    await stage.crowd(stage.users, replicas)
    async with stage.load(stage.users) as load:
        await load.more(200)
        if comes_back != "empty":
            stage.redis_control.save_snapshot()
        await load.more(200)
        await stage.redis.kill()
        if comes_back != "empty":
            stage.redis_control.put_snapshot_back()
        await load.more(100)
        await stage.redis.restart()
        await load.more(200)
    await stage.exact()


async def test_twice_in_a_row_and_the_relay_with_it(stage: Stage) -> None:
    relay, replicas = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, replicas)
    async with stage.load(stage.users) as load:
        await load.more(200)
        await stage.redis.restart()
        await load.more(20)
        await relay.kill()
        await stage.redis.restart()
        await relay.restart()
        await load.more(200)
    await stage.exact()


async def test_all_of_it_in_the_first_moment(stage: Stage) -> None:
    """Where the very first start began is known to Kafka, too, before the relay says that it is ready."""
    _, replicas = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, replicas)
    await stage.redis.kill()
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.redis.restart()
    await stage.exact()
