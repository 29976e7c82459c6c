"""Redis loses what it had, under load, while clients of every kind are connected and others drop and
resume. Who stays gets each event once. Who resumes goes on, or is told to resync and has, once it
drops what it knows, everything once."""

import pytest
from harness.clients import Client, WebsocketsClient
from harness.stage import Stage
from harness.v1 import AiohttpV1, EventSourceClient, V1Client, WebsocketsV1
from harness.wandering import wandering

from demo.process import Process

REASONS = {"unknown_epoch", "unknown_cursor", "trimmed", "gap"}
# What earlier tests published on a shared broker is rebuilt, too, and must not trim what is ours.
HISTORY = {"HISTORY_MESSAGES_GLOBAL": "200000", "HISTORY_MESSAGES_USER": "10000"}


async def started(stage: Stage) -> tuple[Process, list[Process]]:
    relay, replicas = stage.add_relay(env=HISTORY), [stage.add_gateway(f"gateway-{number}") for number in (1, 2)]
    await stage.start(relay, *replicas)
    await stage.starts_are_committed()
    return relay, replicas


@pytest.mark.parametrize("comes_back", ["empty", "with an older snapshot"])
async def test_everything_once_for_those_who_stay_and_for_those_who_resume(stage: Stage, comes_back: str) -> None:
    _, replicas = await started(stage)
    kinds: tuple[type[Client], ...] = (WebsocketsClient, WebsocketsV1, EventSourceClient)
    for number, kind in enumerate(kinds * 2):
        await stage.connect(stage.users[number % 2], replicas[number % 3 % 2], kind)
    staying = list(stage.clients)
    wanderers: list[V1Client] = []
    streams: list[EventSourceClient] = []
    for number, kind in enumerate((WebsocketsV1, AiohttpV1, WebsocketsV1, EventSourceClient, EventSourceClient)):
        client = await stage.connect(stage.users[number % 2], replicas[number % 2], kind)
        if isinstance(client, EventSourceClient):
            streams.append(client)
        else:
            assert isinstance(client, V1Client)
            wanderers.append(client)
    async with stage.load(stage.users) as load, wandering([*wanderers, *streams], replicas):
        await load.more(200)
        if comes_back != "empty":
            stage.redis_control.save_snapshot()
        await load.more(200)
        await stage.redis.kill()
        if comes_back != "empty":
            stage.redis_control.put_snapshot_back()
        await load.more(100)
        await stage.redis.restart()
        await load.more(300)
    await stage.exact()
    for client in staying:
        if isinstance(client, V1Client):
            assert len(client.knowledge.welcomes) == 1
            assert not client.knowledge.said("resync")
        if isinstance(client, EventSourceClient):
            assert not client.controls
    for client in wanderers:
        told = {one["reason"] for one in client.knowledge.said("resync")}
        assert told <= REASONS
        fresh = [welcome for welcome in client.knowledge.welcomes[1:] if not welcome["recovered"]]
        assert len(fresh) <= len(client.knowledge.said("resync"))
        if comes_back == "empty":
            assert told, f"{client} went on in a Redis that knows nothing of it"
        # Once all is settled it goes on as if nothing had been.
        await client.told("heartbeat")
    for stream in streams:
        told = {one["reason"] for one in stream.said("resync")}
        assert told <= REASONS
        if comes_back == "empty":
            assert told, f"{stream} went on in a Redis that knows nothing of it"
    async with stage.load(stage.users) as load, wandering(wanderers, replicas):
        before = [len(client.knowledge.welcomes) for client in wanderers]
        await load.more(200)
    await stage.exact()
    for client, count in zip(wanderers, before, strict=True):
        assert all(welcome["recovered"] for welcome in client.knowledge.welcomes[count:]), client


async def test_nobody_resumes_into_a_redis_that_is_still_to_be_filled(stage: Stage) -> None:
    """Redis comes back empty while the relay is away: a client that got in now would be seated behind
    what others have had and it has not, which is published again only later."""
    relay, replicas = await started(stage)
    for user in stage.users:
        await stage.connect(user, replicas[0], WebsocketsClient)
        await stage.connect(user, replicas[1], EventSourceClient)
    wanderers = [await stage.connect_v1(user, replica) for user in stage.users for replica in replicas]
    async with stage.load(stage.users) as load, wandering(wanderers, replicas):
        await load.more(200)
        await relay.kill()
        await stage.redis.restart()
        await load.more(600)  # a few seconds, longer than a resuming client is kept waiting
        await relay.restart()
        await load.more(200)
    await stage.exact()
