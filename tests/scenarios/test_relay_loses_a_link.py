"""The relay's links break: to Redis, where nobody knows whether the last batch was written, and to
Kafka, where the group may go on without it."""

from harness.stage import Stage
from harness.waiting import eventually


async def test_a_cut_link_to_redis_loses_and_doubles_nothing(stage: Stage) -> None:
    proxy = await stage.redis_proxy()
    relay, gateway = stage.add_relay(redis=proxy), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users, per_second=400) as load:
        for _ in range(6):
            await load.more(100)
            await eventually(lambda: proxy.cut() > 0, "a link to be cut")
        proxy.refuse()
        await load.more(200)
        proxy.heal()
        await load.more(100)
        proxy.deaf()
        await load.more(200)
        proxy.heal()
        await load.more(100)
    await stage.exact()


async def test_a_cut_link_to_kafka_loses_and_doubles_nothing(stage: Stage) -> None:
    proxy = await stage.kafka_proxy()
    relay, gateway = stage.add_relay(kafka=proxy), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users) as load:
        for _ in range(3):
            await load.more(150)
            await eventually(lambda: proxy.cut() > 0, "a link to be cut")
        proxy.refuse()
        await load.more(200)
        proxy.heal()
        await load.more(100)
    await stage.exact()
    assert relay.is_running
