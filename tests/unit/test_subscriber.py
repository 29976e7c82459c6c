"""The subscription and the history beside it, against a real server."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from harness.waiting import eventually
from replicas import KEYS, Publisher, Replica, data_of, gets, stream
from scripted import ScriptedMember, SeatingHub

import gateway.subscription
from demo.process import Process
from demo.valkey import redis_url
from gateway.close_codes import CloseCode
from gateway.hub import LINGER_SECONDS
from gateway.subscriber import LayoutMismatchError, Subscriber
from gateway.subscription import Subscription
from shared.keys import GLOBAL
from shared.link import Link
from shared.settings import RedisSettings


@pytest.fixture
def settings(valkey: Process) -> RedisSettings:
    return RedisSettings(_env_file=None, redis_url=redis_url(valkey), redis_prefix="unit", redis_user_buckets=2)


@pytest.fixture
def publisher(redis: Link) -> Publisher:
    return Publisher(redis)


@pytest.fixture
async def replica(redis: Link, settings: RedisSettings) -> AsyncIterator[Replica]:
    replica = Replica(settings)
    try:
        yield replica
    finally:
        await replica.end()


@pytest.fixture
def kill(redis: Link) -> Callable[[str], Awaitable[None]]:
    """Cuts the connection of that name, as a server does that finds it too slow."""

    async def kill(name: str) -> None:
        clients = bytes(await redis.call("CLIENT", "LIST", timeout_seconds=5)).decode().splitlines()
        ids = [line.split("id=")[1].split()[0] for line in clients if f"name=unit-gateway-{name} " in line]
        assert ids, clients
        for number in ids:
            await redis.call("CLIENT", "KILL", "ID", number, timeout_seconds=5)

    return kill


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is proven again and again, and a proof may take as long as a busy machine makes it: a setting is both,
    the time between proofs and the limit of one."""
    read_beat = Subscription._read_beat

    async def read(self: Subscription, link: Link) -> int:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(gateway.subscription, "PROBE_SECONDS", 30.0)
            return await read_beat(self, link)

    monkeypatch.setattr(Subscription, "_read_beat", read)
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 0.1)


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """No link is given up, and its streams asked for, since a busy machine was late with a proof."""
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 3_600.0)


@pytest.fixture
def uncompared(unproven: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is found by the message after it only: the comparison of each second may come between the two,
    and there would be one gap more."""

    async def compare(self: Subscription, link: Link) -> None: ...

    monkeypatch.setattr(Subscription, "_compare", compare)


# Subscribing


async def test_a_handshake_is_answered_once_its_stream_is_subscribed(replica: Replica, publisher: Publisher) -> None:
    ann = await replica.connect("ann")
    await publisher.publish(stream("ann"), b"1")
    await publisher.publish(GLOBAL, b"2")
    await gets(ann, b"1", b"2")
    assert replica.subscriber.is_up
    assert replica.subscriber.was_up


async def test_what_was_published_before_is_not_sent(replica: Replica, publisher: Publisher) -> None:
    for number in range(3):
        await publisher.publish(stream("ann"), b"%d" % number)
    ann = await replica.connect("ann")
    await publisher.publish(stream("ann"), b"new")
    await gets(ann, b"new")


async def test_many_streams_in_several_buckets_are_subscribed_in_batches(
    replica: Replica, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "STREAMS_AT_ONCE", 7)
    members = await asyncio.gather(*(replica.connect(f"user-{number}") for number in range(50)))
    for number, member in enumerate(members):
        await publisher.publish(stream(f"user-{number}"), b"%d" % number)
        await gets(member, b"%d" % number)


async def test_a_crowd_does_not_wait_between_batches(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.subscription, "STREAMS_AT_ONCE", 5)
    await eventually(lambda: replica.subscriber.is_up, "the subscription")
    members = [ScriptedMember() for _ in range(100)]
    for number, member in enumerate(members):
        replica.hub.join(member, f"user-{number}")
    await eventually(lambda: all(one.opened_times for one in members), "all to be let in", seconds=5)


async def test_a_stream_is_unsubscribed_some_time_after_its_last_client(replica: Replica, redis: Link) -> None:
    ann = await replica.connect("ann")
    channel = KEYS.live(stream("ann"))

    async def listeners() -> int:
        return int((await redis.call("PUBSUB", "SHARDNUMSUB", channel, timeout_seconds=5))[1])

    assert await listeners() == 1
    replica.hub.leave(ann)
    replica.hub.tick(LINGER_SECONDS - 1)
    assert await listeners() == 1
    replica.hub.tick(LINGER_SECONDS)

    async def nobody() -> bool:
        return await listeners() == 0

    await eventually(nobody, "the stream to be dropped", seconds=30)
    again = await replica.connect("ann")
    assert await listeners() == 1
    replica.hub.leave(again)


async def test_how_long_a_server_takes_to_answer_is_told(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 0.1)
    took: list[float] = []
    replica.subscriber.on_answered = took.append
    await eventually(lambda: len(took) >= 2, "two answers", seconds=10)
    assert all(0 < seconds < 60 for seconds in took)


async def test_while_new_users_come_without_end_streams_are_dropped_and_the_link_is_proven(
    replica: Replica, redis: Link, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch takes so long that the next one has come meanwhile."""
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 0.2)
    ann = await replica.connect("ann")

    async def come() -> None:
        for number in itertools.count():
            replica.hub.join(ScriptedMember(), f"new-{number}")
            await asyncio.sleep(0)

    crowd = asyncio.create_task(come())
    try:
        replica.hub.leave(ann)
        replica.hub.tick(LINGER_SECONDS)
        await eventually(lambda: replica.hub.find(KEYS.live(stream("ann"))) is None, "the stream to be dropped")
        await publisher.beat(heard=False)
        await eventually(lambda: replica.subscriber.is_deaf, "the link to be found deaf")
    finally:
        crowd.cancel()


async def test_redis_that_is_not_there_yet_is_waited_for(settings: RedisSettings, redis: Link) -> None:
    await redis.call("CLIENT", "PAUSE", 30, "ALL", timeout_seconds=5)
    replica = Replica(settings.model_copy(update={"redis_timeout_seconds": 0.01}))
    assert not replica.subscriber.is_up
    try:
        await eventually(lambda: replica.subscriber.is_up, "the subscription", seconds=30)
    finally:
        await replica.end()


# Losing the link


async def test_a_gap_is_filled_from_the_log(uncompared: None, replica: Replica, publisher: Publisher) -> None:
    ann = await replica.connect("ann")
    await publisher.publish(stream("ann"), b"1")
    await publisher.publish(stream("ann"), b"2", heard=False)
    await publisher.publish(stream("ann"), b"3", heard=False)
    await publisher.publish(stream("ann"), b"4")
    await gets(ann, b"1", b"2", b"3", b"4")
    assert replica.history.gaps == {"filled": 1}


@pytest.mark.parametrize("messages", [199, 200, 201, 450])
async def test_a_long_gap_is_filled_in_pages(
    uncompared: None, replica: Replica, publisher: Publisher, messages: int
) -> None:
    ann = await replica.connect("ann")
    await asyncio.gather(*(publisher.publish(stream("ann"), b"%d" % n, heard=False) for n in range(messages - 1)))
    await publisher.publish(stream("ann"), b"%d" % (messages - 1))
    await gets(ann, *(b"%d" % number for number in range(messages)))
    assert replica.history.gaps == {"filled": 1}


async def test_a_lost_link_is_made_anew_and_what_was_missed_is_pushed_in_order(
    replica: Replica, publisher: Publisher, kill: Callable[[str], Awaitable[None]]
) -> None:
    ann, bob = await replica.connect("ann"), await replica.connect("bob")
    await publisher.publish(stream("ann"), b"1")
    await gets(ann, b"1")
    await kill("live")
    for number in (2, 3):
        await publisher.publish(stream("ann"), b"%d" % number)
    await gets(ann, b"1", b"2", b"3")
    await eventually(lambda: replica.subscriber.is_up, "the subscription", seconds=30)
    await publisher.publish(stream("ann"), b"4")
    await publisher.publish(stream("bob"), b"5")
    await gets(ann, b"1", b"2", b"3", b"4")
    await gets(bob, b"5")
    assert ann.closed is None


async def test_links_that_are_cut_again_and_again_lose_and_double_nothing(
    replica: Replica, publisher: Publisher, kill: Callable[[str], Awaitable[None]]
) -> None:
    ann = await replica.connect("ann")
    for number in range(120):
        target = stream("ann") if number % 2 else GLOBAL
        await publisher.publish(target, b"%d" % number, heard=number % 7 != 0)
        if number % 20 == 10:
            with contextlib.suppress(AssertionError):  # not back yet
                await kill("live")
            with contextlib.suppress(AssertionError):  # not there before the first gap
                await kill("history")
    await eventually(lambda: replica.subscriber.is_up, "the subscription", seconds=30)
    for target in (stream("ann"), GLOBAL):
        await publisher.publish(target, b"end")
    await eventually(lambda: len(data_of(ann)) >= 122, lambda: f"122, got {len(data_of(ann))}", seconds=30)
    got = [data for data in data_of(ann) if data != b"end"]
    assert [data for data in got if int(data) % 2] == [b"%d" % number for number in range(1, 120, 2)]
    assert [data for data in got if not int(data) % 2] == [b"%d" % number for number in range(0, 120, 2)]


async def test_handshakes_that_wait_when_the_link_is_lost_are_answered_by_the_next(
    replica: Replica, kill: Callable[[str], Awaitable[None]]
) -> None:
    await replica.connect("ann")
    member = ScriptedMember()
    await kill("live")
    replica.hub.join(member, "bob")
    await eventually(lambda: member.opened_times == 1, "the handshake", seconds=30)


async def test_a_link_that_does_not_answer_is_found_by_the_probe(
    settings: RedisSettings, publisher: Publisher, redis: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 0.1)
    replica = Replica(settings)
    try:
        ann = await replica.connect("ann")
        await eventually(lambda: replica.subscriber.is_up, "the subscription")  # a stall is found, too
        first = replica.subscription._link
        assert first is not None
        first.pause_reading()  # nothing comes any more, and nothing says so
        await publisher.publish(stream("ann"), b"1")
        await gets(ann, b"1")
        assert first.is_lost
        await eventually(lambda: replica.subscriber.is_up, "the subscription", seconds=30)
    finally:
        await replica.end()


async def test_a_deaf_link_is_found_by_the_beat_it_did_not_hear(
    settings: RedisSettings, publisher: Publisher, redis: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 0.1)
    replica = Replica(settings)
    try:
        ann = await replica.connect("ann")
        await publisher.beat()
        await eventually(lambda: replica.subscriber.hears_relay, "the beat", seconds=30)
        first = replica.subscription._link
        await publisher.publish(stream("ann"), b"1", heard=False)
        await publisher.beat(heard=False)
        await gets(ann, b"1")
        assert first is not None
        assert first.is_lost
    finally:
        await replica.end()


async def test_a_live_link_is_kept_by_its_probes(
    patient: None, settings: RedisSettings, publisher: Publisher, redis: Link
) -> None:
    replica = Replica(settings)
    try:
        await replica.connect("ann")
        first = replica.subscription._link
        probes: list[int] = []
        read_beat = replica.subscription._read_beat

        async def counted(link: Link) -> int:
            probes.append(await read_beat(link))
            return probes[-1]

        replica.subscription._read_beat = counted  # type: ignore[method-assign]
        while len(probes) < 10:
            await publisher.beat()
        assert replica.subscription._link is first
        assert replica.subscriber.hears_relay
        assert probes == sorted(probes)
    finally:
        await replica.end()


async def test_a_beat_that_redis_lost_is_no_loss_of_ours(
    patient: None, settings: RedisSettings, publisher: Publisher, redis: Link
) -> None:
    replica = Replica(settings)
    try:
        await replica.connect("ann")
        for _ in range(5):
            await publisher.beat()
        await eventually(lambda: replica.subscription._beat == 5, "the beats", seconds=30)
        first = replica.subscription._link
        publisher.beats = 0
        await redis.call("DEL", KEYS.life("g"), timeout_seconds=5)
        await eventually(lambda: replica.subscription._beat == 0, "the probe", seconds=30)
        await publisher.beat()
        await eventually(lambda: replica.subscription._beat == 1, "the beat", seconds=30)
        assert replica.subscription._link is first
    finally:
        await replica.end()


async def test_a_silent_relay_is_noticed(
    replica: Replica, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "BEAT_SECONDS", 0.1)
    await replica.connect("ann")
    assert not replica.subscriber.hears_relay
    await publisher.beat()
    await eventually(lambda: replica.subscriber.hears_relay, "the beat", seconds=30)
    await eventually(lambda: not replica.subscriber.hears_relay, "its silence", seconds=30)
    assert replica.subscriber.is_up


# Streams that are silent


async def test_a_message_lost_with_none_after_it_is_found(replica: Replica, publisher: Publisher) -> None:
    members = [await replica.connect(f"user-{number}") for number in range(3)]
    for number in range(3):
        await publisher.publish(stream(f"user-{number}"), b"%d" % number, heard=False)
    for number, member in enumerate(members):
        await gets(member, b"%d" % number)


async def test_every_stream_is_compared_in_turn(replica: Replica, publisher: Publisher) -> None:
    for number in range(60):
        await replica.connect(f"user-{number}")
    replica.hub.tick(7)
    link = replica.subscription._link
    assert link is not None
    for _ in range(math.ceil(gateway.subscription.COMPARE_SECONDS)):
        await replica.subscription._compare(link)
    assert {audience.compared_at for audience in replica.hub.audiences} == {7}


async def test_no_more_streams_are_compared_a_second_than_allowed(
    replica: Replica, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "COMPARE_SECONDS", 0.1)
    for number in range(5):
        await replica.connect(f"user-{number}")
    replica.hub.tick(7)
    link = replica.subscription._link
    assert link is not None
    monkeypatch.setattr(gateway.subscription, "COMPARED_A_SECOND", 2)
    await replica.subscription._compare(link)
    assert [audience.compared_at for audience in replica.hub.audiences].count(7) == 2


async def test_under_load_comparing_finds_nothing_missing(
    unproven: None, replica: Replica, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.subscription, "COMPARE_SECONDS", 0.1)
    ann = await replica.connect("ann")
    link = replica.subscription._link
    assert link is not None

    async def compare() -> None:
        for _ in range(100):
            await replica.subscription._compare(link)

    comparing = asyncio.create_task(compare())
    count = 0
    while not comparing.done():
        await asyncio.gather(*(publisher.publish(stream("ann"), b"%d" % (count + n)) for n in range(20)))
        count += 20
    await comparing
    await gets(ann, *(b"%d" % number for number in range(count)))
    assert replica.history.gaps == {}


async def test_a_stream_that_cannot_be_compared_holds_up_no_other(
    replica: Replica, publisher: Publisher, redis: Link, capfd: pytest.CaptureFixture[str]
) -> None:
    await replica.connect("ann")
    bob = await replica.connect("bob")
    await replica.connect("cid")
    await redis.call("SET", KEYS.meta(stream("ann")), "x", timeout_seconds=5)
    await redis.call("HSET", KEYS.meta(stream("cid")), "epoch", "a", "seq", "x", timeout_seconds=5)
    await publisher.publish(stream("bob"), b"1", heard=False)
    await gets(bob, b"1")
    await eventually(lambda: KEYS.meta(stream("cid")) in capfd.readouterr().out, "the error in the log")
    assert replica.subscriber.is_up


# Other states of Redis


async def test_a_new_epoch_fills_what_was_missed_and_repeats_nothing(
    replica: Replica, publisher: Publisher, redis: Link, kill: Callable[[str], Awaitable[None]]
) -> None:
    ann = await replica.connect("ann")
    for number in range(1, 4):
        await publisher.publish(stream("ann"), b"%d" % number)
    await gets(ann, b"1", b"2", b"3")
    # The server comes back with its tail lost: 3 is published again, then come 4 and 5.
    await redis.pipeline(
        [
            ("DEL", KEYS.log(stream("ann"))),
            ("XADD", KEYS.log(stream("ann")), "1-0", "m", b"a 1 risk-events/0 0 0 risk_alert\n1"),
            ("XADD", KEYS.log(stream("ann")), "2-0", "m", b"a 2 risk-events/0 1 0 risk_alert\n2"),
            ("HSET", KEYS.meta(stream("ann")), "fork", "a:2"),
        ],
        timeout_seconds=5,
    )
    publisher.seqs[stream("ann")], publisher.offset = 2, 2
    await kill("live")
    for number in range(3, 6):
        await publisher.publish(stream("ann"), b"%d" % number, epoch="b")
    await gets(ann, b"1", b"2", b"3", b"4", b"5")
    assert ann.closed is None


async def test_a_hole_that_the_log_cannot_fill_closes_its_clients(
    uncompared: None, replica: Replica, publisher: Publisher, redis: Link
) -> None:
    ann, bob = await replica.connect("ann"), await replica.connect("bob")
    for number in range(1, 6):
        await publisher.publish(stream("ann"), b"%d" % number, heard=number in (1, 5))
        if number == 4:
            await redis.call("XTRIM", KEYS.log(stream("ann")), "MAXLEN", 2, timeout_seconds=5)
    await eventually(lambda: ann.closed is not None, "ann to be closed", seconds=30)
    assert ann.closed is CloseCode.GAP
    assert bob.closed is None
    assert replica.history.gaps == {"unfillable": 1}
    again = await replica.connect("ann")
    await publisher.publish(stream("ann"), b"6")
    await gets(again, b"6")


async def test_a_log_that_is_gone_is_a_hole(replica: Replica, publisher: Publisher, redis: Link) -> None:
    ann = await replica.connect("ann")
    await publisher.publish(stream("ann"), b"1")
    await publisher.publish(stream("ann"), b"2", heard=False)
    await redis.call("DEL", KEYS.log(stream("ann")), timeout_seconds=5)
    replica.hub.suspect(next(audience for audience in replica.hub.audiences if audience.name == stream("ann")))
    await eventually(lambda: ann.closed is CloseCode.GAP, "ann to be closed", seconds=30)


async def test_entries_that_are_not_ours_do_not_end_the_replica(
    replica: Replica, publisher: Publisher, redis: Link
) -> None:
    ann, bob = await replica.connect("ann"), await replica.connect("bob")
    await redis.call("XADD", KEYS.log(stream("ann")), "1-0", "m", b"what is this", timeout_seconds=5)
    publisher.seqs[stream("ann")] = 1
    await publisher.publish(stream("ann"), b"2")
    await eventually(lambda: ann.closed is CloseCode.GAP, "ann to be told of the hole", seconds=30)
    await publisher.publish(stream("bob"), b"1", heard=False)
    await publisher.publish(stream("bob"), b"2")
    await gets(bob, b"1", b"2")
    assert not any(task.done() for task in replica.tasks)


@pytest.mark.parametrize("buckets", ["1", "3"])
async def test_a_redis_laid_out_otherwise_ends_the_replica_with_both_numbers(
    settings: RedisSettings, redis: Link, buckets: str
) -> None:
    await redis.call("SET", KEYS.layout, buckets, timeout_seconds=5)
    subscriber = Subscriber(settings, SeatingHub(KEYS), "unit")
    with pytest.raises(LayoutMismatchError, match=f"REDIS_USER_BUCKETS=2, .* laid out with {buckets}"):
        await asyncio.wait_for(subscriber.run(), 10)


async def test_a_redis_laid_out_the_same_is_good(settings: RedisSettings, redis: Link) -> None:
    await redis.call("SET", KEYS.layout, "2", timeout_seconds=5)
    replica = Replica(settings)
    try:
        await replica.connect("ann")
    finally:
        await replica.end()


async def test_a_subscription_that_redis_ends_by_itself_is_made_anew(replica: Replica, publisher: Publisher) -> None:
    """What a cluster does when a slot moves away."""
    ann = await replica.connect("ann")
    link = replica.subscription._link
    assert link is not None
    link._pushed([b"sunsubscribe", b"whatever", 0])
    assert link.is_lost
    await publisher.publish(stream("ann"), b"1")
    await gets(ann, b"1")


async def test_a_flood_pauses_the_link_and_resumes_it(replica: Replica, publisher: Publisher) -> None:
    ann = await replica.connect("ann")
    replica.hub.on_flood(True)
    await publisher.publish(stream("ann"), b"1")
    assert data_of(ann) == []
    replica.hub.on_flood(False)
    await gets(ann, b"1")


async def test_a_link_lost_in_a_flood_is_made_again_when_the_flood_is_over(
    replica: Replica, publisher: Publisher, redis: Link
) -> None:
    ann = await replica.connect("ann")
    replica.hub.drained.clear()
    replica.hub.on_flood(True)
    await redis.call("CLIENT", "KILL", "TYPE", "PUBSUB", timeout_seconds=5)
    await publisher.publish(stream("ann"), b"1", heard=False)
    replica.hub.on_flood(False)  # the link that was paused learns that it is lost
    await eventually(lambda: not replica.subscriber.is_up, "the loss to be noticed")
    await asyncio.sleep(0.3)  # longer than the first backoff: nothing must happen in it
    assert not replica.subscriber.is_up
    replica.hub.drained.set()
    await gets(ann, b"1")


async def test_a_cancelled_replica_leaves_no_connection(
    settings: RedisSettings, publisher: Publisher, redis: Link
) -> None:
    replica = Replica(settings)
    await replica.connect("ann")
    await publisher.publish(stream("ann"), b"1", heard=False)
    await publisher.publish(stream("ann"), b"2")
    await eventually(lambda: replica.history.gaps["filled"] == 1, "the history link", seconds=30)
    await replica.end()

    async def alone() -> bool:
        return b"unit-gateway" not in bytes(await redis.call("CLIENT", "LIST", timeout_seconds=5))

    await eventually(alone, "its connections to be gone", seconds=30)
    replica.hub.on_flood(True)
