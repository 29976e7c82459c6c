"""The relay dies under load while clients drop and resume, and is away for a while."""

from harness.stage import Stage
from harness.v1 import AiohttpV1, EventSourceClient, V1Client, WebsocketsV1
from harness.waiting import eventually
from harness.wandering import wandering


async def test_a_relay_killed_under_load_costs_resuming_clients_nothing(stage: Stage) -> None:
    relay, replicas = await stage.start_relay_and_replicas(2)
    await stage.crowd(stage.users, replicas[:1])
    clients = [
        await stage.connect(user, replicas[0], kind) for user in stage.users for kind in (WebsocketsV1, AiohttpV1)
    ]
    wanderers = [client for client in clients if isinstance(client, V1Client)]
    browser = await stage.connect(stage.users[0], replicas[1], EventSourceClient)
    assert isinstance(browser, EventSourceClient)
    async with stage.load(stage.users) as load, wandering([*wanderers, browser], replicas):
        for _ in range(2):
            await load.more(150)
            await relay.kill()
            await load.more(50)
            await relay.restart()
        await load.more(150)
    await stage.exact()
    assert not browser.said("resync")
    for client in wanderers:
        assert all(welcome["recovered"] for welcome in client.knowledge.welcomes[1:]), client
        assert not client.knowledge.said("resync")


async def test_without_a_relay_clients_are_accepted_and_resume(stage: Stage) -> None:
    relay, replicas = await stage.start_relay_and_replicas(2)
    ann, bob = stage.users
    first = await stage.connect(ann, replicas[0], WebsocketsV1)
    browser = await stage.connect(ann, replicas[0], EventSourceClient)
    assert isinstance(first, WebsocketsV1)
    assert isinstance(browser, EventSourceClient)
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.everything_arrived()
    await relay.kill()

    async def is_degraded() -> bool:
        status, health = await stage.get(replicas[1], "/health")
        return bool(status == 200 and health["status"] == "degraded")

    await eventually(is_degraded, "/health to say that the relay is away")
    await stage.producer.publish_mixed(stage.users, 40)  # nobody can have these yet
    assert (await stage.get(replicas[1], "/readyz"))[0] == 200
    assert (await stage.get(replicas[1], f"/position?user_id={ann}"))[0] == 200
    await stage.crowd(stage.users, [replicas[1]])
    newcomer = await stage.connect(bob, replicas[1], WebsocketsV1)
    assert isinstance(newcomer, WebsocketsV1)
    for client in (first, browser):
        await client.drop()
        await client.resume(replicas[1].port, replicas[1].name)
    assert first.welcome["recovered"]
    assert browser.status == 200
    await relay.restart()
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact()
    assert not browser.said("resync")
