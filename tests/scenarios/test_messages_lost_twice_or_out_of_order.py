"""Live messages are lost, come twice, or behind the next one: each client gets each event once, in order."""

import random

from harness.mischief import mischievous_proxy
from harness.stage import Stage
from harness.v1 import EventSourceClient, V1Client, WebsocketsV1


async def test_what_is_lost_doubled_or_swapped_on_the_way_is_noticed_and_mended(stage: Stage) -> None:
    proxy, done = mischievous_proxy(stage.redis.port, random.Random(7))
    await stage.use_proxy(proxy)
    relay, gateway = stage.add_relay(), stage.add_gateway(redis=proxy)
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    for kind in (WebsocketsV1, EventSourceClient):
        await stage.connect(stage.users[0], gateway, kind)
    async with stage.load(stage.users) as load:
        await load.more(1_500)
    await stage.exact(seconds=60)
    assert min(done["lost"], done["doubled"], done["swapped"]) > 10, done
    assert not any(client.knowledge.said("resync") for client in stage.clients if isinstance(client, V1Client))


async def test_the_last_message_of_all_is_found_missing_in_silence(stage: Stage) -> None:
    proxy, done = mischievous_proxy(stage.redis.port, random.Random(7), share=1.0)
    await stage.use_proxy(proxy)
    relay, gateway = stage.add_relay(), stage.add_gateway(redis=proxy)
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    await stage.producer.publish_mixed(stage.users, 8)
    await stage.everything_arrived(seconds=90)
    assert done["lost"] >= 8
    assert done.keys() == {"lost"}
