"""The publisher against a real Valkey: what it does when Redis changes under it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from harness.waiting import eventually

from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url
from relay.batch import Batch, make_batch
from relay.decode import Decode
from relay.positions import Start
from relay.publisher import Publisher
from relay.routes import Partition
from relay.settings import HistorySettings
from shared.errors import EpochChanged, RelayStopped
from shared.keys import GLOBAL, Keys
from shared.link import RedisAddress
from shared.links import Links
from shared.message import parse_message
from shared.metrics import RelayMetrics
from shared.servers import Servers
from shared.settings import RedisSettings
from shared.topology import Placement, slot_of

RISK = Partition("risk-events", 2)
REGIME = Partition("regime-events", 0)
BUCKETS = 3
KEYS = Keys(user_buckets=BUCKETS)


class R:
    """A record."""

    timestamp, key, headers = 1000, None, ()

    def __init__(self, offset: int, value: bytes = b'{"user_id":"alice"}') -> None:
        self.offset = offset
        self.value = value


def batch_of(publisher: Publisher, *offsets: int, partition: Partition = RISK) -> Batch:
    return make_batch(
        {partition: [R(offset) for offset in offsets]},
        term=publisher.term,
        generations={partition: 1},
        decode=Decode(1000, {}),
        keys=KEYS,
    )


class Server:
    """A Valkey of this test's own, which can be stopped and started."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.redis: Any = redis.Redis(port=process.port)

    def settings(self, **changes: Any) -> RedisSettings:
        values = {"redis_url": redis_url(self.process), "redis_user_buckets": BUCKETS, "redis_timeout_seconds": 2}
        return RedisSettings(**(values | changes))

    def publisher(self, **changes: Any) -> Publisher:
        return Publisher(self.settings(**changes), HistorySettings(), RelayMetrics())

    def sources(self, user_id: str = "alice") -> list[str]:
        stream = KEYS.user_stream(user_id)
        return [parse_message(fields[b"m"]).id for _, fields in self.redis.xrange(KEYS.log(stream))]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Processes() as processes:
        server = Server(await add_valkey(processes).start().wait_until_ready())
        yield server
        server.redis.close()


@pytest.fixture
async def publisher(server: Server) -> AsyncIterator[Publisher]:
    publisher = server.publisher()
    await publisher.enter()
    yield publisher
    publisher.close()


async def until(condition: Callable[[], object]) -> None:
    await eventually(lambda: bool(condition()), "it to come to be", seconds=10, poll_seconds=0.01)


async def test_entering_begins_an_epoch_in_every_bucket(server: Server, publisher: Publisher) -> None:
    epochs = {bucket: server.redis.hget(KEYS.life(bucket), "epoch") for bucket in KEYS.buckets}
    assert len(epochs) == 1 + BUCKETS
    assert all(epoch.isalnum() and epoch == epoch.lower() for epoch in epochs.values())
    assert (publisher.term, publisher.is_up) == (1, True)
    assert server.redis.get(KEYS.layout) == b"3"


async def test_another_relay_adopts_the_epochs(server: Server, publisher: Publisher) -> None:
    before = {bucket: server.redis.hgetall(KEYS.life(bucket)) for bucket in KEYS.buckets}
    other = server.publisher()
    await other.enter()
    assert {bucket: server.redis.hgetall(KEYS.life(bucket)) for bucket in KEYS.buckets} == before
    assert await publisher.publish(batch_of(publisher, 1)) == [1]
    assert await other.publish(batch_of(other, 1, 2)) == [1]
    assert server.sources() == ["risk-events/2/1", "risk-events/2/2"]
    other.close()


async def test_a_batch_goes_to_all_its_buckets(server: Server, publisher: Publisher) -> None:
    batch = make_batch(
        {REGIME: [R(4)], RISK: [R(n, b'{"user_id":%d}' % n) for n in range(20)]},
        term=publisher.term,
        generations={REGIME: 1, RISK: 1},
        decode=Decode(1000, {}),
        keys=KEYS,
    )
    assert len(batch.buckets) == 1 + BUCKETS
    assert await publisher.publish(batch) == [1, 20]
    assert await publisher.publish(batch) == [0, 0]
    assert server.redis.xlen(KEYS.log(GLOBAL)) == 1
    for bucket in KEYS.buckets:
        assert server.redis.hmget(KEYS.life(bucket), "n:regime-events/0", "n:risk-events/2") == [b"5", b"20"]


async def test_a_beat_raises_next_in_buckets_that_no_batch_touched(server: Server, publisher: Publisher) -> None:
    await publisher.publish(batch_of(publisher, 7))
    await publisher.beat()
    for bucket in KEYS.buckets:
        assert server.redis.hmget(KEYS.life(bucket), "n:risk-events/2", "beat") == [b"8", b"1"]


async def test_starts_are_stored_where_they_are_missing_only(server: Server, publisher: Publisher) -> None:
    server.redis.hset(KEYS.life("u1"), "n:risk-events/2", 9)
    await publisher.store_starts(publisher.term, {RISK: Start(5, 1, ("g", "u0", "u2"))})
    term, lives = await publisher.read_lives()
    assert term == publisher.term
    assert lives == {bucket: {"risk-events/2": 9 if bucket == "u1" else 5} for bucket in KEYS.buckets}


async def test_the_very_first_start_is_recorded_once(publisher: Publisher) -> None:
    assert await publisher.record_first_start({}) == {}
    assert await publisher.record_first_start({RISK: 5, REGIME: 0}) == {RISK: 5, REGIME: 0}
    assert await publisher.record_first_start({RISK: 8}) == {RISK: 5, REGIME: 0}
    assert await publisher.record_first_start({}) == {RISK: 5, REGIME: 0}


async def test_forgotten_scripts_are_loaded_again(server: Server, publisher: Publisher) -> None:
    server.redis.script_flush()
    assert await publisher.publish(batch_of(publisher, 1)) == [1]
    assert publisher.term == 1


async def test_a_cut_link_is_made_again_and_the_batch_repeated(server: Server, publisher: Publisher) -> None:
    await publisher.publish(batch_of(publisher, 1))
    server.redis.client_kill_filter(_type="normal", skipme=True)
    assert await publisher.publish(batch_of(publisher, 1, 2)) == [1]
    assert publisher.term == 1
    assert server.sources() == ["risk-events/2/1", "risk-events/2/2"]


async def test_after_a_restart_what_was_read_before_is_refused(server: Server, publisher: Publisher) -> None:
    await publisher.publish(batch_of(publisher, 1))
    stale = batch_of(publisher, 2)
    await server.process.restart()
    with pytest.raises(EpochChanged):
        await publisher.publish(stale)
    assert publisher.term == 2
    assert server.sources() == []
    assert await publisher.publish(batch_of(publisher, 1, 2)) == [2]


async def test_next_of_an_earlier_epoch_is_never_raised_in_a_later_one(server: Server, publisher: Publisher) -> None:
    await publisher.publish(batch_of(publisher, 1))
    await server.process.restart()
    await publisher.beat()
    _, lives = await publisher.read_lives()
    assert lives == {bucket: {} for bucket in KEYS.buckets}


@pytest.mark.parametrize("field", ["epoch", "run_id", "master_replid"])
async def test_an_epoch_that_ended_unnoticed_is_noticed_by_the_script(
    field: str, server: Server, publisher: Publisher
) -> None:
    server.redis.hset(KEYS.life("u1"), field, "other")
    user = next(str(n) for n in range(99) if KEYS.user_stream(str(n)).bucket == "u1")
    batch = make_batch(
        {RISK: [R(1, b'{"user_id":"%s"}' % user.encode())]},
        term=publisher.term,
        generations={RISK: 1},
        decode=Decode(1000, {}),
        keys=KEYS,
    )
    with pytest.raises(EpochChanged):
        await publisher.publish(batch)
    assert server.sources(user) == []
    batch.term = publisher.term
    assert await publisher.publish(batch) == [1]


async def test_starts_of_an_earlier_epoch_are_refused(server: Server, publisher: Publisher) -> None:
    server.redis.hset(KEYS.life("u1"), "epoch", "other")
    term = publisher.term
    with pytest.raises(EpochChanged):
        await publisher.store_starts(term, {RISK: Start(5, 1, KEYS.buckets)})


async def test_without_redis_a_batch_waits_and_is_not_lost(server: Server, publisher: Publisher) -> None:
    batch = batch_of(publisher, 1)
    server.redis.config_set("maxmemory", "1")  # as it is when Redis is full
    publishing = asyncio.create_task(publisher.publish(batch))
    await until(lambda: not publisher.is_up)
    assert not publishing.done()
    server.redis.config_set("maxmemory", "0")
    assert await publishing == [1]
    assert publisher.is_up
    assert server.sources() == ["risk-events/2/1"]


async def test_a_server_that_is_not_there_yet_is_waited_for(server: Server) -> None:
    await server.process.kill()
    publisher = server.publisher()
    entering = asyncio.create_task(publisher.enter())
    await asyncio.sleep(0)
    assert not publisher.is_up
    await server.process.start().wait_until_ready()
    await entering
    assert publisher.is_up
    publisher.close()


async def test_a_server_that_hangs_is_given_up_and_entered_again(server: Server) -> None:
    publisher = server.publisher(redis_timeout_seconds=0.2)
    await publisher.enter()
    server.redis.execute_command("CLIENT", "PAUSE", 1000, "WRITE")
    assert await publisher.publish(batch_of(publisher, 1)) in ([0], [1])
    assert server.sources() == ["risk-events/2/1"]
    publisher.close()


async def test_another_number_of_buckets_stops_the_relay(server: Server, publisher: Publisher) -> None:
    other = server.publisher(redis_user_buckets=2)
    with pytest.raises(RelayStopped, match=r"REDIS_USER_BUCKETS=3, not 2"):
        await other.enter()
    other.close()


async def test_a_memory_policy_that_evicts_stops_the_relay(server: Server) -> None:
    server.redis.config_set("maxmemory-policy", "allkeys-lru")
    publisher = server.publisher()
    with contextlib.closing(publisher), pytest.raises(RelayStopped, match=r"allkeys-lru.* noeviction"):
        await publisher.enter()
    assert server.redis.dbsize() == 0


# Several servers


class Two:
    """Two servers of which the second holds u1, and the publisher's way to them."""

    def __init__(self, first: Server, second: Server) -> None:
        self.first, self.second = first, second
        addresses = [RedisAddress("127.0.0.1", server.process.port) for server in (first, second)]
        slot = slot_of("{u1}")
        self.servers = Servers(first.settings())
        placement = Placement((0, slot, slot + 1), (addresses[0], addresses[1], addresses[0]))
        self.servers._ask = self._ask  # type: ignore[method-assign]
        self.placement = placement
        self.publisher = first.publisher()
        self.publisher._links = Links(first.settings(), "unit", self.servers)

    async def _ask(self) -> Placement:
        self.servers._placement = self.placement
        return self.placement

    def batch(self, offset: int) -> Batch:
        """For everyone, and for users in all buckets."""
        values = [b'{"user_id":%d}' % number for number in range(20)]
        return make_batch(
            {REGIME: [R(offset)], RISK: [R(20 * offset + number, value) for number, value in enumerate(values)]},
            term=self.publisher.term,
            generations={REGIME: 1, RISK: 1},
            decode=Decode(1000, {}),
            keys=KEYS,
        )

    def epochs(self) -> dict[str, bytes]:
        return {bucket: self.of(bucket).hget(KEYS.life(bucket), "epoch") for bucket in KEYS.buckets}

    def of(self, bucket: str) -> Any:
        return (self.second if bucket == "u1" else self.first).redis


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with Processes() as processes:
        servers = [
            Server(await add_valkey(processes, name=f"valkey-{number}").start().wait_until_ready()) for number in (0, 1)
        ]
        two = Two(*servers)
        await two.publisher.enter()
        yield two
        two.publisher.close()
        for server in servers:
            server.redis.close()


async def test_each_bucket_is_published_on_its_own_server(two: Two) -> None:
    await two.publisher.publish(two.batch(1))
    await two.publisher.beat()
    for bucket in KEYS.buckets:
        assert two.of(bucket).hmget(KEYS.life(bucket), "n:regime-events/0", "beat") == [b"2", b"1"]
    assert {key.split(b":")[1] for key in two.second.redis.keys("*")} == {b"{u1}"}
    assert b"{u1}" not in {key.split(b":")[1] for key in two.first.redis.keys("*") if b"{" in key}


async def test_a_server_that_restarts_begins_its_own_buckets_epochs_only(two: Two) -> None:
    before = two.epochs()
    batch = two.batch(1)
    await two.second.process.restart()
    with pytest.raises(EpochChanged):
        await two.publisher.publish(batch)
    after = two.epochs()
    assert {bucket for bucket in KEYS.buckets if before[bucket] != after[bucket]} == {"u1"}
    assert two.publisher.term == 2


async def test_a_bucket_that_moved_is_found_and_begins_an_epoch(two: Two) -> None:
    await two.publisher.publish(two.batch(1))
    before = two.epochs()
    for key in two.second.redis.keys("*"):
        two.second.redis.migrate("127.0.0.1", two.first.process.port, key, 0, 5000)
    two.placement = Placement.on(RedisAddress("127.0.0.1", two.first.process.port))
    link = two.publisher._link_of["u1"]
    two.second.redis.replicaof("127.0.0.1", two.first.process.port)  # it refuses from now on
    with pytest.raises(EpochChanged):
        await two.publisher.publish(two.batch(2))
    assert link.is_lost
    assert two.first.redis.hget(KEYS.life("u1"), "epoch") not in (None, before["u1"])
    assert set(two.publisher._link_of.values()) == {two.publisher._link_of["g"]}


async def test_while_one_server_is_away_a_batch_waits_and_is_published_once(two: Two) -> None:
    batch = two.batch(1)
    two.second.redis.config_set("maxmemory", "1")
    publishing = asyncio.create_task(two.publisher.publish(batch))
    await until(lambda: not two.publisher.is_up)
    assert not publishing.done()
    two.second.redis.config_set("maxmemory", "0")
    await publishing
    for bucket in KEYS.buckets:
        for key in two.of(bucket).keys(f"notify:{{{bucket}}}:log:*"):
            ids = [parse_message(fields[b"m"]).id for _, fields in two.of(bucket).xrange(key)]
            assert len(ids) == len(set(ids))
    assert two.first.redis.xlen(KEYS.log(GLOBAL)) == 1


async def test_a_promotion_there_and_back_begins_an_epoch_though_no_relay_called_in_between() -> None:
    async with Processes() as processes:
        at_once = ("--repl-diskless-sync-delay", "0")  # a primary waits 5 s for more replicas
        first, second = [
            Server(await add_valkey(processes, name=f"valkey-{number}", options=at_once).start().wait_until_ready())
            for number in (0, 1)
        ]

        async def follow(server: Server, primary: Server) -> None:
            server.redis.replicaof("127.0.0.1", primary.process.port)
            await until(lambda: server.redis.role()[3] == b"connected")

        await follow(second, first)
        publisher = first.publisher()
        await publisher.enter()
        run_id, before = first.redis.info("server")["run_id"], first.redis.hget(KEYS.life("u1"), "epoch")
        await publisher.publish(batch_of(publisher, 1))
        stale = batch_of(publisher, 2)
        await until(lambda: second.sources() == ["risk-events/2/1"])
        second.redis.replicaof("NO", "ONE")
        await follow(first, second)
        first.redis.replicaof("NO", "ONE")
        assert first.redis.info("server")["run_id"] == run_id
        assert first.sources() == ["risk-events/2/1"]
        with pytest.raises(EpochChanged):
            await publisher.publish(stale)
        assert first.redis.hget(KEYS.life("u1"), "epoch") != before
        publisher.close()
        for server in (first, second):
            server.redis.close()
