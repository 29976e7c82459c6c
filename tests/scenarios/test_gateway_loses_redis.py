"""A replica's link to Redis breaks in every way; its clients do not notice."""

import pytest
from harness.mischief import voiceless_proxy
from harness.stage import Load, Stage
from harness.waiting import eventually

from demo.proxy import Proxy


async def cut(stage: Stage, proxy: Proxy, load: Load) -> None:
    await eventually(lambda: proxy.cut() > 0, "a link to be cut")


async def killed(stage: Stage, proxy: Proxy, load: Load) -> None:
    await eventually(lambda: stage.redis_control.kill_clients() > 0, "links to be killed")


async def refused_for_a_while(stage: Stage, proxy: Proxy, load: Load) -> None:
    proxy.refuse()
    await load.more(200)
    proxy.heal()


async def deaf_for_a_while(stage: Stage, proxy: Proxy, load: Load) -> None:
    connections = proxy.open_connections
    proxy.deaf()
    before = proxy.accepted
    # No reset tells the replica: it must find out by itself and come again.
    await eventually(lambda: proxy.accepted >= before + connections, "a new link after a deaf one")
    await load.more(50)
    proxy.heal()


async def slow_for_a_while(stage: Stage, proxy: Proxy, load: Load) -> None:
    proxy.slow(50_000)
    await load.more(200)
    proxy.heal()


@pytest.mark.parametrize(
    ("fault", "times"), [(cut, 5), (killed, 5), (refused_for_a_while, 2), (deaf_for_a_while, 1), (slow_for_a_while, 1)]
)
async def test_a_broken_link_disconnects_nobody_and_loses_and_doubles_nothing(stage, fault, times) -> None:  # type: ignore[no-untyped-def]
    proxy = await stage.redis_proxy()
    relay, gateway = stage.add_relay(), stage.add_gateway("gateway-1", redis=proxy)
    untouched = stage.add_gateway("gateway-2")
    await stage.start(relay, gateway, untouched)
    await stage.crowd(stage.users, [gateway, untouched])
    async with stage.load(stage.users) as load:
        for _ in range(times):
            await load.more(100)
            await fault(stage, proxy, load)
        await load.more(100)
    await stage.exact()


async def test_what_came_while_the_link_was_away_is_pushed_though_nothing_follows(stage: Stage) -> None:
    proxy = await stage.redis_proxy()
    relay, gateway = stage.add_relay(), stage.add_gateway("gateway-1", redis=proxy)
    untouched = stage.add_gateway("gateway-2")
    await stage.start(relay, gateway, untouched)
    await stage.crowd(stage.users, [gateway])
    witnesses = await stage.crowd(stage.users, [untouched])
    await stage.producer.publish_mixed(stage.users, 8)
    await stage.everything_arrived()
    proxy.refuse()
    await stage.producer.publish_mixed(stage.users, 8)
    await stage.everything_arrived(witnesses)  # it is all published: no live message will tell of it
    proxy.heal()
    await stage.everything_arrived()
    await stage.exact()


async def test_a_link_that_answers_and_carries_no_messages_is_found_deaf(stage: Stage) -> None:
    """Comparing streams would mend what is lost one by one, much later, and nobody would know."""
    proxy, silence = voiceless_proxy(stage.redis.port)
    await stage.use_proxy(proxy)
    relay, gateway = stage.add_relay(), stage.add_gateway(redis=proxy)
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])

    async def is_ready() -> bool:
        status, answer = await stage.get(gateway, "/readyz")
        assert status == 200 or answer["reason"].startswith("deaf")
        return bool(status == 200)

    async def is_deaf() -> bool:
        return not await is_ready()

    async with stage.load(stage.users) as load:
        await load.more(100)
        silence.set()
        await eventually(is_deaf, "the replica to say that it is deaf")
        await load.more(100)
        silence.clear()
        await eventually(is_ready, "the replica to hear again")
        await load.more(100)
    await stage.exact()
