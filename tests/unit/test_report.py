"""What the relay says of itself."""

import json
from dataclasses import dataclass

from relay.report import Letter, relay_status
from shared.metrics import RelayMetrics


@dataclass
class ScriptedRelay:
    not_ready_because: str | None = None
    stalled_because: str | None = None
    newest_letters: tuple[Letter, ...] = ()


def test_it_says_the_figures_of_its_metrics() -> None:
    metrics = RelayMetrics()
    metrics.events.labels("risk-events", "published").inc(3)
    metrics.events.labels("risk-events", "dead_lettered").inc()
    metrics.events.labels("alert-events", "published").inc(2)
    metrics.lag_records.labels("risk-events").set(17)
    metrics.partitions_assigned.set(16)
    metrics.epochs_begun.inc(2)
    metrics.redis_up.set(1)
    letter = Letter(1_700, "risk-events", 2, 1841, "no_user_id")
    status = json.loads(json.dumps(relay_status(ScriptedRelay(newest_letters=(letter,)), metrics, 17)))
    assert status == {
        "kind": "relay",
        "state": "ready",
        "reason": None,
        "started_ms": 17,
        "partitions": 16,
        "events": {"risk-events": {"published": 3, "dead_lettered": 1}, "alert-events": {"published": 2}},
        "lag": {"risk-events": 17},
        "epochs_begun": 2,
        "redis_up": True,
        "dead_letters": [
            {"at_ms": 1_700, "topic": "risk-events", "partition": 2, "offset": 1841, "reason": "no_user_id"}
        ],
    }


def test_it_says_why_nothing_goes_through() -> None:
    def state(relay: ScriptedRelay) -> tuple[object, object]:
        status = relay_status(relay, RelayMetrics(), 0)
        return status["state"], status["reason"]

    assert state(ScriptedRelay(not_ready_because="waiting for Redis")) == ("starting", "waiting for Redis")
    assert state(ScriptedRelay(stalled_because="Redpanda does not answer")) == ("stalled", "Redpanda does not answer")
