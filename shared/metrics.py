"""Every metric's name and meaning, in one place. No user id is ever a label.

Counted in the hot path are plain integers; they are read when Prometheus asks. What the system says of a process
(`process_...`) is prometheus_client's own (shared/exposition.py). docs/metrics.md is made from this file.
"""

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.version import VERSION

ROUND_TRIP_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

LOOP_LAG_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class RelayMetrics:
    """What the relay counts. One for each process, on a registry of its own.

    Where the values of a label are known beforehand, `expect` has them all begin at zero: a counter that begins
    with one has not risen, for Prometheus.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        _add_build_info(self.registry)
        self._state = Gauge(
            "notify_relay_state",
            "1 for what the relay is: starting, ready, stalled (Redis or Redpanda does not answer); 0 for the others",
            ["state"],
            registry=self.registry,
        )
        self.redis_up = Gauge("notify_relay_redis_up", "1 while Redis answers", registry=self.registry)
        self.redpanda_up = Gauge(
            "notify_relay_redpanda_up",
            "1 while Redpanda answers; NaN before it is asked, which is once Redis has answered",
            registry=self.registry,
        )
        self.redpanda_up.set(math.nan)
        self.partitions_assigned = Gauge(
            "notify_relay_partitions_assigned", "Partitions this relay reads", registry=self.registry
        )
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
        self.lag_records = Gauge(
            "notify_relay_lag_records", "Records behind the end of the topic", ["topic"], registry=self.registry
        )
        self.lag_seconds = Gauge(
            "notify_relay_lag_seconds",
            "Age of the topic's oldest record that is not in Redis yet, as far as this relay knows; 0 without one",
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
        self.redis_round_trip_seconds = Histogram(
            "notify_relay_redis_round_trip_seconds",
            "From a call of the publish script to its answer: of each batch, and of a beat each second",
            buckets=ROUND_TRIP_SECONDS,
            registry=self.registry,
        )
        self.redpanda_round_trip_seconds = Histogram(
            "notify_relay_redpanda_round_trip_seconds",
            "From a request to its answer: commit (at most one a second), ends (of the partitions, each two seconds)",
            ["request"],
            buckets=ROUND_TRIP_SECONDS,
            registry=self.registry,
        )
        for request in ("commit", "ends"):
            self.redpanda_round_trip_seconds.labels(request)
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
        self.lost_to_retention = Counter(
            "notify_relay_lost_to_retention",
            "Offsets that were to be read and that the topic does not have any more: nobody gets their events",
            ["topic"],
            registry=self.registry,
        )
        self.loop_lag_seconds = Histogram(
            "notify_relay_loop_lag_seconds",
            "How late the event loop comes to what is due, looked at ten times a second",
            buckets=LOOP_LAG_SECONDS,
            registry=self.registry,
        )

    def expect(self, *, topics: Iterable[str], reasons: Iterable[str]) -> None:
        """These are the topics and reasons there will be."""
        for topic in topics:
            for result in ("published", "duplicate", "skipped", "dead_lettered"):
                self.events.labels(topic, result)
            for of_topic in (self.lag_records, self.lag_seconds, self.topics_made_anew, self.lost_to_retention):
                of_topic.labels(topic)
        for reason in reasons:
            self.dead_letters.labels(reason)

    def is_in(self, state: str, states: Iterable[str]) -> None:
        """Of `states`, which are all there are, the relay is in this one."""
        for one in states:
            self._state.labels(one).set(one == state)


Cumulated = tuple[Sequence[tuple[str, int]], float]
"""A histogram: how many were up to each upper bound, in seconds, and the sum of all, in seconds."""


@dataclass(frozen=True, slots=True)
class GatewayCounts:
    """What a replica counts in plain integers, at one moment."""

    states: Mapping[str, bool]
    subscription_up: bool
    hears_relay: bool
    connections: int
    max_connections: int
    joining: int
    users: int
    presence_writes: Mapping[str, int]
    handshakes: Mapping[int, int]
    refusals: Mapping[str, int]
    deliveries: Mapping[bytes, int]
    delivered_bytes: Mapping[bytes, int]
    latencies: Mapping[bytes, Cumulated]
    closes: Mapping[int, int]
    conflated: Mapping[bytes, int]
    gaps_found: int
    gaps: Mapping[str, int]
    replays: Mapping[str, int]
    replaying: int
    buffered_bytes: int
    max_buffered_bytes: int
    due_bytes: int
    streams: int


class GatewayMetrics(Collector):
    """Turns a replica's counts into metrics when Prometheus asks for them. What is measured now and then, and
    not in a hot path, is here."""

    def __init__(self, read: Callable[[], GatewayCounts]) -> None:
        self._read = read
        self.registry = CollectorRegistry()
        _add_build_info(self.registry)
        self.registry.register(self)
        self.redis_round_trip_seconds = Histogram(
            "notify_gateway_redis_round_trip_seconds",
            "From the proof that the subscription is alive to its answer, each two seconds and of each server; it "
            "waits behind the messages that the server has for this replica",
            buckets=ROUND_TRIP_SECONDS,
            registry=self.registry,
        )
        self.loop_lag_seconds = Histogram(
            "notify_gateway_loop_lag_seconds",
            "How late the event loop comes to what is due, looked at ten times a second",
            buckets=LOOP_LAG_SECONDS,
            registry=self.registry,
        )

    def collect(self) -> Iterator[Metric]:
        counts = self._read()
        state = GaugeMetricFamily(
            "notify_gateway_state",
            "1 for what the replica is: starting, ready, deaf (the relay's beat rises in Redis and is not heard "
            "here), away (its subscription is down), draining; 0 for the others",
            labels=["state"],
        )
        for name, is_in in counts.states.items():
            state.add_metric([name], is_in)
        yield state
        yield _gauge("subscription_up", "1 while the subscription is proven alive", counts.subscription_up)
        yield _gauge("hears_relay", "1 while a relay's beat arrives on the subscription", counts.hears_relay)
        yield _gauge("connections", "Open client connections", counts.connections)
        yield _gauge("max_connections", "How many of them there may be (MAX_CONNECTIONS)", counts.max_connections)
        yield _gauge("joining", "Handshakes that wait for their stream's subscription or a cursor", counts.joining)
        yield _gauge("users", "Users with connections here, as far as Redis was told of them", counts.users)
        yield _counter(
            "presence_writes",
            "Users whose connections Redis was to be told of, by what became of it: written, failed",
            "result",
            counts.presence_writes,
        )
        yield _gauge("streams", "Streams subscribed to", counts.streams)
        yield _counter(
            "handshakes",
            "Handshakes answered, and requests of /position refused, by HTTP status",
            "status",
            counts.handshakes,
        )
        yield _counter("refusals", "Handshakes and requests of /position refused, by why", "reason", counts.refusals)
        yield _counter("closes", "Connections closed by this replica, by close code", "code", counts.closes)
        yield _counter("deliveries", "Messages handed to client connections, by type", "type", counts.deliveries)
        yield _counter(
            "delivered_bytes",
            "Bytes of these messages as they were framed, compressed ones compressed, by type",
            "type",
            counts.delivered_bytes,
        )
        latency = HistogramMetricFamily(
            "notify_gateway_latency_seconds",
            "From a live message's record timestamp to the write to a client's socket, by type",
            labels=["type"],
        )
        for type_, (buckets, sum_seconds) in counts.latencies.items():
            latency.add_metric([type_.decode()], buckets, sum_seconds)
        yield latency
        yield _gauge("buffered_bytes", "Bytes held for clients that read too slowly", counts.buffered_bytes)
        yield _gauge(
            "max_buffered_bytes", "How many of them there may be (MAX_BUFFERED_BYTES)", counts.max_buffered_bytes
        )
        yield _counter(
            "conflated",
            "Messages of those that were dropped for a newer one (CONFLATE), their client not reading, by type",
            "type",
            counts.conflated,
        )
        yield _gauge("due_bytes", "Bytes of frames that wait for their fan-out", counts.due_bytes)
        yield CounterMetricFamily("notify_gateway_gaps_found", "Holes found in streams", counts.gaps_found)
        yield _counter("gaps", "Holes in a stream, by what became of them: filled, unfillable", "result", counts.gaps)
        yield _counter(
            "replays",
            "Clients that came with a cursor or for a snapshot, by how they began: recovered, fresh, resync, refused",
            "result",
            counts.replays,
        )
        yield _gauge("replaying", "Clients that are replayed to at present", counts.replaying)


def _add_build_info(registry: CollectorRegistry) -> None:
    info = Info("notify_build", "Always 1: which version of the services runs, on which Python", registry=registry)
    info.info({"version": VERSION, "python": platform.python_version()})


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"notify_gateway_{name}", meaning, value=value)


def _counter(name: str, meaning: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"notify_gateway_{name}", meaning, labels=[label])
    for value, count in counts.items():
        family.add_metric([value.decode() if isinstance(value, bytes) else str(value)], count)
    return family
