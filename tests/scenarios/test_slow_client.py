"""A client stops reading: it goes, and nobody else notices."""

from harness.raw import RawSocket
from harness.stage import Stage
from harness.waiting import eventually


async def test_a_client_that_stops_reading_is_closed_while_others_get_everything(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={"SLOW_CLIENT_BYTES": "65536"})
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    slow = await RawSocket.connect(gateway.port, receive_buffer_bytes=4_096)
    try:
        await slow.upgrade("ann")  # and from here on it reads nothing

        async def is_gone() -> bool:
            batch = [("alert-events", b'{"n":%d,"pad":"%s"}' % (next(numbers), pad), None, -1) for _ in range(4)]
            await stage.producer.publish_all(batch)
            return bool((await stage.get(gateway, "/health"))[1]["connections"] == 2)

        numbers, pad = iter(range(1_000_000)), b"x" * 60_000
        # What the kernel takes for it comes before what we hold, so it is not told by a count.
        await eventually(is_gone, "the slow client to be gone", seconds=60)
        await stage.exact()
        _, metrics = await stage.get(gateway, "/metrics", "admin")
        assert 'notify_gateway_closes_total{code="4000"} 1.0' in metrics
        await slow.until_closed()
    finally:
        await slow.close()
