"""What may be asked of Prometheus, and what deploy/ asks."""

import json
from typing import Any, Final

from demo.process import ROOT
from scripts.metrics_table import of_gateway, of_relay
from scripts.promql import grouping_labels, selectors

DASHBOARD: Final = ROOT / "deploy" / "grafana" / "notification.json"

_OF_TARGET: Final = {"job", "instance"}
"""Labels that Prometheus gives."""

_SERIES: Final = {name: set(metric.labels) for metric in (*of_relay(), *of_gateway()) for name in metric.series}

OF_PROCESS: Final = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)

KNOWN: Final[dict[str, set[str]]] = {
    **_SERIES,
    **{name: labels | {"le"} for name, labels in _SERIES.items() if name.endswith("_bucket")},
    **{name: set() for name in (*OF_PROCESS, "up", "notification:redis_up:max", "notification:redpanda_up:max")},
    **{f"notification:latency_seconds:{quantile}": {"type"} for quantile in ("p50", "p99")},
    "ALERTS": {"alertname", "alertstate", "severity"},
}
"""What may be asked for, and the labels that it has of its own."""


def check_names(query: str) -> None:
    """An AssertionError when a query names what is not there."""
    asked = selectors(query)
    assert asked, f"{query} asks for nothing"
    for metric, labels in asked:
        assert metric in KNOWN, f"{query}: there is no {metric}"
        assert labels <= KNOWN[metric] | _OF_TARGET, f"{query}: {metric} has {sorted(KNOWN[metric])}"
    of_any = set().union(_OF_TARGET, *(KNOWN[metric] for metric, _ in asked))
    assert grouping_labels(query) <= of_any, f"{query} groups by what nothing has"


def dashboard() -> Any:
    """Grafana's dashboard."""
    return json.loads(DASHBOARD.read_text())


def panels_of(shown: Any) -> list[Any]:
    """Its panels, without the rows."""
    return [panel for panel in shown["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[str]:
    """All that the dashboard asks Prometheus, as it is written there."""
    shown = dashboard()
    asked = [target["expr"] for panel in panels_of(shown) for target in panel["targets"]]
    return asked + [annotation["expr"] for annotation in shown["annotations"]["list"]]


def as_sent(query: str, rate_seconds: int) -> str:
    """A query with the dashboard's variables as Grafana would have them: all replicas, and this interval."""
    return query.replace("$__rate_interval", f"{rate_seconds}s").replace("$instance", ".*")
