"""A replica is told to go."""

import signal

from harness.stage import Stage
from harness.waiting import eventually


async def test_sigterm_drains(stage: Stage) -> None:
    relay, stays = stage.add_relay(), stage.add_gateway("gateway-stays")
    goes = stage.add_gateway("gateway-goes", env={"DRAIN_DELAY_SECONDS": "8", "DRAIN_SECONDS": "2"})
    await stage.start(relay, stays, goes)
    staying, leaving = await stage.crowd(stage.users, [stays]), await stage.crowd(stage.users, [goes])
    async with stage.load(stage.users) as load:
        await load.more(100)
        goes.expected_to_run = False
        goes.signal(signal.SIGTERM)

        async def is_draining() -> bool:
            return (await stage.get(goes, "/readyz"))[0] == 503

        # At once not ready, yet it takes clients until the load balancer has learnt of it.
        await eventually(is_draining, "not ready while draining")
        leaving.append(await stage.connect("cem", goes))
        assert await goes.wait(30) == 0
        await load.more(100)
    await eventually(lambda: not any(client.is_connected for client in leaving), "all its clients to see its end")
    for client in leaving:
        assert client.close_code == 1012, f"{client}: {client.close_code}"
        stage.oracle.check(str(client), client.user, client.frames, since=client.since, complete=False)
    await stage.exact(staying)


async def test_a_second_sigterm_ends_it_at_once(stage: Stage) -> None:
    gateway = stage.add_gateway(env={"DRAIN_DELAY_SECONDS": "300", "DRAIN_SECONDS": "300"})
    await stage.start(gateway)
    client = await stage.connect("ann", gateway)
    gateway.expected_to_run = False
    gateway.signal(signal.SIGTERM)

    async def is_draining() -> bool:
        return (await stage.get(gateway, "/readyz"))[0] == 503

    await eventually(is_draining, "not ready while draining")
    assert client.is_connected
    gateway.signal(signal.SIGTERM)
    assert await gateway.wait(20) == 0
    await eventually(lambda: not client.is_connected, "the client to see its end")
    assert client.close_code == 1012
