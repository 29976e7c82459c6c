"""The relay dies without a word, again and again, while events flow."""

from harness.stage import Stage


async def test_a_relay_killed_under_load_loses_doubles_and_reorders_nothing(stage: Stage) -> None:
    relay, replicas = await stage.start_relay_and_replicas(2)
    await stage.crowd(stage.users, replicas)
    async with stage.load(stage.users) as load:
        for _ in range(3):
            await load.more(150)
            await relay.kill()
            await load.more(50)  # what it could not see
            await relay.restart()
        await load.more(150)
    await stage.exact()


async def test_a_relay_that_is_stopped_properly_hands_over(stage: Stage) -> None:
    relay, replicas = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, replicas)
    async with stage.load(stage.users) as load:
        for _ in range(2):
            await load.more(150)
            assert await relay.terminate() == 0
            await load.more(50)
            await relay.restart()
        await load.more(150)
    await stage.exact()
