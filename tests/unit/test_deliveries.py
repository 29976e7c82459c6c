"""How many messages were handed on, and how old they were."""

import time

import pytest

from gateway.deliveries import AGES_MS, Deliveries
from gateway.group import Due

NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW_MS * 1_000_000 + 999_999)


def due(age_ms: int, type_: bytes | None = b"risk_alert") -> Due:
    return Due(b"frame", type_, None, NOW_MS - age_ms)


def test_each_message_counts_for_each_connection_in_the_class_of_its_age() -> None:
    deliveries = Deliveries()
    deliveries.live([due(3), due(7), due(3, None), due(60_000, b"market_alert")], 2)
    assert deliveries.counts == {b"risk_alert": 4, b"market_alert": 2}
    assert {type_: one.frame_bytes for type_, one in deliveries.of_types.items()} == {
        b"risk_alert": 4 * len(b"frame"),
        b"market_alert": 2 * len(b"frame"),
    }
    buckets, sum_seconds = deliveries.of_types[b"risk_alert"].ages.cumulated()
    assert dict(buckets) == {str(bound / 1000): 0 if bound < 5 else 2 if bound < 10 else 4 for bound in AGES_MS} | {
        "+Inf": 4
    }
    assert sum_seconds == pytest.approx(0.020)
    buckets, _ = deliveries.of_types[b"market_alert"].ages.cumulated()
    assert [count for _, count in buckets] == [0] * len(AGES_MS) + [2]


def test_a_bound_belongs_to_its_class_and_what_is_later_than_now_is_new() -> None:
    deliveries = Deliveries()
    deliveries.live([due(AGES_MS[0]), due(-5_000)], 1)
    ages = deliveries.of_types[b"risk_alert"].ages
    assert ages.counts[:2] == [2, 0]
    assert ages.sum_ms == AGES_MS[0]


def test_what_is_replayed_counts_but_not_how_old_it_is() -> None:
    deliveries = Deliveries()
    deliveries.replayed([due(5), due(5, None)])
    deliveries.live([due(5)], 0)
    assert deliveries.counts == {b"risk_alert": 1}
    assert deliveries.of_types[b"risk_alert"].frame_bytes == len(b"frame")
    assert not any(deliveries.of_types[b"risk_alert"].ages.counts)
