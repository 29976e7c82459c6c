"""Every metric's name and meaning, in one place. No user id is ever a label.

Counted in the hot path are plain integers; they are read when Prometheus asks.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


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


class GatewayMetrics:
    """What a replica counts. One for each process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Gauge("notify_gateway_connections", "Open client connections", registry=self.registry)
        self.handshakes = Counter(
            "notify_gateway_handshakes",
            "Handshakes, by the answer's HTTP status",
            ["status"],
            registry=self.registry,
        )
        self.deliveries = Counter(
            "notify_gateway_deliveries", "Messages handed to client connections", ["type"], registry=self.registry
        )
        self.closes = Counter(
            "notify_gateway_closes", "Connections closed, by close code", ["code"], registry=self.registry
        )
        self.gaps = Counter(
            "notify_gateway_gaps",
            "Holes found in a stream, by what became of them: filled, unfillable",
            ["result"],
            registry=self.registry,
        )
        self.buffered_bytes = Gauge(
            "notify_gateway_buffered_bytes", "Bytes held for clients that read too slowly", registry=self.registry
        )
        self.streams = Gauge("notify_gateway_streams", "Streams subscribed to", registry=self.registry)
        self.subscription_up = Gauge(
            "notify_gateway_subscription_up",
            "1 while the link to Redis is proven alive",
            registry=self.registry,
        )
