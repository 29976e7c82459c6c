"""demo/simulator.py: a believable day."""

import json
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

from demo.events import TOPIC_OF_TYPE, Event
from demo.simulator import TradingDay

USERS = ("user-1", "user-2", "user-3")
NOW = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)


def a_day(seed: int = 1, ticks: int = 2000) -> list[Event]:
    day = TradingDay(USERS, Random(seed), lambda: NOW)
    return [event for _ in range(ticks) for event in day.tick()]


def by_type(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for event in events:
        fields = json.loads(event.value)
        assert TOPIC_OF_TYPE[fields["event_type"]] == event.topic
        found[fields["event_type"]].append(fields)
    return found


def test_the_same_seed_makes_the_same_day() -> None:
    assert a_day(7) == a_day(7) != a_day(8)


def test_a_minute_has_all_four_types_and_every_user() -> None:
    types = by_type(a_day(ticks=1200))
    assert set(types) == set(TOPIC_OF_TYPE)
    assert {event["user_id"] for event in types["order_executed"]} == set(USERS)


def test_every_event_has_an_id_of_its_own() -> None:
    ids = [json.loads(event.value)["event_id"] for event in a_day()]
    assert len(set(ids)) == len(ids) > 1000


def test_what_is_for_one_user_is_keyed_by_the_user() -> None:
    for event in a_day():
        user_id = json.loads(event.value).get("user_id")
        assert (user_id is not None) == (event.topic in ("risk-events", "execution-events"))
        assert user_id is None or event.key == user_id.encode()


def test_regimes_follow_one_another() -> None:
    changes = by_type(a_day(ticks=20_000))["regime_change"]
    assert len(changes) > 20
    for earlier, later in pairwise(changes):
        assert later["previous_regime"] == earlier["new_regime"] != later["new_regime"]


def test_orders_are_filled_in_parts_that_only_grow() -> None:
    orders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for fields in by_type(a_day())["order_executed"]:
        assert all(isinstance(fields[name], str) for name in ("qty", "filled_qty", "filled_avg_price"))
        orders[fields["order_id"]].append(fields)
    assert any(len(fills) > 1 for fills in orders.values())
    for fills in orders.values():
        filled = [int(fill["filled_qty"]) for fill in fills]
        assert filled == sorted(set(filled))
        assert len({(fill["user_id"], fill["symbol"], fill["side"], fill["qty"]) for fill in fills}) == 1
        for fill in fills:
            assert Decimal(fill["filled_avg_price"]) > 0
            assert (fill["status"] == "filled") == (fill["filled_qty"] == fill["qty"])


def test_nobody_sells_what_they_do_not_have() -> None:
    held: dict[tuple[str, str], int] = defaultdict(int)
    filled: dict[str, int] = defaultdict(int)
    for fields in by_type(a_day(ticks=20_000))["order_executed"]:
        part = int(fields["filled_qty"]) - filled[fields["order_id"]]
        filled[fields["order_id"]] += part
        held[fields["user_id"], fields["symbol"]] += part if fields["side"] == "buy" else -part
        assert held[fields["user_id"], fields["symbol"]] >= 0


def test_a_long_day_keeps_believable_prices() -> None:
    prices = [
        float(fields["filled_avg_price"])
        for fields in by_type(a_day(ticks=10_000))["order_executed"]
        if fields["symbol"] == "SPY"
    ]
    assert 584.3 / 5 < min(prices) < max(prices) < 584.3 * 5
