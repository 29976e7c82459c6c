"""Every metric's name and meaning, in one place. No user id is ever a label.

Counted in the hot path are plain integers; they are read when Prometheus asks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class RelayMetrics:
    """What the relay counts. One for each process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter(
            "notify_relay_events",
            "Records read, by what became of them: published, duplicate (Redis had it already), "
            "skipped (not for this service), dead_lettered",
            ["topic", "result"],
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "notify_relay_dead_letters", "Records rejected, by reason", ["reason"], registry=self.registry
        )
        self.epochs_begun = Counter(
            "notify_relay_epochs_begun",
            "Epochs this relay began: a bucket's data may have lost its tail, or all",
            registry=self.registry,
        )
        self.topics_made_anew = Counter(
            "notify_relay_topics_made_anew",
            "Partitions whose topic was deleted and made again: they are read from their beginning",
            ["topic"],
            registry=self.registry,
        )
        self.batch_events = Histogram(
            "notify_relay_batch_events",
            "Records in a batch",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
            registry=self.registry,
        )
        self.publish_seconds = Histogram(
            "notify_relay_publish_seconds",
            "From a batch's first script call to its last answer, repeats included",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.lag_records = Gauge(
            "notify_relay_lag_records", "Records behind the end of the topic", ["topic"], registry=self.registry
        )
        self.partitions_assigned = Gauge(
            "notify_relay_partitions_assigned", "Partitions this relay reads", registry=self.registry
        )
        self.redis_up = Gauge("notify_relay_redis_up", "1 while Redis answers", registry=self.registry)


Cumulated = tuple[Sequence[tuple[str, int]], float]
"""A histogram: how many were up to each upper bound, in seconds, and the sum of all, in seconds."""


@dataclass(frozen=True, slots=True)
class GatewayCounts:
    """What a replica counts in plain integers, at one moment."""

    connections: int
    users: int
    presence_writes: Mapping[str, int]
    handshakes: Mapping[int, int]
    refusals: Mapping[str, int]
    deliveries: Mapping[bytes, int]
    latencies: Mapping[bytes, Cumulated]
    closes: Mapping[int, int]
    conflated: Mapping[bytes, int]
    gaps: Mapping[str, int]
    replays: Mapping[str, int]
    replaying: int
    buffered_bytes: int
    streams: int
    subscription_up: bool


class GatewayMetrics(Collector):
    """Turns a replica's counts into metrics when Prometheus asks for them."""

    def __init__(self, read: Callable[[], GatewayCounts]) -> None:
        self._read = read
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        counts = self._read()
        yield _gauge("connections", "Open client connections", counts.connections)
        yield _gauge("users", "Users with connections here, as far as Redis was told of them", counts.users)
        yield _counter(
            "presence_writes",
            "Users whose connections Redis was to be told of, by what became of it: written, failed",
            "result",
            counts.presence_writes,
        )
        yield _gauge("buffered_bytes", "Bytes held for clients that read too slowly", counts.buffered_bytes)
        yield _gauge("streams", "Streams subscribed to", counts.streams)
        yield _gauge("subscription_up", "1 while the subscription is proven alive", int(counts.subscription_up))
        yield _counter(
            "handshakes",
            "Handshakes answered, and requests of /position refused, by HTTP status",
            "status",
            counts.handshakes,
        )
        yield _counter("refusals", "Handshakes and requests of /position refused, by why", "reason", counts.refusals)
        yield _counter("closes", "Connections closed by this replica, by close code", "code", counts.closes)
        yield _counter("gaps", "Holes in a stream, by what became of them: filled, unfillable", "result", counts.gaps)
        yield _gauge("replaying", "Clients that are replayed to at present", counts.replaying)
        yield _counter(
            "replays",
            "Clients that came with a cursor or for a snapshot, by how they began: recovered, fresh, resync, refused",
            "result",
            counts.replays,
        )
        deliveries = {type_.decode(): count for type_, count in counts.deliveries.items()}
        yield _counter("deliveries", "Messages handed to client connections, by type", "type", deliveries)
        conflated = {type_.decode(): count for type_, count in counts.conflated.items()}
        yield _counter(
            "conflated",
            "Messages of those that were dropped for a newer one (CONFLATE), their client not reading, by type",
            "type",
            conflated,
        )
        latency = HistogramMetricFamily(
            "notify_gateway_latency_seconds",
            "From a live message's record timestamp to the write to a client's socket, by type",
            labels=["type"],
        )
        for type_, (buckets, sum_seconds) in counts.latencies.items():
            latency.add_metric([type_.decode()], buckets, sum_seconds)
        yield latency


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"notify_gateway_{name}", meaning, value=value)


def _counter(name: str, meaning: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"notify_gateway_{name}", meaning, labels=[label])
    for value, count in counts.items():
        family.add_metric([str(value)], count)
    return family
