"""Clients that resume and do not read what they asked for."""

from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.waiting import eventually

MAX_REPLAYS = 2


async def test_clients_that_do_not_read_their_replay_hold_up_nobody_elses(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={"MAX_REPLAYS": str(MAX_REPLAYS)})
    await stage.start(relay, gateway)
    ann, bob = stage.users
    client = await stage.connect_v1(bob, gateway)
    await client.drop()
    # More than socket buffers take.
    for _ in range(20):
        await stage.producer.publish_all(
            [("risk-events", b'{"user_id":"%s","message":"%s"}' % (ann.encode(), b"%020000d" % number), ann, -1)
             for number in range(len(stage.oracle.events), len(stage.oracle.events) + 20)]
        )  # fmt: skip
    await stage.producer.publish_mixed([bob], 40)
    witness = await stage.connect_v1(bob, gateway, cursor="0.0.0.0")
    await stage.everything_arrived([witness])
    stalled = []
    for _ in range(4 * MAX_REPLAYS):
        socket = await RawSocket.connect(gateway.port, receive_buffer_bytes=4096)
        answer = await socket.request(f"/ws?user_id={ann}&cursor=0.0.0.0", UPGRADE)
        assert answer.status == 101
        stalled.append(socket)
    for _ in range(3):
        await client.open()
        assert client.is_connected, (client.close_code, client.close_reason)
        assert client.welcome["recovered"]
        await client.told("heartbeat")
        assert not any(socket.is_closing for socket in stalled)
        await client.drop()
    await client.open()
    await stage.exact([client])

    async def are_all_closed() -> bool:
        return await stage.metric(gateway, 'closes_total{code="4000"}') == len(stalled)

    await eventually(are_all_closed, "those who do not read to be closed", seconds=60)
    for socket in stalled:
        await socket.close()
