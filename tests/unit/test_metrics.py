"""Every metric's name and meaning."""

import platform
from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import GatewayCounts, GatewayMetrics, RelayMetrics
from shared.version import VERSION

NOTHING = GatewayCounts(
    states={"ready": False, "starting": True},
    subscription_up=False,
    hears_relay=False,
    connections=0,
    max_connections=20_000,
    joining=0,
    users=0,
    presence_writes={},
    handshakes={},
    refusals={},
    deliveries={},
    delivered_bytes={},
    latencies={},
    closes={},
    conflated={},
    gaps_found=0,
    gaps={},
    replays={},
    replaying=0,
    buffered_bytes=0,
    max_buffered_bytes=1_000,
    due_bytes=0,
    streams=1,
)


def samples(counts: GatewayCounts) -> dict[tuple[str, ...], float]:
    text = generate_latest(GatewayMetrics(lambda: counts).registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.type != "histogram" or sample.labels.get("type")
        if not sample.name.endswith("_created")
    }


def test_a_replica_that_has_done_nothing_says_so() -> None:
    assert samples(NOTHING) == {
        ("notify_build_info", platform.python_version(), VERSION): 1,
        ("notify_gateway_state", "starting"): 1,
        ("notify_gateway_state", "ready"): 0,
        ("notify_gateway_subscription_up",): 0,
        ("notify_gateway_hears_relay",): 0,
        ("notify_gateway_connections",): 0,
        ("notify_gateway_max_connections",): 20_000,
        ("notify_gateway_joining",): 0,
        ("notify_gateway_users",): 0,
        ("notify_gateway_buffered_bytes",): 0,
        ("notify_gateway_max_buffered_bytes",): 1_000,
        ("notify_gateway_due_bytes",): 0,
        ("notify_gateway_streams",): 1,
        ("notify_gateway_gaps_found_total",): 0,
        ("notify_gateway_replaying",): 0,
    }


def test_counts_are_read_when_prometheus_asks() -> None:
    counts = replace(
        NOTHING,
        connections=2,
        users=1,
        presence_writes={"written": 11},
        handshakes={101: 3},
        refusals={"unauthorized": 11},
        deliveries={b"risk_alert": 4},
        delivered_bytes={b"risk_alert": 400},
        conflated={b"market_alert": 3},
        latencies={b"risk_alert": ([("0.01", 3), ("+Inf", 4)], 0.7)},
        closes={4000: 5},
        gaps_found=14,
        gaps={"filled": 6, "unfillable": 7},
        replays={"recovered": 8, "resync": 9},
        replaying=10,
        buffered_bytes=8,
        due_bytes=12,
        subscription_up=True,
        hears_relay=True,
    )
    read = samples(counts)
    assert read[("notify_gateway_connections",)] == 2
    assert read[("notify_gateway_users",)] == 1
    assert read[("notify_gateway_presence_writes_total", "written")] == 11
    assert read[("notify_gateway_handshakes_total", "101")] == 3
    assert read[("notify_gateway_refusals_total", "unauthorized")] == 11
    assert read[("notify_gateway_deliveries_total", "risk_alert")] == 4
    assert read[("notify_gateway_delivered_bytes_total", "risk_alert")] == 400
    assert read[("notify_gateway_conflated_total", "market_alert")] == 3
    assert read[("notify_gateway_latency_seconds_bucket", "0.01", "risk_alert")] == 3
    assert read[("notify_gateway_latency_seconds_bucket", "+Inf", "risk_alert")] == 4
    assert read[("notify_gateway_latency_seconds_count", "risk_alert")] == 4
    assert read[("notify_gateway_latency_seconds_sum", "risk_alert")] == 0.7
    assert read[("notify_gateway_closes_total", "4000")] == 5
    assert read[("notify_gateway_gaps_found_total",)] == 14
    assert read[("notify_gateway_gaps_total", "filled")] == 6
    assert read[("notify_gateway_gaps_total", "unfillable")] == 7
    assert read[("notify_gateway_buffered_bytes",)] == 8
    assert read[("notify_gateway_due_bytes",)] == 12
    assert read[("notify_gateway_subscription_up",)] == 1
    assert read[("notify_gateway_hears_relay",)] == 1


def test_what_may_come_begins_at_zero_since_a_counter_that_begins_with_one_has_not_risen() -> None:
    metrics = RelayMetrics()
    metrics.expect(topics=["risk-events"], reasons=["not_json"])
    of = metrics.registry.get_sample_value
    assert of("notify_relay_dead_letters_total", {"reason": "not_json"}) == 0
    assert of("notify_relay_lost_to_retention_total", {"topic": "risk-events"}) == 0
    for result in ("published", "duplicate", "skipped", "dead_lettered"):
        assert of("notify_relay_events_total", {"topic": "risk-events", "result": result}) == 0


def test_a_relay_is_in_one_state() -> None:
    metrics = RelayMetrics()
    for state in ("starting", "ready"):
        metrics.is_in(state, ("starting", "ready", "stalled"))
    of = metrics.registry.get_sample_value
    assert [of("notify_relay_state", {"state": state}) for state in ("starting", "ready", "stalled")] == [0, 1, 0]


def test_two_replicas_in_one_process_count_apart() -> None:
    one, other = RelayMetrics(), RelayMetrics()
    one.dead_letters.labels("not_json").inc()
    assert one.registry.get_sample_value("notify_relay_dead_letters_total", {"reason": "not_json"}) == 1
    assert other.registry.get_sample_value("notify_relay_dead_letters_total", {"reason": "not_json"}) is None


@pytest.mark.parametrize("registry", [GatewayMetrics(lambda: NOTHING).registry, RelayMetrics().registry])
def test_every_metric_has_a_meaning_and_the_services_prefix(registry: object) -> None:
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))  # type: ignore[arg-type]
    assert families
    for family in families:
        assert family.name.startswith("notify_")
        assert family.documentation
