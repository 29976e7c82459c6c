"""scripts/metrics_table.py, and docs/metrics.md itself."""

import re

import pytest

from demo.process import ROOT
from scripts.metrics_table import BEGIN, END, FILE, Documented, fresh, of_gateway, of_relay, render, table
from scripts.promql import Rule


def test_the_file_in_the_repository_is_fresh() -> None:
    assert FILE.read_text() == fresh(), "run: python -m scripts.metrics_table"


def test_every_metric_is_in_it_once_with_its_labels() -> None:
    names = [metric.name for metric in of_relay()] + [metric.name for metric in of_gateway()]
    assert names.count("notify_build_info") == 2
    assert len(set(names)) == len(names) - 1 > 40
    labels = {metric.name: metric.labels for metric in (*of_relay(), *of_gateway())}
    assert labels["notify_relay_events_total"] == ("topic", "result")
    assert labels["notify_gateway_latency_seconds"] == ("type",)
    assert labels["notify_gateway_connections"] == ()


def test_no_metric_is_named_elsewhere_in_the_services() -> None:
    for folder in ("gateway", "relay", "shared"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "metrics.py":
                assert not re.search(r"notify_(relay|gateway)_[a-z]", file.read_text()), file


def test_a_row_names_the_alerts_on_it_and_not_those_that_it_holds_back() -> None:
    metrics = [Documented("a_seconds", "histogram", ("x",), "Seconds"), Documented("b", "gauge", (), "Up")]
    rules = [
        Rule("a:p99", False, "histogram_quantile(0.99, sum by (le) (rate(a_seconds_bucket[5m])))"),
        Rule("NotificationLate", True, "(a:p99 > 1) unless on () (b == 0)"),
    ]
    lines = table(metrics, rules).splitlines()
    assert lines[2:] == [
        "| `a_seconds` | histogram | `x` | Seconds | [Late](runbook.md#notificationlate) |",
        "| `b` | gauge |  | Up |  |",
    ]


def test_a_table_takes_the_place_of_the_one_before() -> None:
    place = f"before\n{BEGIN.format('relay')}\n\nold\n\n{END}\nbehind\n"
    assert render(place, {"relay": "new"}) == place.replace("old", "new")
    with pytest.raises(ValueError, match="no place for the table of gateway"):
        render(place, {"gateway": "new"})
