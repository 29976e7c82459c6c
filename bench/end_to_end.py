"""From the moment an event is produced to its clients: Apache Kafka, relay, Valkey, replicas and a load client in C,
all on two cores.

Each event has the nanosecond at which it was produced in its data; the load client, on the same clock, compares.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice

import aiohttp
from confluent_kafka import Producer

from bench.relay import BROADCAST, Broker, event, topics_in_turn
from bench.results import Effort, Goal, Section, Table
from bench.tools import LoadClient, Received, cpu_seconds, on_all_cores, progress
from demo.process import Process, Processes
from demo.stack import add_gateway, add_relay, http_url
from demo.valkey import add_valkey, redis_url

CLIENTS = 1_000

_PARTITIONS = 4
_LINGER_MS = 5
"""As librdkafka and Kafka's own client have it where nothing else is said."""
_POLL_SECONDS = 0.1
_STUCK_SECONDS = 3.0
"""Without a delivery for so long, nothing more comes."""


@dataclass(frozen=True)
class Load:
    """What is produced, and for how many replicas."""

    events_per_second: int
    broadcast: float
    replicas: int = 1

    @property
    def mix(self) -> str:
        return f"{self.events_per_second:,} events/s, {self.broadcast:.0%} broadcast"


_USUAL, _ALL_BROADCAST = Load(1_000, 0.5), Load(100, 1.0)
_RATES = (
    *(Load(events, share) for share in (0.05, 0.5) for events in (100, 1_000, 5_000)),
    _ALL_BROADCAST,
)
_REPLICAS = (2, 4)


@dataclass(frozen=True)
class Arrived:
    """What came of a load."""

    load: Load
    seconds: float
    """From the first event produced to the last one delivered."""
    produced: int
    produced_seconds: float
    expected: int
    received: Sequence[Received]
    """By replica."""
    cores: Mapping[str, float]
    """How much of a core each process used, all replicas together."""

    @property
    def messages(self) -> int:
        return sum(received.messages for received in self.received)

    def slowest(self, percentile: str) -> float:
        """In milliseconds, of the clients of the slowest replica."""
        return max(getattr(received, percentile) or 0.0 for received in self.received)


@dataclass(frozen=True)
class System:
    """What runs. Replicas are added as loads ask for them."""

    processes: Processes
    broker: Broker
    valkey: Process
    relay: Process
    gateways: list[Process]

    @classmethod
    async def start(cls, processes: Processes, effort: Effort) -> "System":
        """All but the replicas."""
        broker = await Broker.start(processes, effort)
        valkey = await add_valkey(processes).start().wait_until_ready()
        relay = add_relay(processes, brokers=broker.address, redis=redis_url(valkey), env=broker.relay_env)
        return cls(processes, broker, valkey, await relay.start().wait_until_ready(), [])

    async def have_replicas(self, number: int) -> None:
        """Start those that are missing."""
        while len(self.gateways) < number:
            name = f"gateway-{len(self.gateways) + 1}"
            gateway = add_gateway(self.processes, redis=redis_url(self.valkey), name=name)
            self.gateways.append(await gateway.start().wait_until_ready())

    @property
    def measured(self) -> Mapping[str, Sequence[Process]]:
        """Processes by what they are."""
        return {
            "replicas": self.gateways,
            "relay": [self.relay],
            "Valkey": [self.valkey],
            "broker": [self.broker.process],
        }

    async def deliver(self, load: Load, seconds: float) -> Arrived:
        """Produce a load for so long, and see what arrives."""
        await self.have_replicas(load.replicas)
        each = CLIENTS // load.replicas
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    LoadClient(gateway.port, f"/ws?user_id={_user(number, '%d')}", each, 600, sample=11)
                )
                for number, gateway in enumerate(self.gateways)
            ]
            delivered = await self._delivered()
            used = {name: _cpu(several) for name, several in self.measured.items()}
            clients_used = sum(client.cpu_seconds for client in clients)
            started = time.monotonic()
            broadcast = await asyncio.to_thread(_produce, self.broker.address, load, seconds)
            produced_seconds = time.monotonic() - started
            produced = round(load.events_per_second * seconds)
            expected = produced + broadcast * (CLIENTS - 1)
            ended = await self._until_delivered(delivered + expected)
            took = ended - started
            cores = {name: (_cpu(several) - used[name]) / took for name, several in self.measured.items()}
            cores["clients"] = (sum(client.cpu_seconds for client in clients) - clients_used) / took
            received = await asyncio.gather(*(client.stop() for client in clients))
        return Arrived(load, took, produced, produced_seconds, expected, received, cores)

    async def _until_delivered(self, wanted: int) -> float:
        """Wait until so many were handed to clients' sockets, or nothing more is; gives since when."""
        so_far, since = 0, time.monotonic()
        while so_far < wanted and time.monotonic() - since < _STUCK_SECONDS:
            now = await self._delivered()
            if now != so_far:
                so_far, since = now, time.monotonic()
            await asyncio.sleep(_POLL_SECONDS)
        return since

    async def _delivered(self) -> int:
        """Messages that all replicas have handed to their clients so far."""
        total = 0
        async with aiohttp.ClientSession() as session:
            for gateway in self.gateways:
                async with session.get(http_url(gateway, "/metrics", "admin")) as response:
                    lines = re.findall(r"^notify_gateway_deliveries_total\{.*\} (\S+)$", await response.text(), re.M)
                    total += sum(int(float(value)) for value in lines)
        return total


def _produce(brokers: str, load: Load, seconds: float) -> int:
    """Produce at a steady pace, each event at its time or as soon after it as can be. Gives how many were for
    everyone."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": _LINGER_MS, "acks": "all"})
    producer.list_topics(timeout=10)
    broadcast = 0
    each = CLIENTS // load.replicas
    start = time.perf_counter()
    topics = islice(topics_in_turn(load.broadcast), round(load.events_per_second * seconds))
    for number, topic in enumerate(topics):
        wait = start + number / load.events_per_second - time.perf_counter()
        if wait > 0:
            producer.poll(0)
            time.sleep(wait)
        client = number * 7919 % CLIENTS
        user = _user(client // each, str(client % each))
        partition = (number if topic in BROADCAST else client) % _PARTITIONS
        broadcast += topic in BROADCAST
        producer.produce(topic, event(topic, number, user, {"ts": time.time_ns()}), user, partition=partition)
    if left := producer.flush(30):
        raise RuntimeError(f"the broker did not take {left} events")
    return broadcast


def _user(replica: int, number: str) -> str:
    """The user of one client."""
    return f"user-{replica}-{number}"


def _cpu(processes: Sequence[Process]) -> float:
    return sum(cpu_seconds(process.pid) for process in processes)


async def measure(effort: Effort) -> Section:
    """Latencies by rate and mix, and what one more replica costs."""
    seconds = {Effort.QUICK: 4.0, Effort.STANDARD: 8.0, Effort.FULL: 60.0}[effort]
    loads = [_USUAL] if effort is Effort.QUICK else [*_RATES, *(Load(1_000, 0.5, number) for number in _REPLICAS)]
    arrived: dict[Load, Arrived] = {}
    with on_all_cores():
        async with Processes() as processes:
            with progress("end to end: starting"):
                system = await System.start(processes, effort)
                await system.deliver(Load(500, 0.5), 2.0)  # code that was never run is slow, Java's most of all
            for load in loads:
                with progress(f"end to end: {load.mix}, {load.replicas} replicas"):
                    arrived[load] = await system.deliver(load, seconds)
    return _section(arrived, is_kafka=effort is not Effort.QUICK)


def _section(arrived: Mapping[Load, Arrived], *, is_kafka: bool) -> Section:
    goals = [
        Goal(f"ms, 99th percentile, {load.mix}", arrived[load].slowest("p99_ms"), target, is_limit=True)
        for load, target in ((_USUAL, 30), (_ALL_BROADCAST, 20))
        if load in arrived
    ]
    rates = Table(
        (f"produced, {CLIENTS:,} clients", "events/s", "deliveries/s", "p50 ms", "p99 ms", "p99.9 ms", "arrived"),
        [
            (
                load.mix,
                f"{of.produced / of.produced_seconds:,.0f}",
                f"{of.messages / of.seconds:,.0f}",
                *_percentiles(of),
                _arrived(of),
            )
            for load, of in arrived.items()
            if load.replicas == 1
        ],
    )
    tables = [rates]
    if any(load.replicas > 1 for load in arrived):
        tables.append(
            Table(
                (
                    f"replicas, {_USUAL.mix}",
                    "each replica",
                    "relay",
                    "Valkey",
                    "Kafka",
                    "p50 ms",
                    "p99 ms",
                    "p99.9 ms",
                    "arrived",
                ),
                [
                    (
                        str(load.replicas),
                        f"{of.cores['replicas'] / load.replicas:.0%}",
                        *(f"{of.cores[name]:.0%}" for name in ("relay", "Valkey", "broker")),
                        *_percentiles(of),
                        _arrived(of),
                    )
                    for load, of in arrived.items()
                    if (load.events_per_second, load.broadcast) == (_USUAL.events_per_second, _USUAL.broadcast)
                ],
            )
        )
    return Section("End to end", "python -m bench end_to_end", _text(is_kafka), goals, tables)


def _percentiles(of: Arrived) -> tuple[str, str, str]:
    p50, p99, p999 = (of.slowest(name) for name in ("p50_ms", "p99_ms", "p999_ms"))
    return f"{p50:.1f}", f"{p99:.1f}", f"{p999:.1f}"


def _arrived(of: Arrived) -> str:
    return "all" if of.messages == of.expected else f"{of.messages:,} of {of.expected:,}"


def _text(is_kafka: bool) -> str:
    kind = "Apache Kafka" if is_kafka else "the embedded broker"
    return (
        f"A producer (librdkafka, `linger.ms={_LINGER_MS}`, `acks=all`) at a steady pace, {kind}, the relay, Valkey, "
        f"the replicas and {CLIENTS:,} connections of a load client share two cores. Each client is a user of its own. "
        "Latency is from the moment at which an event is given to the producer to the client's having read it; with "
        "several replicas, that of the slowest one's clients. Deliveries/s go from the first event produced to the "
        "last one delivered: fewer than were asked for means that two cores do not do it, and what has not arrived "
        "then belongs to clients that were closed since they had too much waiting for them. CPU is in parts of a core."
    )
