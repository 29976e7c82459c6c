"""Redis does not answer for a while: who is connected stays, who comes is told to come again."""

import signal

import aiohttp
from harness.clients import AiohttpClient, WebsocketsClient
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.v1 import EventSourceClient, WebsocketsV1
from harness.waiting import eventually

from demo.process import Process


async def knows_that_redis_is_away(stage: Stage, gateway: Process) -> None:
    async def refuses() -> bool:
        return await stage.status_of_a_handshake(gateway, "nobody") == 503

    await eventually(refuses, "the replica to refuse new clients")


async def test_connected_clients_stay_and_new_ones_are_told_to_come_again(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={"HEARTBEAT_SECONDS": "1"})
    await stage.start(relay, gateway)
    ann, bob = stage.users
    for user in stage.users:
        await stage.connect(user, gateway, WebsocketsClient)
        await stage.connect(user, gateway, AiohttpClient)
        await stage.connect(user, gateway, EventSourceClient)
    client = await stage.connect(ann, gateway, WebsocketsV1)
    assert isinstance(client, WebsocketsV1)

    def is_proven() -> bool:
        told = client.knowledge.said("heartbeat")
        return bool(told) and {"global", "user"} <= told[-1].keys()

    async with stage.load(stage.users) as load:
        await load.more(100)
        await eventually(is_proven, "a heartbeat to be proven")
        stage.redis.signal(signal.SIGSTOP)
        await knows_that_redis_is_away(stage, gateway)

        # Plain: a status, and when to come again.
        raw = await RawSocket.connect(gateway.port)
        answer = await raw.request(f"/ws?user_id={bob}", UPGRADE)
        await raw.close()
        assert (answer.status, answer.json["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        # notify.v1: browsers hide a status, so it is accepted and closed.
        refused = WebsocketsV1(gateway.port, bob, gateway.name)
        await refused.open()
        assert await refused.ended() == 4004
        reason, _, milliseconds = refused.close_reason.partition(" retry_after_ms=")
        assert reason == "unavailable"
        assert int(milliseconds) > 0
        assert not refused.knowledge.controls
        await refused.close()
        # EventSource would give up on any status but 200.
        browser = EventSourceClient(gateway.port, bob, gateway.name)
        await browser.open()
        await browser.ended()
        assert browser.status == 200
        assert (browser.stream.retry_ms or 0) > 0
        assert [(one["control"], one["code"]) for one in browser.refusals] == [("error", "unavailable")]
        await browser.close()
        # A page that is being rendered.
        assert (await stage.get(gateway, f"/position?user_id={ann}"))[0] == 503
        # A load balancer must not take all replicas out for this.
        assert (await stage.get(gateway, "/readyz"))[0] == 200

        # Nothing can be proven, and that is said.
        beats = len(client.knowledge.said("heartbeat"))
        unproven = await client.told("heartbeat", beats + 1)
        assert "global" not in unproven
        assert "user" not in unproven
        comments = len(stage.clients[2].stream.comments)  # type: ignore[attr-defined]
        await eventually(
            lambda: len(stage.clients[2].stream.comments) > comments,  # type: ignore[attr-defined]
            "event streams to be kept awake",
        )

        stage.redis.signal(signal.SIGCONT)
        await load.more(100)
    await eventually(is_proven, "heartbeats to be proven again")
    await stage.exact()
    assert len(client.knowledge.welcomes) == 1
    assert not client.knowledge.said("resync")


async def test_a_heartbeat_that_is_proven_says_exactly_what_was_sent(stage: Stage) -> None:
    """In silence the tops stay where the last events were, and a client that resumes there misses nothing."""
    relay = stage.add_relay()
    replicas = [stage.add_gateway(f"gateway-{number}", env={"HEARTBEAT_SECONDS": "1"}) for number in (1, 2)]
    await stage.start(relay, *replicas)
    client = await stage.connect(stage.users[0], replicas[0], WebsocketsV1)
    assert isinstance(client, WebsocketsV1)
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.everything_arrived()
    last = dict(client.knowledge.cursor)
    since = len(client.knowledge.said("heartbeat")) + 1
    await eventually(lambda: any("user" in one for one in client.knowledge.said("heartbeat")[since:]), "a proven one")
    beat = next(one for one in reversed(client.knowledge.said("heartbeat")) if "user" in one)
    for stream, place in last.items():
        assert beat[stream] == {"epoch": place.epoch, "seq": place.seq}
    await client.drop()
    await stage.producer.publish_mixed(stage.users, 40)
    await client.resume(replicas[1].port, replicas[1].name)
    assert client.welcome["recovered"]
    await stage.exact()


async def test_what_is_not_http_200_ends_an_event_source(stage: Stage) -> None:
    """Bad requests are not to be tried again: these get their status."""
    gateway = stage.add_gateway()
    await stage.start(gateway)
    async with aiohttp.ClientSession() as session:
        for query in ("", "?user_id=", "?user_id=ann&types=nonsense", "?user_id=ann&cursor=garbage"):
            async with session.get(f"http://127.0.0.1:{gateway.port}/events{query}") as response:
                assert response.status == 400, query
                assert (await response.json())["message"]
