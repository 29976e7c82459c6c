"""Subscriptions to several servers, and to one that is no primary any more. Real servers; which holds
what is told."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.waiting import eventually
from replicas import KEYS, Publisher, Replica, ToldServers, gets, split, stream

import gateway.subscriber
import gateway.subscription
from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url
from shared.errors import RedisRefused, RedisUnavailable
from shared.keys import GLOBAL
from shared.link import Link, RedisAddress
from shared.settings import RedisSettings
from shared.topology import Placement

U0 = next(f"user-{n}" for n in range(99) if stream(f"user-{n}").bucket == "u0")
U1 = next(f"user-{n}" for n in range(99) if stream(f"user-{n}").bucket == "u1")


class Pair:
    """Two servers, with a link to each."""

    def __init__(self, servers: list[Process], addresses: list[RedisAddress], links: list[Link]) -> None:
        self.second_server = servers[1]
        self.first, self.second = addresses
        self.to_first, self.to_second = links
        self.settings = RedisSettings(
            _env_file=None,
            redis_url=f"redis://127.0.0.1:{self.first.port}",
            redis_prefix="unit",
            redis_user_buckets=2,
            redis_timeout_seconds=2,
        )

    async def demote_first(self) -> None:
        """The second takes over. Whoever is connected to the first stays so."""
        await self.to_second.call("REPLICAOF", "NO", "ONE", timeout_seconds=5)
        await self.to_first.call("REPLICAOF", "127.0.0.1", self.second.port, timeout_seconds=5)


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(gateway.subscription, "PROBE_SECONDS", 1.0)
    async with Processes() as processes:
        servers = [await add_valkey(processes, name=f"valkey-{number}").start().wait_until_ready() for number in (0, 1)]
        addresses = [RedisAddress.from_url(redis_url(server)) for server in servers]
        links = [await Link.connect(address, name="test", timeout_seconds=5) for address in addresses]
        yield Pair(servers, addresses, links)
        for link in links:
            link.close()


async def test_each_bucket_is_heard_from_its_server(pair: Pair) -> None:
    replica = Replica(pair.settings, ToldServers(pair.settings, split({"u1": pair.second}, pair.first)))
    publisher = Publisher(pair.to_first, {"u1": pair.to_second})
    try:
        ann, bob = await replica.connect(U0), await replica.connect(U1)
        await publisher.publish(stream(U0), b"1")
        await publisher.publish(stream(U1), b"2")
        await gets(ann, b"1")
        await gets(bob, b"2")
        assert len(replica.subscriber._running) == 2
        assert not replica.subscriber.hears_relay
        await publisher.beat("g")
        assert not replica.subscriber.hears_relay  # of one server only
        await publisher.beat("u1")
        await eventually(lambda: replica.subscriber.hears_relay, "the beats of both")
        for lost in (stream(U0), stream(U1)):
            await publisher.publish(lost, b"3", heard=False)
            await publisher.publish(lost, b"4")
        await gets(ann, b"1", b"3", b"4")
        await gets(bob, b"2", b"3", b"4")
    finally:
        await replica.end()


async def test_notices_are_heard_from_each_server_and_may_have_been_missed_before_each_subscription(pair: Pair) -> None:
    replica = Replica(pair.settings, ToldServers(pair.settings, split({"u1": pair.second}, pair.first)))
    notices: list[tuple[str, bytes]] = []
    subscribed: list[set[str]] = []
    replica.subscriber.on_notice = lambda bucket, notice: notices.append((bucket, notice))
    replica.subscriber.on_subscribed = lambda buckets: subscribed.append(set(buckets))
    try:
        ann = await replica.connect(U0)
        await eventually(lambda: replica.subscriber.is_up, "both subscriptions")
        assert sorted(subscribed, key=len) == [{"u1"}, {"g", "u0"}]
        await pair.to_first.call("SPUBLISH", KEYS.notices("u0"), "one", timeout_seconds=5)
        await eventually(lambda: len(notices) == 1, "a notice")
        await pair.to_second.call("SPUBLISH", KEYS.notices("u1"), "two", timeout_seconds=5)
        await eventually(lambda: len(notices) == 2, "another")
        assert notices == [("u0", b"one"), ("u1", b"two")]
        await pair.to_first.call("CLIENT", "KILL", "TYPE", "pubsub", timeout_seconds=5)
        await eventually(lambda: len(subscribed) == 3, "the subscription made again")
        assert subscribed[-1] == {"g", "u0"}
        # No stream takes a notice for a message.
        assert ann.writes == []
        assert replica.history.gaps.total() == 0
    finally:
        await replica.end()


async def test_a_server_that_is_away_holds_up_no_others(pair: Pair) -> None:
    replica = Replica(pair.settings, ToldServers(pair.settings, split({"u1": pair.second}, pair.first)))
    publisher = Publisher(pair.to_first, {"u1": pair.to_second})
    try:
        ann, bob = await replica.connect(U0), await replica.connect(U1)
        pair.second_server.signal(signal.SIGSTOP)
        await eventually(lambda: not replica.subscriber.is_up, "its link to be given up")
        replica.hub.suspect(bob.audience)  # type: ignore[arg-type]
        await publisher.publish(stream(U0), b"1", heard=False)
        await publisher.publish(stream(U0), b"2")
        await gets(ann, b"1", b"2")
        assert not replica.subscriber.is_up
        pair.second_server.signal(signal.SIGCONT)
        await publisher.publish(stream(U1), b"3")
        await gets(bob, b"3")
        await eventually(lambda: replica.subscriber.is_up, "both subscriptions")
    finally:
        await replica.end()


async def test_a_bucket_that_moves_is_heard_from_its_new_server(pair: Pair) -> None:
    servers = ToldServers(pair.settings, Placement.on(pair.first))
    replica = Replica(pair.settings, servers)
    publisher = Publisher(pair.to_first)
    try:
        ann, bob = await replica.connect(U0), await replica.connect(U1)
        await publisher.publish(stream(U1), b"1")
        await gets(bob, b"1")
        for key in (KEYS.life("u1"), KEYS.meta(stream(U1)), KEYS.log(stream(U1))):
            await pair.to_first.call("MIGRATE", "127.0.0.1", pair.second.port, key, 0, 5000, timeout_seconds=5)
        publisher.link_of["u1"] = pair.to_second
        await publisher.publish(stream(U1), b"2")
        servers.truth = split({"u1": pair.second}, pair.first)
        replica.subscription._pushed([b"sunsubscribe", KEYS.live(stream(U1)).encode(), 0])
        await gets(bob, b"1", b"2")
        await publisher.publish(stream(U0), b"3")
        await gets(ann, b"3")
        assert {(one.server, one.buckets) for one in replica.subscriber._running} == {
            (pair.first, frozenset({"g", "u0"})),
            (pair.second, frozenset({"u1"})),
        }
    finally:
        await replica.end()


async def test_a_demoted_server_is_left_though_its_link_stays_open(pair: Pair) -> None:
    await pair.to_second.call("REPLICAOF", "127.0.0.1", pair.first.port, timeout_seconds=5)
    servers = ToldServers(pair.settings, Placement.on(pair.first))
    replica = Replica(pair.settings, servers)
    publisher = Publisher(pair.to_first)
    beating = asyncio.create_task(beat_for_ever(publisher))
    try:
        ann = await replica.connect(U0)
        await publisher.publish(GLOBAL, b"1")
        await gets(ann, b"1")
        await synced(pair.to_second)
        first = replica.subscription._link
        assert first is not None
        servers.truth = Placement.on(pair.second)
        await pair.demote_first()
        publisher.link = pair.to_second
        # It follows, and so the beats and all other messages arrive over it as before.
        await eventually(lambda: first.is_lost, "the demoted server to be left")
        await eventually(lambda: replica.subscriber.is_up, "the subscription")
        assert replica.subscription.server == pair.second
        await publisher.publish(GLOBAL, b"2")
        await gets(ann, b"1", b"2")
    finally:
        beating.cancel()
        await replica.end()


async def test_a_server_that_was_replaced_without_knowing_is_left(pair: Pair) -> None:
    servers = ToldServers(pair.settings, Placement.on(pair.first))
    replica = Replica(pair.settings, servers)
    publisher = Publisher(pair.to_second)  # the relay knows already
    try:
        ann = await replica.connect(U0)
        servers.truth = Placement.on(pair.second)
        await publisher.publish(GLOBAL, b"1")
        await gets(ann, b"1")
        assert replica.subscription.server == pair.second
    finally:
        await replica.end()


async def test_while_the_relay_beats_nobody_is_asked_for_the_primary(pair: Pair) -> None:
    servers = ToldServers(pair.settings, Placement.on(pair.first))
    replica = Replica(pair.settings, servers)
    publisher = Publisher(pair.to_first)
    try:
        await replica.connect(U0)
        asked = servers.asked
        for _ in range(20):
            await publisher.beat()
            await asyncio.sleep(0.05)
        assert servers.asked == asked
    finally:
        await replica.end()


async def test_a_replica_is_never_subscribed_to(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    await pair.to_second.call("REPLICAOF", "127.0.0.1", pair.first.port, timeout_seconds=5)
    replica = Replica(pair.settings, ToldServers(pair.settings, Placement.on(pair.second)))
    try:
        await eventually(lambda: "is a replica" in capfd.readouterr().out, "the reason in the log")
        assert not replica.subscriber.was_up
    finally:
        await replica.end()


async def test_nobody_who_can_tell_where_buckets_are_ends_no_subscription(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = ToldServers(pair.settings, Placement.on(pair.first))
    replica = Replica(pair.settings, servers)
    publisher = Publisher(pair.to_first)
    try:
        ann = await replica.connect(U0)
        first = replica.subscription

        async def nobody() -> Placement:
            servers.asked += 1
            raise RedisUnavailable("no node tells")

        monkeypatch.setattr(servers, "_ask", nobody)
        asked = servers.asked
        await eventually(lambda: servers.asked > asked + 1, "doubts, since no relay beats")
        await publisher.publish(stream(U0), b"1")
        await gets(ann, b"1")
        assert replica.subscription is first
    finally:
        await replica.end()


async def test_a_bucket_that_is_on_the_way_to_another_node_keeps_only_its_own_clients_waiting(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(pair.settings)
    publisher = Publisher(pair.to_first)
    try:
        bob = await replica.connect(U1)
        first = replica.subscription._link
        assert first is not None
        snapshot, pipeline = first.snapshot, first.pipeline
        moving = True

        async def refused(commands: Any, **options: Any) -> list[Any]:
            if moving and ("HGETALL", KEYS.life("u0")) in commands:
                raise RedisRefused("ASK 1 h:1")
            return await snapshot(commands, **options)

        async def probed(commands: Any, **options: Any) -> list[Any]:
            if moving:
                raise RedisRefused("TRYAGAIN x")
            return await pipeline(commands, **options)

        monkeypatch.setattr(first, "snapshot", refused)
        monkeypatch.setattr(first, "pipeline", probed)
        joining = asyncio.create_task(replica.connect(U0))
        await eventually(lambda: bool(replica.subscription._unreadable), "the refusal")
        await asyncio.sleep(0.5)  # some probes
        await publisher.publish(stream(U1), b"1")
        await gets(bob, b"1")
        assert not joining.done()
        assert replica.subscription._link is first
        moving = False
        await joining
    finally:
        await replica.end()


# Deaf


async def test_a_deaf_replica_says_so_until_it_hears_again(pair: Pair) -> None:
    replica = Replica(pair.settings)
    publisher = Publisher(pair.to_first)
    try:
        await replica.connect(U0)
        await publisher.beat()
        await eventually(lambda: replica.subscriber.hears_relay, "the beat")
        states: list[bool] = []
        heard = replica.subscription._heard_beat
        replica.subscription._heard_beat = lambda _payload: states.append(replica.subscriber.is_deaf)  # type: ignore[method-assign]
        await publisher.beat()
        await eventually(lambda: replica.subscriber.is_deaf, "the deafness to be noticed")
        await eventually(lambda: replica.subscriber.is_up, "the next link")
        await publisher.beat()
        await eventually(lambda: len(states) > 1, "a beat on it")
        assert states[-1]  # a link alone proves nothing
        replica.subscription._heard_beat = heard  # type: ignore[method-assign]
        await publisher.beat()
        await eventually(lambda: not replica.subscriber.is_deaf, "a beat that is heard")
    finally:
        await replica.end()


async def test_a_silent_relay_makes_nobody_deaf(pair: Pair) -> None:
    replica = Replica(pair.settings)
    try:
        await replica.connect(U0)
        await asyncio.sleep(1)
        assert not replica.subscriber.is_deaf
        assert replica.subscriber.is_up
    finally:
        await replica.end()


# Streams that cannot be read


@pytest.mark.parametrize("damage", ["another type", "no number"])
async def test_a_stream_whose_meta_is_no_good_keeps_only_its_own_clients_waiting(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    replica = Replica(pair.settings)
    publisher = Publisher(pair.to_first)
    meta = KEYS.meta(stream(U0))
    damages: dict[str, tuple[Any, ...]] = {
        "another type": ("SET", meta, "x"),
        "no number": ("HSET", meta, "epoch", "a", "seq", "x"),
    }
    try:
        await pair.to_first.call(*damages[damage], timeout_seconds=5)
        joining = asyncio.create_task(replica.connect(U0))
        bob = await replica.connect(U1)
        await publisher.publish(stream(U1), b"1")
        await gets(bob, b"1")
        await eventually(lambda: meta in capfd.readouterr().out, "an error that names the key")
        assert not joining.done()
        await pair.to_first.call("DEL", meta, timeout_seconds=5)
        ann = await joining
        await publisher.publish(stream(U0), b"2")
        await gets(ann, b"2")
    finally:
        await replica.end()


async def test_a_bucket_whose_life_is_no_good_keeps_only_its_own_clients_waiting(
    pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    replica = Replica(pair.settings)
    publisher = Publisher(pair.to_first)
    try:
        await pair.to_first.call("HSET", KEYS.life("u0"), "n:risk-events/0", "x", timeout_seconds=5)
        joining = asyncio.create_task(replica.connect(U0))
        bob = await replica.connect(U1)
        await publisher.publish(stream(U1), b"1")
        await gets(bob, b"1")
        await eventually(lambda: KEYS.life("u0") in capfd.readouterr().out, "an error that names the key")
        await pair.to_first.call("DEL", KEYS.life("u0"), timeout_seconds=5)
        await joining
    finally:
        await replica.end()


async def test_a_beat_that_is_no_number_is_said_and_waited_for(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    await pair.to_first.call("HSET", KEYS.life("g"), "beat", "x", timeout_seconds=5)
    replica = Replica(pair.settings)
    try:
        await eventually(lambda: f"the field beat of {KEYS.life('g')}" in capfd.readouterr().out, "the error")
        await pair.to_first.call("HDEL", KEYS.life("g"), "beat", timeout_seconds=5)
        await replica.connect(U0)
    finally:
        await replica.end()


@pytest.mark.parametrize("damage", ["log", "meta"])
async def test_a_history_that_cannot_be_read_holds_up_no_other(
    pair: Pair, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    replica = Replica(pair.settings)
    publisher = Publisher(pair.to_first)
    key = KEYS.log(stream(U0)) if damage == "log" else KEYS.meta(stream(U0))
    try:
        ann, bob = await replica.connect(U0), await replica.connect(U1)
        everyone = [member.audience for member in (ann, bob)]
        for name in (U0, U1):
            await publisher.publish(stream(name), b"1", heard=False)
        await pair.to_first.call("RENAME", key, f"{key}:kept", timeout_seconds=5)
        damaged = ("SET", key, "x") if damage == "log" else ("HSET", key, "epoch", "a", "seq", "x")
        await pair.to_first.call(*damaged, timeout_seconds=5)
        for audience in everyone:
            assert audience is not None
            replica.hub.suspect(audience)
        await gets(bob, b"1")
        await eventually(lambda: key in capfd.readouterr().out, "an error that names the key")
        await pair.to_first.call("RENAME", f"{key}:kept", key, timeout_seconds=5)
        await gets(ann, b"1")
        assert replica.history._put_off == {}
    finally:
        await replica.end()


async def test_a_stream_that_nobody_wants_any_more_is_not_read_for_ever(pair: Pair) -> None:
    replica = Replica(pair.settings)
    try:
        ann = await replica.connect(U0)
        audience = ann.audience
        assert audience is not None
        await pair.to_first.call("SET", KEYS.log(stream(U0)), "x", timeout_seconds=5)
        replica.hub.suspect(audience)
        await eventually(lambda: audience in replica.history._put_off, "the refusal")
        replica.hub.leave(ann)
        replica.hub.tick(1000)
        await eventually(lambda: replica.history._put_off == {}, "it to be forgotten")
        assert replica.history._requested == {}
        await eventually(lambda: replica.history._readers == {}, "its reader to end")
    finally:
        await replica.end()


async def synced(link: Link) -> None:
    async def connected() -> bool:
        role = await link.call("ROLE", timeout_seconds=5)
        return bool(role[3] == b"connected")

    await eventually(connected, "the replica to follow")


async def beat_for_ever(publisher: Publisher) -> None:
    while True:
        with contextlib.suppress(RedisRefused):  # its server is a replica now
            await publisher.beat()
        await asyncio.sleep(0.05)
