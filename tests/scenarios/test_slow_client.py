"""Clients that stop reading: they go, and nobody else notices. `--log-cli-level=INFO` for the figures."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from harness.latency import ANY_NUMBER, Feed, assert_undisturbed, needs_cc, open_files
from harness.stage import Stage
from harness.stubborn import VARIANTS, Stubborn
from harness.waiting import eventually

from bench.tools import resident_bytes
from demo.process import Process

MIB = 1 << 20
BOUND = 256 * 1024


async def slow_closes(stage: Stage, gateway: Process) -> float:
    return await stage.metric(gateway, 'closes_total{code="4000"}')


@needs_cc
@pytest.mark.alone
@pytest.mark.parametrize(("message_bytes", "per_second"), [(250, 2_000), (20_000, 60)])
async def test_clients_that_stop_reading_are_closed_while_others_get_everything_in_time(
    stage: Stage, message_bytes: int, per_second: int
) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={**ANY_NUMBER, "SLOW_CLIENT_BYTES": str(BOUND)})
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    most_held = 0.0

    @contextlib.asynccontextmanager
    async def three_that_stop() -> AsyncIterator[None]:
        nonlocal most_held
        files, closes = open_files(gateway), await slow_closes(stage, gateway)
        resident = resident_bytes(gateway.pid)
        slow = [Stubborn(gateway.port, stage.users[0], gateway.name, variant) for variant in VARIANTS]
        for client in slow:
            await client.open()
            client.since = len(stage.oracle.events)
            assert open_files(gateway) > files

        async def all_are_closed() -> bool:
            nonlocal most_held
            most_held = max(most_held, await stage.metric(gateway, "buffered_bytes"))
            return await slow_closes(stage, gateway) == closes + len(slow)

        # Not so often that the asking disturbs.
        await eventually(all_are_closed, "the slow clients to be closed", seconds=60, poll_seconds=0.1)
        slow[0].reads()  # and finds out why it goes, if it is quick
        await eventually(lambda: open_files(gateway) <= files, "the sockets to be gone", seconds=15)
        assert await stage.metric(gateway, "buffered_bytes") == 0
        assert resident_bytes(gateway.pid) - resident < len(slow) * BOUND + 16 * MIB
        yield
        for client in slow:
            client.reads()
            await eventually(lambda: not client.is_connected, "the slow client to notice")  # noqa: B023
        assert slow[0].close_code in (4000, 1006), "1006 when it was too late for the reason"
        for client in slow:
            client.since = len(stage.oracle.events)  # a part of what there was, without a hole
            client.check(stage.oracle, complete=False)
            await client.close()

    await assert_undisturbed(
        stage, gateway, lambda: Feed(stage, message_bytes=message_bytes, per_second=per_second), three_that_stop
    )
    assert most_held <= len(VARIANTS) * BOUND  # it is looked at now and then: the least says nothing
    await stage.exact()


async def test_of_several_slow_clients_the_largest_goes_first(stage: Stage) -> None:
    relay = stage.add_relay()
    # Whoever alone had all that is allowed for all would not go for its own bound.
    gateway = stage.add_gateway(env={"MAX_BUFFERED_BYTES": str(8 * MIB), "SLOW_CLIENT_BYTES": str(64 * MIB)})
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    slow = [Stubborn(gateway.port, stage.users[0], gateway.name, variant).reads() for variant in VARIANTS]
    for client in slow:
        await client.open()
        client.since = len(stage.oracle.events)
    first, *others = slow
    async with Feed(stage, message_bytes=5_000, per_second=150):
        first.stops()
        await eventually(lambda: _holds(stage, gateway, 500_000), "bytes to be held for the first", seconds=60)
        for client in others:
            client.stops()
        await eventually(lambda: _closed(stage, gateway, 1), "one to be closed", seconds=60)
    assert await slow_closes(stage, gateway) == 1
    assert await stage.metric(gateway, "buffered_bytes") > 0, "the others are held for"
    for client in slow:
        client.reads()
    await eventually(lambda: not first.is_connected, "the first to notice")
    assert first.close_code in (4000, 1006)
    first.check(stage.oracle, complete=False)
    await first.close()
    stage.clients += others
    await stage.exact()
    assert await stage.metric(gateway, "buffered_bytes") == 0


async def _holds(stage: Stage, gateway: Process, least_bytes: int) -> bool:
    return await stage.metric(gateway, "buffered_bytes") >= least_bytes


async def _closed(stage: Stage, gateway: Process, count: int) -> bool:
    return await slow_closes(stage, gateway) >= count


async def test_a_long_replay_to_one_that_reads_slowly_but_steadily_meets_the_present(stage: Stage) -> None:
    relay = stage.add_relay(env={"HISTORY_MESSAGES_GLOBAL": "20000"})
    gateway = stage.add_gateway(env={"SLOW_CLIENT_BYTES": str(BOUND)})
    await stage.start(relay, gateway)
    for user in stage.users:
        await stage.connect(user, gateway)
    # Users of their own: one user's clients may not have so much replayed all at once.
    users = [f"{stage.users[0]}/{variant}" for variant in VARIANTS]
    cursors = [(await stage.get(gateway, f"/position?user_id={user}"))[1]["cursor"] for user in users]
    for _ in range(20):
        await stage.producer.publish_mixed(stage.users, 500, ["alert-events"])
        await stage.everything_arrived()
    slow = [
        Stubborn(gateway.port, user, gateway.name, variant, receive_buffer_bytes=65_536, cursor=cursor).reads(300_000)
        for variant, user, cursor in zip(VARIANTS, users, cursors, strict=True)
    ]
    for client in slow:
        await client.open()
    stage.clients += slow
    assert min(len(client.frames) for client in slow) < 10_000
    async with stage.load([*stage.users, *users], per_second=50) as load:
        # It is still reading what was when this is published.
        await load.more(50)
        await eventually(lambda: _seated(stage, gateway), "the replays to come to their ends", seconds=120)
        await load.more(50)
    await stage.exact(seconds=120)
    assert await slow_closes(stage, gateway) == 0


async def _seated(stage: Stage, gateway: Process) -> bool:
    return await stage.metric(gateway, "replaying") == 0


async def test_one_that_reads_nothing_of_its_replay_is_closed(stage: Stage) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    cursor = (await stage.get(gateway, f"/position?user_id={stage.users[0]}"))[1]["cursor"]
    await Feed(stage, message_bytes=5_000).in_steps(2_000)  # more than sockets take
    files = open_files(gateway)
    for client in (slow := [Stubborn(gateway.port, stage.users[0], gateway.name, v, cursor=cursor) for v in VARIANTS]):
        await client.open()
    await eventually(lambda: _closed(stage, gateway, len(slow)), "the slow clients to be closed", seconds=60)
    await eventually(lambda: open_files(gateway) <= files, "the sockets to be gone", seconds=15)
    assert await stage.metric(gateway, "buffered_bytes") == 0
    assert await stage.metric(gateway, "replaying") == 0
    for client in slow:
        client.reads()
        await eventually(lambda: not client.is_connected, "the slow client to notice")  # noqa: B023
        await client.close()
        client.since = len(stage.oracle.events)
        client.check(stage.oracle, complete=False)
    async with asyncio.timeout(30):
        await stage.exact()
