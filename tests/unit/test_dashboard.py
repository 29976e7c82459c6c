"""deploy/grafana/notification.json."""

from itertools import combinations
from typing import Any

import pytest
from harness.queries import as_sent, check_names, dashboard, dashboard_queries, panels_of

from scripts.metrics_table import RULES, of_gateway, of_relay
from scripts.promql import metrics_of, parse_rules, selectors

SHOWN = dashboard()


@pytest.mark.parametrize("query", dashboard_queries())
def test_every_query_asks_for_what_there_is(query: str) -> None:
    check_names(query)
    assert "$" not in as_sent(query, 60), "a variable that nobody sets"


def test_every_metric_is_to_be_seen() -> None:
    asked = {selector.metric for query in dashboard_queries() for selector in selectors(query)}
    assert [one.name for one in (*of_relay(), *of_gateway()) if not one.series & asked] == []


def test_whatever_an_alert_is_about_is_to_be_seen() -> None:
    rules = parse_rules(RULES.read_text())
    asked = {selector.metric for query in dashboard_queries() for selector in selectors(query)}
    assert set().union(*(metrics_of(rule, rules) for rule in rules)) - asked == {"up"}  # Grafana says so of all


@pytest.mark.parametrize("panel", panels_of(SHOWN), ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_in_which_unit(panel: Any) -> None:
    assert len(panel["description"]) > 10
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        assert len(panel["targets"]) == 1 or target["legendFormat"]


def test_panels_are_told_apart_and_none_lies_on_another() -> None:
    assert len({panel["id"] for panel in SHOWN["panels"]}) == len(SHOWN["panels"])
    places = [panel["gridPos"] for panel in SHOWN["panels"]]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    rows = [panel["title"] for panel in SHOWN["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Delivery", "Relay and lag", "Redis and Redpanda", "Clients", "Health"]
