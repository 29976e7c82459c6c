"""The log is shorter than what was missed: that is said, never silent, and the rest is exact."""

from harness.clients import Client, WebsocketsClient
from harness.stage import Stage
from harness.v1 import V1Client
from harness.waiting import eventually

HISTORY = {"HISTORY_MESSAGES_USER": "20"}


def of_user(client: V1Client) -> list[tuple[int, int]]:
    """Seq and offset of each event of its user's stream."""
    return [(event.place.seq, event.offset) for event in client.knowledge.events if event.stream == "user"]


def is_broadcast(frame: bytes) -> bool:
    return frame.startswith((b'{"type":"regime_change"', b'{"type":"market_alert"'))


def is_end_of(part: list[tuple[int, int]], whole: list[tuple[int, int]]) -> bool:
    return 0 < len(part) < len(whole) and whole[-len(part) :] == part


async def test_a_client_that_was_away_for_too_long_is_told_what_is_trimmed(stage: Stage) -> None:
    relay = stage.add_relay(env=HISTORY)
    replicas = [stage.add_gateway(f"gateway-{number}") for number in (1, 2)]
    await stage.start(relay, *replicas)
    ann = stage.users[0]
    witness = await stage.connect_v1(ann, replicas[0])
    client = await stage.connect_v1(ann, replicas[0])
    browser = await stage.connect_events(ann, replicas[0])
    await stage.producer.publish_mixed([ann], 20)
    await stage.everything_arrived()
    await client.drop()
    await browser.drop()
    had, seen = len(of_user(client)), len(browser.frames)
    for _ in range(150):
        await stage.producer.publish("execution-events", ann)
    await stage.producer.publish_mixed([ann], 40)
    await stage.everything_arrived([witness])
    await client.resume(replicas[1].port, replicas[1].name)
    await browser.resume(replicas[1].port, replicas[1].name)
    assert client.welcome["recovered"] is False
    resync = await client.told("resync")
    assert (resync["stream"], resync["reason"]) == ("user", "trimmed")
    await client.told("heartbeat")
    await stage.exact([witness])
    await eventually(lambda: of_user(client)[-1] == of_user(witness)[-1], "the present")
    assert is_end_of(of_user(client)[had:], of_user(witness))
    assert not client.knowledge.wrong

    def of_everyone(one: Client) -> list[bytes]:
        return [frame for frame in one.frames if is_broadcast(frame)]

    await eventually(lambda: len(of_everyone(client)) >= len(of_everyone(witness)), "the present of the other stream")
    assert of_everyone(client) == of_everyone(witness)  # it was recovered
    await eventually(lambda: len(browser.frames) > seen, "the browser to go on")
    assert len(client.knowledge.said("resync")) == 1
    assert [(one["stream"], one["reason"]) for one in browser.controls] == [("user", "trimmed")]
    stage.clients.remove(client)
    stage.clients.remove(browser)
    await client.close()
    await browser.close()


async def test_a_replica_cut_off_for_too_long_says_so_to_each_client(stage: Stage) -> None:
    proxy = await stage.redis_proxy()
    relay, gateway = stage.add_relay(env=HISTORY), stage.add_gateway(redis=proxy)
    elsewhere = stage.add_gateway("gateway-2")
    await stage.start(relay, gateway, elsewhere)
    ann, bob = stage.users
    witness = await stage.connect_v1(ann, elsewhere)
    client = await stage.connect_v1(ann, gateway)
    browser = await stage.connect_events(ann, gateway)
    plain = await stage.connect(ann, gateway, WebsocketsClient)
    untouched = [await stage.connect(bob, gateway, WebsocketsClient), await stage.connect_v1(bob, gateway)]
    await stage.producer.publish_mixed([ann], 20)
    await stage.everything_arrived()
    proxy.refuse()
    for _ in range(150):
        await stage.producer.publish("execution-events", ann)
    await stage.everything_arrived([witness])
    had = len(of_user(client))
    proxy.heal()
    resync = await client.told("resync")
    assert (resync["stream"], resync["reason"]) == ("user", "gap")
    await eventually(lambda: not plain.is_connected, "the plain client to be told")
    assert plain.close_code == 4003
    await stage.producer.publish_mixed([ann], 20)
    await stage.exact([witness, *untouched])  # whose streams had no hole
    await eventually(lambda: of_user(client)[-1] == of_user(witness)[-1], "the present")
    assert is_end_of(of_user(client)[had:], of_user(witness))
    assert client.is_connected
    assert len(client.knowledge.welcomes) == 1
    assert len(client.knowledge.said("resync")) == 1
    assert [(one["control"], one["stream"], one["reason"]) for one in browser.controls] == [("resync", "user", "gap")]
    assert browser.is_connected
    assert not client.knowledge.wrong
