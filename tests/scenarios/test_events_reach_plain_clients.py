"""The whole way, nothing broken: four topics, two replicas, clients of every library."""

import json

import pytest
from harness.clients import AiohttpClient, NodeClient, ThreadClient, WebsocketsClient
from harness.oracle import BROADCAST_TOPICS, TARGETED_TOPICS
from harness.stage import Stage


async def test_broadcasts_reach_everyone_and_targeted_events_their_user_only(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    for replica in replicas:
        for library in (AiohttpClient, WebsocketsClient, ThreadClient):
            for user in stage.users:
                await stage.connect(user, replica, library)
        await stage.connect("nobody", replica)

    for topic in BROADCAST_TOPICS:
        await stage.producer.publish(topic)
    for topic in TARGETED_TOPICS:
        for user in stage.users:
            await stage.producer.publish(topic, user)
    await stage.producer.publish_mixed((*stage.users, "elsewhere"), 200)
    await stage.exact()

    # `exact` compares contents; this is the frame as the platform's clients read it.
    for client in stage.clients:
        for frame in client.frames:
            assert list(json.loads(frame)) == ["type", "data"]


async def test_user_ids_of_any_characters_reach_their_clients(stage: Stage) -> None:
    _, (replica,) = await stage.start_relay_and_replicas(1)
    ann = stage.users[0]
    users = [(ann + "😀" * 128)[:128], f"{ann}/ü&=%00+?#", f"{ann} {{u0}}", ann]
    for user in users:
        await stage.connect(user, replica)
        await stage.connect_v1(user, replica)
        await stage.connect_events(user, replica)
    await stage.producer.publish_mixed(users, 80)
    await stage.exact()


async def test_every_client_sees_a_stream_in_the_same_order(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    ann, bob = stage.users
    anns = [await stage.connect(ann, replica) for replica in replicas]
    bobs = [await stage.connect(bob, replica) for replica in replicas]
    await stage.producer.publish_mixed(stage.users, 400)
    await stage.exact()

    def kept(frames: list[bytes], *types: bytes) -> list[bytes]:
        return [frame for frame in frames if frame.startswith(tuple(b'{"type":"%s"' % type_ for type_ in types))]

    for clients in (anns, bobs):
        mine = [kept(client.frames, b"risk_alert", b"order_executed") for client in clients]
        assert mine[0] == mine[1]
    global_ = [kept(client.frames, b"regime_change", b"market_alert") for client in (*anns, *bobs)]
    assert all(frames == global_[0] for frames in global_)


async def test_data_is_what_was_published_byte_for_byte(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(1)
    await stage.connect("42", replicas[0])
    await stage.connect("é/ü 1%", replicas[0], AiohttpClient)
    publish = stage.producer.publish_value
    for value in (
        b'{ "n" : 1 ,\t"new_regime":"bull"}',
        b'{\r\n  "n": 2,\r\n  "metadata": {\n}}',
        b'{"n":3,"n":3,"big":123456789012345678901234567890,"float":1.0E+5,"zero":-0.0}',
        b'{"n":4,"escaped":"\\u00e9\\ud83d\\ude00\\n\\/","raw":"\xc3\xa9\xf0\x9f\x98\x80\x7f"}',
        b'{"n":5,"type":"fake","data":{"type":"x","data":{}},"control":"welcome"}',
        b'{"n":6,"deep":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"n":7,"pad":"' + b"x" * (65_536 - 16) + b'"}',
    ):
        await publish("alert-events", value, partition=0)
    await publish("risk-events", b'{"n":8,"user_id":42}', "42")
    await publish("execution-events", b'{"n":9,"user_id":"42","event_type":"order_executed"}', "42")
    await publish("risk-events", '{"n":10,"user_id":"é/ü 1%"}'.encode(), "é/ü 1%")
    await stage.exact()


@pytest.mark.skipif(NodeClient.missing() is not None, reason=str(NodeClient.missing()))
async def test_a_client_that_is_not_python_gets_the_same(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    for replica in replicas:
        await stage.connect(stage.users[0], replica, NodeClient)
    await stage.producer.publish_mixed(stage.users, 200)
    await stage.exact()
