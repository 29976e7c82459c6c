"""Every metric's name and meaning."""

from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import GatewayCounts, GatewayMetrics, RelayMetrics

NOTHING = GatewayCounts(
    connections=0,
    users=0,
    presence_writes={},
    handshakes={},
    refusals={},
    deliveries={},
    latencies={},
    closes={},
    conflated={},
    gaps={},
    replays={},
    replaying=0,
    buffered_bytes=0,
    streams=1,
    subscription_up=False,
)


def samples(counts: GatewayCounts) -> dict[tuple[str, ...], float]:
    text = generate_latest(GatewayMetrics(lambda: counts).registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_replica_that_has_done_nothing_says_so() -> None:
    assert samples(NOTHING) == {
        ("notify_gateway_connections",): 0,
        ("notify_gateway_users",): 0,
        ("notify_gateway_buffered_bytes",): 0,
        ("notify_gateway_streams",): 1,
        ("notify_gateway_subscription_up",): 0,
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
        conflated={b"market_alert": 3},
        latencies={b"risk_alert": ([("0.01", 3), ("+Inf", 4)], 0.7)},
        closes={4000: 5},
        gaps={"filled": 6, "unfillable": 7},
        replays={"recovered": 8, "resync": 9},
        replaying=10,
        buffered_bytes=8,
        subscription_up=True,
    )
    read = samples(counts)
    assert read[("notify_gateway_connections",)] == 2
    assert read[("notify_gateway_users",)] == 1
    assert read[("notify_gateway_presence_writes_total", "written")] == 11
    assert read[("notify_gateway_handshakes_total", "101")] == 3
    assert read[("notify_gateway_refusals_total", "unauthorized")] == 11
    assert read[("notify_gateway_deliveries_total", "risk_alert")] == 4
    assert read[("notify_gateway_conflated_total", "market_alert")] == 3
    assert read[("notify_gateway_latency_seconds_bucket", "0.01", "risk_alert")] == 3
    assert read[("notify_gateway_latency_seconds_bucket", "+Inf", "risk_alert")] == 4
    assert read[("notify_gateway_latency_seconds_count", "risk_alert")] == 4
    assert read[("notify_gateway_latency_seconds_sum", "risk_alert")] == 0.7
    assert read[("notify_gateway_closes_total", "4000")] == 5
    assert read[("notify_gateway_gaps_total", "filled")] == 6
    assert read[("notify_gateway_gaps_total", "unfillable")] == 7
    assert read[("notify_gateway_buffered_bytes",)] == 8
    assert read[("notify_gateway_subscription_up",)] == 1


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
