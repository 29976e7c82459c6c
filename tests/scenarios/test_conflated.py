"""Clients that lag get the newest of a conflated type, are told of the rest, and everything else exactly."""

import json

from harness.oracle import Event, Oracle
from harness.stage import Stage
from harness.stubborn import VARIANTS, Stubborn
from harness.waiting import eventually

ENV = {
    "CONFLATE": "market_alert",
    "SLOW_CLIENT_BYTES": "65536",
    "PING_INTERVAL_SECONDS": "60",  # who does not read does not answer
    "PING_TIMEOUT_SECONDS": "60",
    "HEARTBEAT_SECONDS": "1",
}
ALERTS = 600
ALERT_BYTES = 20_000
"""All of them are more than sockets take, and many times what is held for a client."""

CONFLATED = 'conflated_total{type="market_alert"}'


async def test_a_client_that_lags_misses_only_older_ones_of_a_conflated_type(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env=ENV)
    await stage.start(relay, gateway)
    crowd = await stage.crowd(stage.users, [gateway])
    plain, v1, events = slow = [Stubborn(gateway.port, stage.users[0], gateway.name, variant) for variant in VARIANTS]
    for client in slow:
        await client.open()
    alerts = []
    for number in range(ALERTS):
        value = json.dumps({"number": number, "pad": "x" * ALERT_BYTES}).encode()
        alerts.append(await stage.producer.publish_value("alert-events", value, partition=0))
        if number % 5 == 0:  # else what waits somewhere for a moment is more than who reads can take at once
            await stage.everything_arrived(crowd)
        if number % 20 == 0:
            await stage.producer.publish_mixed(stage.users, 3, ["regime-events", "risk-events", "execution-events"])
    await stage.everything_arrived()
    assert await stage.metric(gateway, "connections") == len(stage.clients) + len(slow)
    assert await stage.metric(gateway, 'closes_total{code="4000"}') == 0
    assert await stage.metric(gateway, CONFLATED) > ALERTS

    for client in slow:
        client.reads()
        await eventually(lambda: alerts[-1].data in b"".join(client.frames[-200:]), f"the newest for {client}")  # noqa: B023
    since = len(stage.oracle.events)
    for _ in range(3):  # now that they read, they miss nothing
        await stage.producer.publish_mixed(stage.users, 40)
        await stage.everything_arrived()
    for client in slow:
        await eventually(
            lambda: not stage.oracle.first_missing(client.user, client.frames, since),  # noqa: B023
            f"what came since for {client}",
        )
    missed = [check(client, stage.oracle, alerts) for client in slow]
    assert all(missed)
    assert sum(missed) == await stage.metric(gateway, CONFLATED)
    assert not v1.knowledge.wrong, "a hole that it was not told of"
    assert sum(told["dropped"] for told in v1.knowledge.said("conflated")) == missed[1]
    assert not v1.knowledge.left_out.total()
    assert plain.is_connected
    assert events.is_connected
    for client in slow:
        await client.close()
    await stage.exact()


def check(client: Stubborn, oracle: Oracle, alerts: list[Event]) -> int:
    """It got these alerts in order and the last of them, and all else exactly. Gives how many it missed."""
    places = {alert.data: place for place, alert in enumerate(alerts)}
    others, exactly = Oracle(), []
    for event in oracle.events:
        if event.data not in places:
            others.add(event)
    got = []
    for frame in client.frames:
        place = places.get(frame.partition(b'"data":')[2][:-1])
        if place is None:
            exactly.append(frame)
        else:
            got.append(place)
    others.check(str(client), client.user, exactly)
    assert got == sorted(set(got))
    assert got[-1] == len(alerts) - 1
    return len(alerts) - len(got)
