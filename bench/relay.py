"""Events per second through one relay, from Apache Kafka to Valkey, and how long it takes to catch up.

The topics are filled first. The relay has one core, Valkey and the broker share the other. Timed from the first
event in Redis to the last; every event is then looked for in Redis: published means there, once.
"""

import asyncio
import json
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import redis
from confluent_kafka import Producer

from bench.results import Effort, Goal, Plot, Section, Table
from bench.tools import CLIENT_CORE, SERVER_CORE, cpu_seconds, pin, progress
from demo.broker import add_broker, bootstrap
from demo.kafka import kafka_brokers, make_topics, start_kafka
from demo.process import Process, Processes
from demo.stack import add_relay
from demo.valkey import add_valkey, redis_url
from relay.routes import ROUTES
from shared.keys import Keys

BROADCAST = tuple(topic for topic, route in ROUTES.items() if route.is_broadcast)
TARGETED = tuple(topic for topic, route in ROUTES.items() if not route.is_broadcast)
KEYS = Keys()

_PARTITIONS = 4
_BATCH_EVENTS = 1_000
"""What BATCH_EVENTS is where nothing else is said."""

_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0
_TARGET = 25_000


@dataclass(frozen=True)
class Load:
    """What the topics are filled with."""

    events: int
    broadcast: float = 0.5
    """The share of events that are for everyone."""
    users: int = 1_000
    partitions: int = _PARTITIONS
    """Of each topic."""


@dataclass(frozen=True)
class Rate:
    """What one relay did."""

    events_per_second: float
    cores: Mapping[str, float]
    """How much of a core each process used."""
    bytes_each: float
    """Memory of Valkey for each event, with what it has for its stream."""


@dataclass(frozen=True)
class CaughtUp:
    """From the start of the relay's process."""

    first_seconds: float
    all_seconds: float


@dataclass(frozen=True)
class Plan:
    """What fits in the time."""

    mixes: Sequence[Load]
    rounds: int
    batches: Sequence[int] = ()
    paused_events: int = 0
    partitions: Sequence[int] = ()
    users: Sequence[int] = ()
    few: int = 0
    """Events of the measurements by partitions and users."""

    @classmethod
    def of(cls, effort: Effort) -> "Plan":
        """QUICK is with the embedded broker, which takes no time to start."""
        if effort is Effort.QUICK:
            return cls([Load(30_000)], 1)
        events, few, rounds = (100_000, 50_000, 3) if effort is Effort.STANDARD else (400_000, 300_000, 7)
        mixes = [Load(events), Load(events, 0.05)]
        return cls(mixes, rounds, (10, 100, 10_000), 100_000, (16, 64), (10, 100_000), few)


@dataclass(frozen=True)
class Broker:
    """Apache Kafka, or the embedded one."""

    process: Process
    address: str
    is_kafka: bool

    @classmethod
    async def start(cls, processes: Processes, effort: Effort) -> "Broker":
        """The embedded one where it must be quick."""
        if effort is Effort.QUICK:
            process = await add_broker(processes).start().wait_until_ready()
            return cls(process, bootstrap(process), False)
        process = await start_kafka(processes, partitions=_PARTITIONS)
        return cls(process, kafka_brokers(process), True)

    @property
    def relay_env(self) -> Mapping[str, str]:
        """Apache Kafka ends a waiting fetch when an event comes; the embedded broker does not."""
        return {"REDPANDA_FETCH_WAIT_MS": "500"} if self.is_kafka else {}


def event(topic: str, number: int, user: str, more: Mapping[str, Any]) -> bytes:
    """About 250 bytes, of the shape that the platform's publishers send; `more` are its first fields."""
    fields: dict[str, Any] = {
        **more,
        "event_id": str(uuid.UUID(int=number)),
        "event_type": ROUTES[topic].type,
        "timestamp": "2026-01-01T00:00:00.000000+00:00",
        "priority": 3,
        "severity": "high",
        "message": "Portfolio drawdown exceeded the limit of 5 %",
        "metadata": {},
    }
    if topic in TARGETED:
        fields["user_id"] = user
    return json.dumps(fields).encode()


def topics_in_turn(broadcast: float) -> Iterator[str]:
    """The topic of each event: of every hundred so many are for everyone, evenly among the others."""
    turns = {True: count(), False: count()}
    for number in count():
        is_broadcast = int((number + 1) * broadcast) > int(number * broadcast)
        topics = BROADCAST if is_broadcast else TARGETED
        yield topics[next(turns[is_broadcast]) % len(topics)]


def produce(brokers: str, load: Load) -> None:
    """Publish `load`. Raises RuntimeError when the broker does not take it."""
    options = {"bootstrap.servers": brokers, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    producer = Producer(options)
    for number, topic in zip(range(load.events), topics_in_turn(load.broadcast)):  # noqa: B905 - one has no end
        user = number * 7919 % load.users
        partition = (user if topic in TARGETED else number) % load.partitions
        value = event(topic, number, f"user-{user}", {})
        producer.produce(topic, value, f"user-{user}", partition=partition)
        if number % 1_000 == 0:
            producer.poll(0)
    if left := producer.flush(60):
        raise RuntimeError(f"the broker did not take {left} events")


def relayed(valkey: Process) -> int:
    """How many events have been published to Redis, of topics that began at offset 0."""
    offsets: Counter[bytes] = Counter()
    with redis.Redis(port=valkey.port) as client:
        for bucket in KEYS.buckets:
            life: Mapping[bytes, bytes] = client.hgetall(KEYS.life(bucket))
            # A bucket is told of a batch when there is something in it for the bucket, or with the next beat.
            offsets |= Counter({name: int(offset) for name, offset in life.items() if name.startswith(b"n:")})
    return offsets.total()


def logged(valkey: Process) -> int:
    """How many events the logs in Redis have."""
    with redis.Redis(port=valkey.port) as client:
        pipeline = client.pipeline(transaction=False)
        for key in client.scan_iter("*:log:*", count=10_000):
            pipeline.xlen(key)
        return sum(pipeline.execute())


class _Bench:
    """One broker and one Valkey, which begin empty with each load."""

    def __init__(self, processes: Processes, broker: Broker, valkey: Process) -> None:
        self._processes = processes
        self._broker = broker
        self._valkey = valkey
        self._relays = 0
        self._filled = 0
        self._empty_bytes = self._used_bytes()

    async def fill(self, load: Load) -> None:
        """Have the topics hold `load` and nothing else."""
        if self._broker.is_kafka:
            await make_topics(self._broker.process, load.partitions)
        produce(self._broker.address, load)
        self._filled = load.events

    async def rate(self, batch_events: int = _BATCH_EVENTS) -> Rate:
        """A new relay with an empty Redis reads what the topics hold."""
        relay = await self._new_relay(batch_events)
        first = await self._until(relay, lambda now: now > 0)
        measured = {"relay": relay, "Valkey": self._valkey, "broker": self._broker.process}
        started, before = time.monotonic(), {name: cpu_seconds(process.pid) for name, process in measured.items()}
        await self._until(relay, lambda now: now >= self._filled)
        took = time.monotonic() - started
        cores = {name: (cpu_seconds(process.pid) - before[name]) / took for name, process in measured.items()}
        self._check()
        await relay.terminate()
        return Rate((self._filled - first) / took, cores, (self._used_bytes() - self._empty_bytes) / self._filled)

    async def catch_up(self, load: Load, *, is_killed: bool) -> CaughtUp:
        """A relay that has read everything is ended, `load` is published meanwhile, and it is started again."""
        relay = await self._new_relay(_BATCH_EVENTS)
        before = await self._until(relay, lambda now: now >= self._filled)
        await relay.wait_until_ready()
        await (relay.kill() if is_killed else relay.terminate())
        produce(self._broker.address, load)
        self._filled += load.events
        started = time.monotonic()
        pin(relay.start().pid, SERVER_CORE)
        await self._until(relay, lambda now: now > before)
        first_seconds = time.monotonic() - started
        await self._until(relay, lambda now: now >= self._filled)
        all_seconds = time.monotonic() - started
        self._check()
        await relay.terminate()
        return CaughtUp(first_seconds, all_seconds)

    async def _new_relay(self, batch_events: int) -> Process:
        with redis.Redis(port=self._valkey.port) as client:
            client.flushall()
        self._relays += 1
        name = f"relay-{self._relays}"
        env = {
            **self._broker.relay_env,
            "REDPANDA_GROUP_ID": name,
            "START_FROM": "earliest",
            "BATCH_EVENTS": str(batch_events),
            "HISTORY_MESSAGES_GLOBAL": "10000000",
            "HISTORY_MESSAGES_USER": "1000000",
            "LOG_LEVEL": "WARNING",
        }
        relay = add_relay(
            self._processes, brokers=self._broker.address, redis=redis_url(self._valkey), name=name, env=env
        )
        pin(relay.start().pid, SERVER_CORE)
        return relay

    async def _until(self, relay: Process, is_so: Callable[[int], bool]) -> int:
        """Wait for a number of events in Redis; gives it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so(now := relayed(self._valkey)):
            relay.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {now} of {self._filled} events came through")
            await asyncio.sleep(_POLL_SECONDS)
        return now

    def _used_bytes(self) -> int:
        with redis.Redis(port=self._valkey.port) as client:
            return int(client.info("memory")["used_memory"])

    def _check(self) -> None:
        found = logged(self._valkey)
        if found != self._filled:
            raise RuntimeError(f"{found} events are in Redis, {self._filled} were published")


async def measure(effort: Effort) -> Section:
    """Rates by mix, batch size, partitions and users, and the lag after a pause."""
    plan = Plan.of(effort)
    rates: dict[str, list[Rate]] = {}
    batches: dict[int, Rate] = {}
    lags: dict[str, CaughtUp] = {}
    partitions: dict[int, Rate] = {}
    users: dict[int, Rate] = {}
    base = plan.mixes[0]
    async with Processes() as processes:
        with progress("relay: starting the broker"):
            broker = await Broker.start(processes, effort)
            valkey = await add_valkey(processes).start().wait_until_ready()
        for process in (broker.process, valkey):
            pin(process.pid, CLIENT_CORE)
        bench = _Bench(processes, broker, valkey)
        for load in plan.mixes:
            with progress(f"relay: {_mix(load)}"):
                await bench.fill(load)
                rates[_mix(load)] = [await bench.rate() for _ in range(plan.rounds)]
            if load is base:
                for size in plan.batches:
                    with progress(f"relay: batches of {size:,}"):
                        batches[size] = await bench.rate(size)
        few = replace(base, events=plan.few)
        for number in plan.partitions:
            with progress(f"relay: {number} partitions"):
                await bench.fill(replace(few, partitions=number))
                partitions[number] = await bench.rate()
        for number in plan.users:
            with progress(f"relay: {number:,} users"):
                await bench.fill(replace(few, users=number))
                users[number] = await bench.rate()
        if plan.paused_events:
            with progress("relay: catching up"):
                for how, is_killed in (("stopped (SIGTERM)", False), ("killed (SIGKILL)", True)):
                    await bench.fill(replace(base, events=1_000))
                    lags[how] = await bench.catch_up(replace(base, events=plan.paused_events), is_killed=is_killed)
    usual = _median(rates[_mix(base)])
    batches[_BATCH_EVENTS] = partitions[_PARTITIONS] = users[base.users] = usual
    return _section(plan, broker, rates, batches, partitions, users, lags)


def _mix(load: Load) -> str:
    return "half broadcast" if load.broadcast == 0.5 else f"{load.broadcast:.0%} broadcast"


def _median(rates: Sequence[Rate]) -> Rate:
    """The one in the middle."""
    return sorted(rates, key=lambda rate: rate.events_per_second)[len(rates) // 2]


def _section(
    plan: Plan,
    broker: Broker,
    rates: Mapping[str, Sequence[Rate]],
    batches: Mapping[int, Rate],
    partitions: Mapping[int, Rate],
    users: Mapping[int, Rate],
    lags: Mapping[str, CaughtUp],
) -> Section:
    goals, rows = [], []
    for mix, several in rates.items():
        found = [rate.events_per_second for rate in several]
        middle, spread = statistics.median(found), (min(found), max(found))
        goals.append(Goal(f"events/s through one relay, {mix}", middle, _TARGET, spread=spread))
        rows.append((mix, f"{middle:,.0f} ({spread[0]:,.0f} to {spread[1]:,.0f})", _cores(_median(several))))
    used = f"of a core: relay, Valkey, {'Apache Kafka' if broker.is_kafka else 'embedded broker'}"
    tables = [Table((f"mix, {plan.mixes[0].users:,} users", "events/s", used), rows)]
    plots = []
    for name, what, by in (
        ("batch", "records read and published at once, at most (`BATCH_EVENTS`)", batches),
        ("partitions", "partitions of each topic", partitions),
        ("users", "users", users),
    ):
        if len(by) > 1:
            kept = "bytes of Valkey for each event kept"
            lines = [
                (f"{number:,}", f"{rate.events_per_second:,.0f}", _cores(rate), f"{rate.bytes_each:,.0f}")
                for number, rate in sorted(by.items())
            ]
            tables.append(Table((f"{what}; half broadcast", "events/s", used, kept), lines))
            points = [(float(number), by[number].events_per_second) for number in sorted(by)]
            plots.append(
                Plot(f"relay-by-{name}", f"One relay, by {name}", what, "events/s", {"half broadcast": points}, True)
            )
    if lags:
        heading = (f"{plan.paused_events:,} events while the relay was", "the first in Redis after", "all after")
        found_lags = [(how, f"{lag.first_seconds:.1f} s", f"{lag.all_seconds:.1f} s") for how, lag in lags.items()]
        tables.append(Table(heading, found_lags))
    return Section("Relay", "python -m bench relay", _text(broker), goals, tables, plots)


def _cores(rate: Rate) -> str:
    return ", ".join(f"{share:.0%}" for share in rate.cores.values())


def _text(broker: Broker) -> str:
    kind = "Apache Kafka" if broker.is_kafka else "the embedded broker"
    return (
        f"Topics of {kind} are filled, then a relay that starts at their beginning publishes them to an empty Valkey: "
        "the relay on one core, Valkey and the broker on the other. Events are of about 250 bytes. Timed from the "
        "first event in Redis to the last; the total in Redis' logs is checked against what was published. After a "
        "pause, the seconds count from the start of the relay's process, and so have its imports and its joining of "
        "the group in them; of one that was killed, the group waits for `REDPANDA_SESSION_SECONDS`."
    )
