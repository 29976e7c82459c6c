"""A replica goes, or sends a client elsewhere for balance: who can resume is told, and loses nothing."""

import asyncio
import signal

from harness.stage import Load, Stage
from harness.v1 import EventSourceClient, V1Client
from harness.waiting import eventually

from demo.process import Process

DELAY_SECONDS = 1
DRAIN_SECONDS = 3
GRACE_SECONDS = 2
"""For a client to go, from the time that it was told; then it is closed."""


async def obeys(client: V1Client, elsewhere: Process, told_after: float) -> int:
    """Leave when told to, after the time told; gives that time. It is not told before `told_after`, seconds of the
    loop's clock, however late this process sees it."""
    wait_ms = int((await client.told("going_away"))["retry_after_ms"])
    await asyncio.sleep(wait_ms / 1000)
    may_be_over = asyncio.get_running_loop().time() > told_after + wait_ms / 1000 + GRACE_SECONDS
    assert client.is_connected or may_be_over, f"{client}: {client.close_code} before its slot, in {wait_ms} ms"
    await client.drop()
    await client.resume(elsewhere.port, elsewhere.name)
    return wait_ms


async def stays_until_the_end(client: V1Client, elsewhere: Process, told_after: float) -> int:
    wait_ms = int((await client.told("going_away"))["retry_after_ms"])
    assert await client.ended() == 1012
    # Both ends of this are earlier, or later, than what they stand for; a tenth for the clocks.
    assert asyncio.get_running_loop().time() - told_after > wait_ms / 1000 + 0.9 * GRACE_SECONDS
    await client.resume(elsewhere.port, elsewhere.name)
    return wait_ms


async def test_a_draining_replica_costs_clients_that_can_resume_nothing(stage: Stage) -> None:
    relay, stays = stage.add_relay(), stage.add_gateway("gateway-stays")
    drain = {"DRAIN_DELAY_SECONDS": str(DELAY_SECONDS), "DRAIN_SECONDS": str(DRAIN_SECONDS)}
    goes = stage.add_gateway("gateway-goes", env=drain)
    await stage.start(relay, stays, goes)
    obedient = [await stage.connect_v1(stage.users[number % 2], goes) for number in range(6)]
    stubborn = [await stage.connect_v1(stage.users[number % 2], goes) for number in range(6)]
    browser = await stage.connect_events(stage.users[0], goes)
    plain = await stage.connect(stage.users[0], goes)
    stage.clients.remove(plain)
    async with stage.load(stage.users) as load:
        await load.more(100)
        goes.expected_to_run = False
        told_after = asyncio.get_running_loop().time() + DELAY_SECONDS
        goes.signal(signal.SIGTERM)
        slots = await asyncio.gather(
            *(obeys(client, stays, told_after) for client in obedient),
            *(stays_until_the_end(client, stays, told_after) for client in stubborn),
        )
        await browser.ended()
        await browser.resume(stays.port, stays.name)
        assert await goes.wait(30) == 0
        await load.more(100)
    assert set(slots) <= {1000 * slot for slot in range(DRAIN_SECONDS)}
    assert len(set(slots)) == DRAIN_SECONDS, f"all leave together: {slots}"
    for client in (*obedient, *stubborn):
        assert client.welcome["recovered"]
        assert len(client.knowledge.said("going_away")) == 1
    (announced, last) = browser.controls
    assert announced["control"] == "going_away"
    assert (last["control"], last["code"]) == ("error", "service_restart")
    await eventually(lambda: not plain.is_connected, "the plain client to be told")
    assert plain.close_code == 1012
    plain.check(stage.oracle, complete=False)
    await plain.close()
    await stage.exact()


async def test_a_second_sigterm_ends_all_of_them_at_once(stage: Stage) -> None:
    gateway = stage.add_gateway(env={"DRAIN_DELAY_SECONDS": "0", "DRAIN_SECONDS": "300"})
    await stage.start(gateway)
    client, *others = [await stage.connect_v1("ann", gateway) for _ in range(30)]  # one a second
    browser = await stage.connect_events("ann", gateway)
    gateway.expected_to_run = False
    gateway.signal(signal.SIGTERM)
    for each in (client, *others):
        await each.told("going_away")
    gateway.signal(signal.SIGTERM)
    assert await gateway.wait(20) == 0
    for each in (client, *others):
        assert await each.ended() == 1012
    await browser.ended()
    assert browser.controls[-1]["code"] == "service_restart"


async def comes_again(client: V1Client | EventSourceClient, replicas: list[Process], load: Load) -> None:
    """Twice its connection is ended for balance."""
    for number in range(2):
        await client.ended()
        if isinstance(client, V1Client):
            assert (client.close_code, client.close_reason) == (4005, "rebalance")
            assert client.knowledge.controls[-1]["control"] == "going_away"
        else:
            assert [one.get("code") for one in client.controls[-2:]] == [None, "rebalance"]
        replica = replicas[(number + 1) % 2]
        await client.resume(replica.port, replica.name)


async def test_a_connection_that_lasted_long_enough_is_sent_elsewhere(stage: Stage) -> None:
    env = {"MAX_CONNECTION_SECONDS": "2", "PING_INTERVAL_SECONDS": "2", "PING_TIMEOUT_SECONDS": "5"}
    relay, replicas = stage.add_relay(), [stage.add_gateway(f"gateway-{number}", env=env) for number in (1, 2)]
    forever = stage.add_gateway("gateway-forever")
    await stage.start(relay, *replicas, forever)
    clients: list[V1Client | EventSourceClient] = [
        await stage.connect_v1(stage.users[0], replicas[0]),
        await stage.connect_v1(stage.users[1], replicas[0]),
        await stage.connect_events(stage.users[0], replicas[0]),
    ]
    async with stage.load(stage.users) as load:
        await asyncio.gather(*(comes_again(client, replicas, load) for client in clients))
        for client in clients:
            await client.drop()
            await client.resume(forever.port, forever.name)
        await load.more(50)
    await stage.exact()
    for client in clients:
        if isinstance(client, V1Client):
            assert all(welcome["recovered"] for welcome in client.knowledge.welcomes[1:])
