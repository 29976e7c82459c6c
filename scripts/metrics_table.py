"""docs/metrics.md's tables, made from the code: each metric, its type, labels, meaning, and the alerts on it.

python -m scripts.metrics_table            write them
python -m scripts.metrics_table --check    say whether they are fresh
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from scripts.made import write_or_check
from scripts.promql import Rule, metrics_of, parse_rules
from shared.metrics import GatewayCounts, GatewayMetrics, RelayMetrics

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "docs" / "metrics.md"
RULES: Final = ROOT / "deploy" / "alerts.yml"

BEGIN: Final = "<!-- {}: made by python -m scripts.metrics_table -->"
END: Final = "<!-- end -->"
_ENDINGS: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}

_COUNTS: Final = GatewayCounts(
    states={"": True},
    subscription_up=True,
    hears_relay=True,
    connections=0,
    max_connections=0,
    joining=0,
    users=0,
    presence_writes={"": 0},
    handshakes={0: 0},
    refusals={"": 0},
    deliveries={b"": 0},
    delivered_bytes={b"": 0},
    latencies={b"": ([("+Inf", 0)], 0)},
    closes={0: 0},
    conflated={b"": 0},
    gaps_found=0,
    gaps={"": 0},
    replays={"": 0},
    replaying=0,
    buffered_bytes=0,
    max_buffered_bytes=0,
    due_bytes=0,
    streams=0,
)
"""One value of each label."""


class Documented(NamedTuple):
    """A metric as operators know it."""

    name: str
    """As it is asked for; of a histogram without `_bucket`, `_sum` and `_count`."""
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> frozenset[str]:
        """Its names in queries."""
        if self.type == "histogram":
            return frozenset(self.name + ending for ending in _ENDINGS["histogram"])
        return frozenset((self.name,))


def of_relay() -> list[Documented]:
    """What a relay has, in the order of its class."""
    metrics = RelayMetrics()
    wrapped = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    labels = {next(iter(metric.describe())).name: tuple(metric._labelnames) for metric in wrapped}
    return [_documented(family, labels.get(family.name)) for family in metrics.registry.collect()]


def of_gateway() -> list[Documented]:
    """What a replica has, in the order of its class."""
    return [_documented(family) for family in GatewayMetrics(lambda: _COUNTS).registry.collect()]


def _documented(family: Metric, labels: tuple[str, ...] | None = None) -> Documented:
    """Raises ValueError for a metric without a meaning."""
    if not family.documentation:
        raise ValueError(f"{family.name} has no meaning")
    ending = _ENDINGS.get(family.type, ("",))[0] if family.type != "histogram" else ""
    if labels is None:
        labels = tuple(label for label in family.samples[0].labels if label != "le")
    return Documented(family.name + ending, family.type, labels, family.documentation)


def table(metrics: Iterable[Documented], rules: Sequence[Rule]) -> str:
    """A Markdown table."""
    lines = ["| metric | type | labels | meaning | alerts |", "|---|---|---|---|---|"]
    for metric in metrics:
        alerts = [rule.name for rule in rules if rule.is_alert and metrics_of(_condition(rule), rules) & metric.series]
        links = ", ".join(f"[{name.removeprefix('Notification')}](runbook.md#{name.lower()})" for name in alerts)
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.meaning} | {links} |")
    return "\n".join(lines)


def _condition(rule: Rule) -> Rule:
    """What a rule is about, without what it is left out for."""
    return rule._replace(expression=re.split(r"\b(?:and|unless) on\b", rule.expression)[0])


def render(text: str, tables: Mapping[str, str]) -> str:
    """`text` with its tables made anew. Raises ValueError where it has no place for one."""
    for name, made in tables.items():
        head, begin, rest = text.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"there is no place for the table of {name}")
        text = f"{head}{begin}\n\n{made}\n\n{end}{tail}"
    return text


def fresh() -> str:
    """docs/metrics.md as it should be."""
    rules = parse_rules(RULES.read_text())
    tables = {"gateway": table(of_gateway(), rules), "relay": table(of_relay(), rules)}
    return render(FILE.read_text(), tables)


def main(arguments: list[str]) -> None:
    complaint = "docs/metrics.md does not fit the metrics and the alerts: python -m scripts.metrics_table"
    write_or_check(FILE, fresh(), arguments, complaint)


if __name__ == "__main__":
    main(sys.argv[1:])
