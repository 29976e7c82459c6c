"""The relay's own decisions, with the real publisher and scripts on a real Valkey; Kafka is scripted.

The last test lets relays die, be zombies and lose partitions, and buckets lose their tail or all,
at random: in the end every stream must have each of its events once, in the order of its partition.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from harness.waiting import eventually
from structlog.testing import capture_logs

from demo.process import Process, Processes
from demo.valkey import add_valkey, redis_url
from relay.batch import DeadLetter, Gap
from relay.positions import Commit, Ends, Place, parse_commit
from relay.publisher import Publisher
from relay.relay import ANEW_LOOKS, ANEW_SECONDS, Relay
from relay.routes import Partition, partition_name
from relay.settings import EventSettings, HistorySettings, KafkaSettings
from shared.errors import BrokerUnavailable, RelayStopped, Undecodable
from shared.keys import GLOBAL, Keys, StreamName
from shared.message import Message, parse_message
from shared.metrics import RelayMetrics
from shared.settings import RedisSettings

RISK = Partition("risk-events", 0)
REGIME = Partition("regime-events", 1)


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes
    timestamp: int = 1000
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Kafka:
    """Partitions, and what the group committed."""

    logs: dict[Partition, list[bytes]] = field(default_factory=lambda: {RISK: [], REGIME: []})
    commits: dict[Partition, tuple[int, str]] = field(default_factory=dict)
    beginnings: dict[Partition, int] = field(default_factory=dict)
    timestamps: dict[Partition, int] = field(default_factory=lambda: defaultdict(lambda: 1000))

    def make_anew(self, partition: Partition, *values: bytes) -> None:
        """Its topic is deleted and made again."""
        self.logs[partition] = list(values)
        self.timestamps[partition] += 1000

    def send(self, partition: Partition, value: bytes) -> None:
        self.logs[partition].append(value)


class ScriptedConsumer:
    """Stands where the consumer does; the test says what is assigned."""

    def __init__(self, kafka: Kafka, *partitions: Partition) -> None:
        self.kafka = kafka
        self.assigned: frozenset[Partition] | None = frozenset(partitions)
        self.is_moved = True
        self.is_dead = False
        self.is_deaf = False
        self.is_away = False
        self.undecodable: dict[Partition, range] = {}
        self.failures: list[Exception] = []
        self.seeks: list[dict[Partition, int]] = []
        self.fetched: frozenset[Partition] = frozenset()
        self.batch_events = 50
        self._positions: dict[Partition, int] = {}

    def move(self, *partitions: Partition) -> None:
        self.assigned, self.is_moved = frozenset(partitions), True

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def read(self) -> Mapping[Partition, list[R]]:
        await asyncio.sleep(0.002)
        found: dict[Partition, list[R]] = {}
        if not self.is_moved and any(
            self._positions[partition] < gap.stop <= len(self.kafka.logs[partition])
            for partition, gap in self.undecodable.items()
        ):
            self.is_moved = True
            raise Undecodable("risk-events/0 at offset 2")
        if not self.is_moved and not self.is_deaf:
            for partition, position in self._positions.items():
                values = self.kafka.logs[partition][position : position + self.batch_events]
                if values:
                    found[partition] = [
                        R(position + n, value, self.kafka.timestamps[partition]) for n, value in enumerate(values)
                    ]
                    self._positions[partition] += len(values)
        return found

    async def ends_of_all(self) -> dict[Partition, int]:
        if self.failures:
            raise self.failures.pop(0)
        return {partition: len(log) for partition, log in self.kafka.logs.items()}

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, Ends]:
        beginnings = self.kafka.beginnings
        return {
            partition: Ends(beginnings.get(partition, 0), len(self.kafka.logs[partition])) for partition in partitions
        }

    async def end_offsets(self) -> dict[Partition, int]:
        if self.is_away:
            raise BrokerUnavailable("away")
        return {partition: len(self.kafka.logs[partition]) for partition in self.assigned or ()}

    async def positions(self) -> dict[Partition, int] | None:
        return None if self.is_moved else dict(self._positions)

    async def commits(self, partitions: Iterable[Partition]) -> dict[Partition, Commit | None]:
        return {partition: parse_commit(*self.kafka.commits.get(partition, (-1, ""))) for partition in partitions}

    async def offsets_at(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int | None]:
        return dict.fromkeys(times_ms, 0)

    async def timestamps_of(self, places: Collection[Place]) -> dict[Place, int]:
        kafka = self.kafka
        return {
            (partition, offset): kafka.timestamps[partition]
            for partition, offset in places
            if kafka.beginnings.get(partition, 0) <= offset < len(kafka.logs[partition])
        }

    async def find_undecodable(self, positions: Mapping[Partition, int]) -> Gap | None:
        for partition, gap in self.undecodable.items():
            rows = [R(offset, self.kafka.logs[partition][offset]) for offset in range(positions[partition], gap.start)]
            return Gap(partition, gap.start, gap.stop, rows)
        return None

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        if offsets.keys() == self.assigned:
            self.seeks.append(dict(offsets))
            self._positions, self.is_moved = dict(offsets), False

    async def commit(self, offsets: Mapping[Partition, tuple[int, str]]) -> bool:
        ours = {partition: commit for partition, commit in offsets.items() if partition in (self.assigned or ())}
        if not self.is_dead:
            self.kafka.commits.update(ours)
        return not self.is_dead

    def highwater(self, partition: Partition) -> int | None:
        return len(self.kafka.logs[partition])


class ScriptedDeadLetters:
    """Stands where the dead letters are written."""

    def __init__(self) -> None:
        self.written: list[DeadLetter] = []
        self.failure: Exception | None = None

    async def write(self, letters: list[DeadLetter]) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.written += letters

    async def stop(self) -> None: ...


class Running:
    """One relay at work."""

    def __init__(self, world: "World", *partitions: Partition) -> None:
        self.consumer = ScriptedConsumer(world.kafka, *partitions)
        self.dead_letters = ScriptedDeadLetters()
        self.metrics = RelayMetrics()
        self.publisher = Publisher(world.settings, world.history, self.metrics)
        self.relay = Relay(
            consumer=self.consumer,  # type: ignore[arg-type]
            publisher=self.publisher,
            dead_letters=self.dead_letters,  # type: ignore[arg-type]
            kafka=KafkaSettings(),
            events=EventSettings(),
            history=world.history,
            keys=world.keys,
            metrics=self.metrics,
            stop_seconds=0.5,
        )
        self.task = asyncio.create_task(self.relay.run())

    async def stop(self) -> None:
        if self.task.done():
            return
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def kill(self) -> None:
        """As near to kill -9 as one process allows: the link is cut, nothing is committed."""
        self.consumer.is_dead = True
        self.publisher.close()
        self.relay._stop_seconds = 0
        await self.stop()


class World:
    """One prefix on a Valkey, one Kafka, and the relays between them."""

    def __init__(self, valkey: Process, prefix: str = "notify", user_buckets: int = 2) -> None:
        self.kafka = Kafka()
        self.keys = Keys(prefix, user_buckets)
        self.settings = RedisSettings(
            redis_url=redis_url(valkey), redis_prefix=prefix, redis_user_buckets=user_buckets, redis_timeout_seconds=2
        )
        self.history = HistorySettings(history_messages_global=10**6, history_messages_user=10**6)
        self.redis: Any = redis.Redis(port=valkey.port)
        self.relays: list[Running] = []

    def start(self, *partitions: Partition) -> Running:
        self.relays.append(Running(self, *partitions))
        return self.relays[-1]

    async def close(self) -> None:
        for relay in self.relays:
            await relay.stop()
        self.redis.close()

    def messages(self, stream: StreamName) -> list[Message]:
        return [parse_message(fields[b"m"]) for _, fields in self.redis.xrange(self.keys.log(stream))]

    def offsets(self, stream: StreamName) -> list[int]:
        return [message.offset for message in self.messages(stream)]

    def next_offset(self, bucket: str, partition: str) -> int:
        return int(self.redis.hget(self.keys.life(bucket), f"n:{partition}") or -1)

    # What may happen to a bucket

    def bucket_keys(self, bucket: str) -> list[bytes]:
        return list(self.redis.keys(f"{self.keys.prefix}:{{{bucket}}}:*"))

    def snapshot(self, bucket: str) -> dict[bytes, bytes]:
        with self.redis.pipeline() as pipe:
            keys = self.bucket_keys(bucket)
            for key in keys:
                pipe.dump(key)
            return {key: dump for key, dump in zip(keys, pipe.execute(), strict=True) if dump}

    def fail_over(self, bucket: str, snapshot: dict[bytes, bytes]) -> None:
        """A replica that had got as far as `snapshot` is promoted."""
        with self.redis.pipeline() as pipe:
            pipe.delete("none", *self.bucket_keys(bucket))
            for key, dump in snapshot.items():
                pipe.restore(key, 0, dump, replace=True)
            if snapshot:
                pipe.hset(self.keys.life(bucket), "master_replid", "of the server before")
            pipe.execute()


@pytest.fixture
async def valkey() -> AsyncIterator[Process]:
    async with Processes() as processes:
        yield await add_valkey(processes).start().wait_until_ready()


@pytest.fixture
async def world(valkey: Process) -> AsyncIterator[World]:
    world = World(valkey)
    yield world
    await world.close()


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    await eventually(lambda: bool(condition()), "it to come to be", seconds=seconds, poll_seconds=0.01)


ALICE = Keys(user_buckets=2).user_stream("alice")


async def test_events_go_through_and_are_committed_with_their_time(world: World) -> None:
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    world.kafka.send(REGIME, b"{}")
    await until(lambda: world.offsets(ALICE) == [0] and world.offsets(GLOBAL) == [0])
    await until(lambda: world.kafka.commits == {RISK: (1, "1:1000"), REGIME: (1, "1:1000")})


def metric(relay: Running, name: str, **labels: str) -> float | None:
    return relay.metrics.registry.get_sample_value(f"notify_relay_{name}", labels)


async def test_what_waits_has_an_age_and_what_does_not_has_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.relay.MEASURE_SECONDS", 0.01)
    relay = world.start(RISK, REGIME)
    await until(lambda: metric(relay, "state", state="ready") == 1)
    held = asyncio.Event()

    async def write(letters: list[DeadLetter]) -> None:
        await held.wait()

    monkeypatch.setattr(relay.dead_letters, "write", write)
    world.kafka.timestamps[RISK] = int(time.time() * 1000) - 60_000
    for value in (b"poison", b'{"user_id":"alice"}'):
        world.kafka.send(RISK, value)
    await until(lambda: (metric(relay, "lag_seconds", topic="risk-events") or 0) >= 60)
    assert metric(relay, "lag_records", topic="risk-events") == 2
    assert metric(relay, "lag_seconds", topic="regime-events") == 0
    held.set()
    await until(lambda: metric(relay, "lag_seconds", topic="risk-events") == 0)
    assert metric(relay, "lag_records", topic="risk-events") == 0


async def test_what_is_no_record_does_not_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what ends a transaction: it has an offset, and nobody is given it."""
    monkeypatch.setattr("relay.relay.MEASURE_SECONDS", 0.01)
    relay = world.start(RISK)
    await until(lambda: metric(relay, "state", state="ready") == 1)
    world.kafka.timestamps[RISK] = int(time.time() * 1000) - 60_000
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.offsets(ALICE) == [0])
    monkeypatch.setattr(relay.consumer, "highwater", lambda _: 2)
    await until(lambda: metric(relay, "lag_records", topic="risk-events") == 1)
    relay.consumer._positions[RISK] = 2
    await until(lambda: metric(relay, "lag_records", topic="risk-events") == 0)
    assert metric(relay, "lag_seconds", topic="risk-events") == 0


async def test_a_relay_says_what_it_is_and_who_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.relay.MEASURE_SECONDS", 0.01)
    monkeypatch.setattr("relay.watch.LOOK_SECONDS", 0.01)
    relay = world.start(RISK)
    assert metric(relay, "state", state="starting") == 1
    assert math.isnan(metric(relay, "redpanda_up") or 0), "it was not asked yet"
    await until(lambda: metric(relay, "redpanda_up") == 1 and metric(relay, "state", state="ready") == 1)
    assert metric(relay, "state", state="starting") == 0
    relay.consumer.is_away = True
    await until(lambda: metric(relay, "redpanda_up") == 0 and metric(relay, "state", state="stalled") == 1)
    assert (metric(relay, "redis_round_trip_seconds_count") or 0) > 0


async def test_a_start_is_committed_before_any_record_was_read(world: World) -> None:
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    assert world.kafka.commits == {RISK: (1, "1:"), REGIME: (0, "1:")}
    assert all(world.next_offset(bucket, "risk-events/0") == 1 for bucket in world.keys.buckets)


async def test_a_commit_of_ours_does_not_take_back_what_another_relay_committed_meanwhile(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (1, "1:1000"))
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.next_offset("g", "risk-events/0") == 2)
    relay.consumer.move(RISK)  # as if it had been away and come back
    world.kafka.logs[RISK] += [b'{"event_type":"other"}'] * 8
    world.kafka.commits[RISK] = (10, "1:2000")
    await relay.relay._commit_progress()
    assert world.kafka.commits[RISK] == (10, "1:2000")


async def test_a_relay_whose_starts_cannot_be_committed_is_not_ready(world: World) -> None:
    relay = world.start(RISK)
    relay.consumer.is_dead = True
    await until(lambda: world.next_offset("g", "risk-events/0") == 0)
    await asyncio.sleep(0.05)
    assert not relay.relay.is_running
    assert relay.consumer.seeks == []
    relay.consumer.is_dead = False
    await until(lambda: relay.relay.is_running)
    assert world.kafka.commits == {RISK: (0, "1:")}


async def test_the_relay_is_ready_when_its_starts_are_stored(world: World) -> None:
    relay = world.start(RISK)
    relay.consumer.assigned = None
    await until(lambda: relay.publisher.is_up)
    await asyncio.sleep(0.05)
    assert relay.relay.not_ready_because == "waiting for Redpanda and the group"
    relay.consumer.move(RISK)
    await until(lambda: relay.relay.not_ready_because is None)
    assert world.next_offset("g", "risk-events/0") == 0


async def test_a_relay_stopped_in_good_order_finishes_its_batch_and_commits(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(500):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.offsets(ALICE))
    await relay.stop()
    offsets = world.offsets(ALICE)
    assert offsets == list(range(len(offsets)))
    assert world.kafka.commits[RISK] == (len(offsets), "1:1000")


async def test_a_relay_stopped_in_good_order_leaves_nothing_to_be_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not a dead letter either: a relay that takes larger records would publish it, and a redrive again.
    monkeypatch.setattr("relay.relay.BEAT_SECONDS", 60)
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b"poison")
    await until(lambda: relay.dead_letters.written)
    await relay.stop()
    assert {world.next_offset(bucket, "risk-events/0") for bucket in world.keys.buckets} == {1}


async def test_commits_never_go_back_when_reading_does(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(100):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (100, "1:1000"))
    relay.consumer.batch_events = 1
    world.fail_over(ALICE.bucket, {})
    await until(lambda: len(relay.consumer.seeks) == 2)
    assert relay.consumer.seeks[1] == {RISK: 0}
    while len(world.offsets(ALICE)) < 100:
        assert world.kafka.commits[RISK] == (100, "1:1000")
        await asyncio.sleep(0.01)
    await relay.stop()
    assert world.kafka.commits[RISK] == (100, "1:1000")
    assert world.offsets(ALICE) == list(range(100))


async def test_a_lost_tail_is_published_again_though_nothing_new_arrives(world: World) -> None:
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.offsets(ALICE) == [0])
    snapshot = world.snapshot(ALICE.bucket)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    world.kafka.send(REGIME, b"{}")
    await until(lambda: world.offsets(ALICE) == [0, 1])
    world.fail_over(ALICE.bucket, snapshot)
    await until(lambda: world.offsets(ALICE) == [0, 1])
    first, second = world.messages(ALICE)
    assert first.epoch != second.epoch
    assert world.offsets(GLOBAL) == [0]


async def test_next_passes_a_dead_letter_only_when_it_is_written(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b"poison")
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.next_offset("g", "risk-events/0") == 2)
    assert [letter.record.offset for letter in relay.dead_letters.written] == [0]
    relay.dead_letters.failure = RelayStopped("the topic is gone")
    world.kafka.send(RISK, b"poison")
    with pytest.raises(RelayStopped, match="the topic is gone"):
        await asyncio.wait_for(relay.task, 10)
    assert world.next_offset("g", "risk-events/0") == 2
    assert world.kafka.commits[RISK][0] == 2


async def test_what_became_of_each_record_is_counted(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for value in (b"poison", b'{"user_id":"alice"}', b'{"event_type":"other"}', b'{"user_id":"bob"}'):
        world.kafka.send(RISK, value)
    await until(lambda: world.next_offset("g", "risk-events/0") == 4)

    def count(result: str) -> float | None:
        labels = {"topic": "risk-events", "result": result}
        return relay.metrics.registry.get_sample_value("notify_relay_events_total", labels)

    await until(lambda: count("published") == 2)
    assert (count("skipped"), count("dead_lettered"), count("duplicate")) == (1, 1, 0)
    world.redis.hdel(world.keys.life("g"), "n:risk-events/0")
    relay.consumer.move(RISK)
    await until(lambda: count("duplicate") == 2)


async def test_a_broker_that_does_not_answer_is_asked_again(world: World) -> None:
    relay = Running(world, RISK)
    world.relays.append(relay)
    relay.consumer.failures = [BrokerUnavailable("away"), BrokerUnavailable("away")]
    await until(lambda: relay.relay.is_running)
    assert relay.consumer.failures == []


async def test_a_partition_taken_away_while_its_start_is_chosen_is_not_sought(world: World) -> None:
    relay = world.start(RISK, REGIME)
    relay.consumer.failures = [BrokerUnavailable("away")]
    await asyncio.sleep(0)
    relay.consumer.move(REGIME)
    await until(lambda: relay.relay.is_running and not relay.consumer.is_moved)
    assert relay.consumer.seeks[-1] == {REGIME: 0}


async def test_a_topic_made_anew_is_read_from_its_beginning_in_a_new_generation(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (5, "1:1000"))
    world.kafka.make_anew(RISK, *[b'{"user_id":"alice","again":1}'] * 2)
    relay.consumer.move(RISK)
    await until(lambda: len(world.messages(ALICE)) == 7)
    assert [m.id for m in world.messages(ALICE)][-3:] == ["risk-events/0/4", "risk-events~2/0/0", "risk-events~2/0/1"]
    await until(lambda: world.kafka.commits[RISK] == (2, "2:2000"))
    labels = {"topic": "risk-events"}
    assert relay.metrics.registry.get_sample_value("notify_relay_topics_made_anew_total", labels) == 1
    await relay.stop()
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    world.start(RISK)
    await until(lambda: world.messages(ALICE)[-1].id == "risk-events~2/0/2")


def ids(world: World) -> list[str]:
    return [message.id for message in world.messages(ALICE)]


OLD = [f"risk-events/0/{n}" for n in range(5)]
NEW = [f"risk-events~2/0/{n}" for n in range(9)]
AGAIN = [b'{"user_id":"alice","again":1}'] * 9


@pytest.fixture
async def five_were_read(world: World, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A relay that has published and committed five events, and remembers one."""
    monkeypatch.setattr("relay.relay.REMEMBER_SECONDS", 0.05)
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (5, "1:1000"))
    await until(lambda: world.redis.hget(world.keys.witnesses, "risk-events/0") == b"4:1000")
    return relay


async def test_a_topic_made_anew_and_filled_beyond_our_position_is_read_from_its_beginning(
    world: World, five_were_read: Running
) -> None:
    await five_were_read.stop()
    world.kafka.make_anew(RISK, *AGAIN)
    world.start(RISK)
    await until(lambda: ids(world) == OLD + NEW)


async def test_it_is_noticed_when_the_commits_are_gone_with_the_topic(world: World, five_were_read: Running) -> None:
    await five_were_read.stop()
    world.kafka.make_anew(RISK, *AGAIN)
    del world.kafka.commits[RISK]
    world.start(RISK)
    await until(lambda: ids(world) == OLD + NEW)


async def test_it_is_noticed_when_redis_forgot(world: World, five_were_read: Running) -> None:
    await five_were_read.stop()
    world.kafka.make_anew(RISK, *AGAIN)
    world.redis.delete(world.keys.witnesses)
    world.start(RISK)
    await until(lambda: ids(world) == OLD + NEW)


async def test_it_is_noticed_under_a_relay_that_reads_on(world: World, five_were_read: Running) -> None:
    five_were_read.consumer.is_deaf = True
    world.kafka.make_anew(RISK, *AGAIN)
    await until(lambda: len(five_were_read.consumer.seeks) == 2)
    five_were_read.consumer.is_deaf = False
    await until(lambda: ids(world) == OLD + NEW)


async def test_it_is_noticed_under_a_relay_that_has_read_nothing_since_it_began(
    world: World, five_were_read: Running
) -> None:
    await five_were_read.stop()
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    relay.consumer.is_deaf = True  # until the topic is there again, filled beyond our position
    world.kafka.make_anew(RISK, *AGAIN)
    await until(lambda: len(relay.consumer.seeks) == 2)
    relay.consumer.is_deaf = False
    await until(lambda: ids(world) == OLD + NEW)


async def test_what_the_commit_knows_redis_is_told_again_when_a_relay_begins(
    world: World, five_were_read: Running
) -> None:
    await five_were_read.stop()
    world.redis.delete(world.keys.witnesses)
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    assert world.redis.hgetall(world.keys.witnesses) == {b"risk-events/0": b"4:1000"}


async def test_a_record_that_retention_took_proves_nothing(world: World, five_were_read: Running) -> None:
    await five_were_read.stop()
    for _ in range(4):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    world.kafka.beginnings[RISK] = 6
    world.kafka.timestamps[RISK] = 7000
    world.start(RISK)
    await until(lambda: ids(world) == [*OLD, "risk-events/0/6", "risk-events/0/7", "risk-events/0/8"])


async def test_events_that_retention_took_before_they_were_read_are_an_error_in_the_log(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (1, "1:1000"))
    await relay.stop()
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    world.kafka.beginnings[RISK] = 4
    with capture_logs() as logs:
        relay = world.start(RISK)
        await until(lambda: len(world.messages(ALICE)) == 3)
    assert [m.id for m in world.messages(ALICE)] == ["risk-events/0/0", "risk-events/0/4", "risk-events/0/5"]
    (line,) = [line for line in logs if line["event"] == "events_lost_to_retention"]
    assert metric(relay, "lost_to_retention_total", topic="risk-events") == sum(line["offsets"].values()) > 0
    assert (line["log_level"], line["offsets"]) == ("error", {"risk-events/0": 3})


async def test_an_end_that_lies_behind_for_a_moment_begins_no_generation(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.next_offset("g", "risk-events/0") == 5)
    log = world.kafka.logs[RISK]
    world.kafka.logs[RISK] = log[:3]
    seeks = len(relay.consumer.seeks)
    relay.consumer.move(RISK)
    await asyncio.sleep(0.03)
    world.kafka.logs[RISK] = log
    await until(lambda: len(relay.consumer.seeks) > seeks)
    assert relay.consumer.seeks[-1] == {RISK: 5}


async def test_only_looks_that_find_a_topic_anew_count_as_that(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.next_offset("g", "risk-events/0") == 5)
    world.kafka.commits.clear()
    relay.consumer.is_dead = True  # round and round it goes: the start cannot be committed
    ends, looks = relay.consumer.ends, 0

    async def behind_in_the_fifth_look(partitions: Iterable[Partition]) -> dict[Partition, Ends]:
        nonlocal looks
        looks += 1
        relay.consumer.is_dead = looks < 5
        return {RISK: Ends(0, 3)} if looks == 5 else await ends(partitions)

    monkeypatch.setattr(relay.consumer, "ends", behind_in_the_fifth_look)
    seeks = len(relay.consumer.seeks)
    relay.consumer.move(RISK)
    await until(lambda: len(relay.consumer.seeks) > seeks)
    assert relay.consumer.seeks[-1] == {RISK: 5}


async def test_each_partition_has_looks_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaders move one after the other in a rolling restart."""
    monkeypatch.setattr("relay.relay.ANEW_SECONDS", 0.01)
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    for _ in range(5):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
        world.kafka.send(REGIME, b'{"new_regime":"bull"}')
    names = [partition_name(partition) for partition in (RISK, REGIME)]
    await until(lambda: all(world.next_offset(bucket, name) == 5 for bucket in world.keys.buckets for name in names))
    ends, looks = relay.consumer.ends, 0

    async def one_after_the_other(partitions: Iterable[Partition]) -> dict[Partition, Ends]:
        nonlocal looks
        looks += 1
        behind = {1: RISK, 2: RISK, 3: REGIME}.get(looks)
        found = await ends(partitions)
        return found if behind is None else {**found, behind: Ends(0, 3)}

    monkeypatch.setattr(relay.consumer, "ends", one_after_the_other)
    seeks = len(relay.consumer.seeks)
    relay.consumer.move(RISK, REGIME)
    await until(lambda: len(relay.consumer.seeks) > seeks)
    assert relay.consumer.seeks[-1] == {RISK: 5, REGIME: 5}


async def test_between_looks_that_find_a_topic_anew_a_new_leader_has_time(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.kafka.commits.get(RISK) == (1, "1:1000"))
    world.kafka.make_anew(RISK, *AGAIN)
    began = time.monotonic()
    relay.consumer.move(RISK)
    await until(lambda: ids(world)[1:] == NEW)
    assert time.monotonic() - began >= (ANEW_LOOKS - 1) * ANEW_SECONDS


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.watch.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("relay.watchdog.DEAF_SECONDS", 0.5)


@pytest.mark.usefixtures("short_watch")
async def test_a_relay_that_gets_nothing_although_there_is_more_ends(world: World) -> None:
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    relay.consumer.is_deaf = True
    world.kafka.send(REGIME, b"{}")
    with pytest.raises(RelayStopped, match=r"regime-events/1 has records up to offset 1, .* read from 0 on"):
        await asyncio.wait_for(relay.task, 10)


@pytest.mark.usefixtures("short_watch")
async def test_a_relay_without_redpanda_waits_and_says_that_it_is_not_well(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    relay.consumer.is_deaf = relay.consumer.is_away = True
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: not relay.relay.is_running)
    await asyncio.sleep(0.8)
    assert not relay.task.done()
    relay.consumer.is_deaf = relay.consumer.is_away = False
    await until(lambda: relay.relay.is_running and world.offsets(ALICE) == [0])


async def test_a_relay_without_an_assignment_says_after_a_while_that_it_is_not_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.watch.RECENT_SECONDS", 0.3)
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    relay.consumer.assigned, relay.consumer.is_moved = None, True  # the group forms and forms
    await until(lambda: not relay.relay.is_running)
    relay.consumer.move(RISK)
    await until(lambda: relay.relay.is_running)


async def test_what_cannot_be_decoded_is_a_dead_letter_and_what_is_before_it_is_published(world: World) -> None:
    relay = world.start(RISK, REGIME)
    await until(lambda: relay.relay.is_running)
    relay.consumer.undecodable[RISK] = range(2, 4)
    for _ in range(6):
        world.kafka.send(RISK, b'{"user_id":"alice"}')
    await until(lambda: world.offsets(ALICE) == [0, 1, 4, 5])
    letters = [(letter.record.offset, letter.reason.value) for letter in relay.dead_letters.written]
    assert letters == [(2, "undecodable"), (3, "undecodable")]
    assert relay.consumer.seeks[1:] == [{RISK: 4, REGIME: 0}]
    await until(lambda: world.kafka.commits.get(RISK) == (6, "1:1000"))


async def test_what_another_reader_can_decode_ends_the_relay_and_loses_nothing(world: World) -> None:
    relay = world.start(RISK)
    await until(lambda: relay.relay.is_running)
    relay.consumer.undecodable[RISK] = range(1)
    relay.consumer.find_undecodable = _found_nothing  # type: ignore[method-assign]
    world.kafka.send(RISK, b'{"user_id":"alice"}')
    with pytest.raises(RelayStopped, match="although another reader can"):
        await asyncio.wait_for(relay.task, 10)
    assert world.next_offset("g", "risk-events/0") == 0
    assert relay.dead_letters.written == []


async def _found_nothing(_: Mapping[Partition, int]) -> Gap | None:
    return None


USERS = ("alice", "bob", "carol")


async def chaos(world: World, seed: int, seconds: float) -> None:
    """Anything may happen for a while, to more than a few events; then one relay gets all partitions, and peace."""
    dice = random.Random(seed)
    partitions = list(world.kafka.logs)
    snapshots = {bucket: world.snapshot(bucket) for bucket in world.keys.buckets}
    relays = [world.start(*partitions)]
    await until(lambda: relays[0].relay.is_running)  # what came before the very first start is not ours
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end or number < 150:
        await asyncio.sleep(dice.uniform(0, 0.01))
        for _ in range(dice.randrange(6)):
            number += 1
            partition = dice.choice(partitions)
            world.kafka.send(partition, b'{"user_id":"%s","n":%d}' % (dice.choice(USERS).encode(), number))
        bucket = dice.choice(world.keys.buckets)
        event = dice.random()
        if event < 0.05:
            relays.append(world.start(*dice.sample(partitions, dice.randint(1, len(partitions)))))
        elif event < 0.10 and len(relays) > 1:
            await relays.pop(dice.randrange(len(relays))).kill()
        elif event < 0.20:
            dice.choice(relays).consumer.move(*dice.sample(partitions, dice.randint(1, len(partitions))))
        elif event < 0.30:
            snapshots[bucket] = world.snapshot(bucket)
        elif event < 0.34:
            world.fail_over(bucket, snapshots[bucket])
        elif event < 0.36:
            world.fail_over(bucket, {})
            snapshots[bucket] = {}
        elif event < 0.40 and (link := dice.choice(relays).publisher._link_of.get("g")):
            link.close()
        if len(relays) > 3:
            await relays.pop(0).kill()
    relays[0].consumer.move(*partitions)
    for relay in relays[1:]:
        await relay.kill()


def check(world: World) -> None:
    expected: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for partition, values in world.kafka.logs.items():
        for offset, value in enumerate(values):
            stream = (
                "global" if partition == REGIME else next(user for user in USERS if b'"%s"' % user.encode() in value)
            )
            expected[stream].add((f"{partition.topic}/{partition.number}", offset))
    for stream in (GLOBAL, *map(world.keys.user_stream, USERS)):
        messages = world.messages(stream)
        assert [message.seq for message in messages] == list(range(1, len(messages) + 1))
        sources = [(message.partition.decode(), message.offset) for message in messages]
        assert len(set(sources)) == len(sources), f"twice in {stream}"
        assert set(sources) == expected[stream.name], f"not all in {stream}"
        for name in {name for name, _ in sources}:
            offsets = [offset for partition, offset in sources if partition == name]
            assert offsets == sorted(offsets), f"disorder in {stream}"


@pytest.mark.parametrize("first_seed", [0, 6])
async def test_whatever_happens_every_stream_has_each_event_once_in_order(valkey: Process, first_seed: int) -> None:
    worlds = {seed: World(valkey, f"world{seed}") for seed in range(first_seed, first_seed + 6)}
    more = Partition("risk-events", 1)
    for world in worlds.values():
        world.kafka.logs[more] = []
    try:
        await asyncio.gather(*(chaos(world, seed, 4) for seed, world in worlds.items()))
        for seed, world in worlds.items():
            total = sum(map(len, world.kafka.logs.values()))
            streams = (GLOBAL, *map(world.keys.user_stream, USERS))
            with contextlib.suppress(AssertionError):  # check says better what is wrong
                await until(lambda w=world, s=streams, t=total: sum(len(w.messages(x)) for x in s) == t, 20)
            try:
                check(world)
            except AssertionError as error:
                error.add_note(f"seed {seed}")
                raise
            assert total > 100
    finally:
        for world in worlds.values():
            await world.close()
