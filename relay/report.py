"""What the relay says of itself (shared/statuses.py): the figures of /metrics, its state, the newest dead
letters. Pure."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from prometheus_client.metrics import MetricWrapperBase

from shared.metrics import RelayMetrics
from shared.statuses import RELAY, Status


class State(StrEnum):
    """What a relay is at present."""

    STARTING = "starting"
    READY = "ready"
    STALLED = "stalled"
    """Redis or Redpanda does not answer: events wait."""


class Letter(NamedTuple):
    """A dead letter, as operators see it: where its record was, and why it was rejected."""

    at_ms: int
    topic: str
    partition: int
    offset: int
    reason: str


class Reporting(Protocol):
    """What is asked of the relay."""

    @property
    def not_ready_because(self) -> str | None: ...
    @property
    def stalled_because(self) -> str | None: ...
    @property
    def newest_letters(self) -> Iterable[Letter]: ...


def state_of(relay: Reporting) -> tuple[State, str | None]:
    """What the relay is, and why it is not ready."""
    waits, stalls = relay.not_ready_because, relay.stalled_because
    return State.STARTING if waits else State.STALLED if stalls else State.READY, waits or stalls


def relay_status(relay: Reporting, metrics: RelayMetrics, started_ms: int) -> Status:
    """`started_ms` is when this process began: all that is counted is since then."""
    state, reason = state_of(relay)
    events: dict[str, dict[str, int]] = {}
    for (topic, result), count in _samples(metrics.events, "topic", "result"):
        events.setdefault(topic, {})[result] = int(count)
    return {
        "kind": RELAY,
        "state": state,
        "reason": reason,
        "started_ms": started_ms,
        "partitions": int(_value(metrics.partitions_assigned)),
        "events": events,
        "lag": {topic: int(records) for (topic,), records in _samples(metrics.lag_records, "topic")},
        "epochs_begun": int(_value(metrics.epochs_begun)),
        "redis_up": bool(_value(metrics.redis_up)),
        "dead_letters": [letter._asdict() for letter in relay.newest_letters],
    }


def _samples(metric: MetricWrapperBase, *labels: str) -> Sequence[tuple[tuple[str, ...], float]]:
    return [
        (tuple(sample.labels[label] for label in labels), sample.value)
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def _value(metric: MetricWrapperBase) -> float:
    ((_, value),) = _samples(metric)
    return value
