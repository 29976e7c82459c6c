"""What rule files and queries of Prometheus name, as far as this project writes them. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR: Final = re.compile(r"(?<![\w.:$])([A-Za-z_:][\w:]*+)\s*+(\{[^}]*\})?(?!\()")
_MATCHER: Final = re.compile(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)")
_WORDS: Final = frozenset(("and", "or", "unless", "bool", "offset", "inf", "nan", "by", "without", "on", "ignoring"))
_RULE: Final = re.compile(r"^ *- (alert|record): (\S+)$", re.MULTILINE)
_EXPRESSION: Final = re.compile(r"^ *expr: (?:\|\n((?: {10}.*\n)+)|(.*)$)", re.MULTILINE)


class Rule(NamedTuple):
    """An alert or a recording rule."""

    name: str
    is_alert: bool
    expression: str


class Selector(NamedTuple):
    """A metric in a query, and the labels that it is asked for by."""

    metric: str
    labels: frozenset[str]


def parse_rules(text: str) -> list[Rule]:
    """The rules of a file like deploy/alerts.yml: `expr` in one line or in a block. `promtool check rules` says
    whether it is one. Raises ValueError for a rule without an expression."""
    starts = list(_RULE.finditer(text))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    rules = []
    for start, end in zip(starts, ends, strict=True):
        found = _EXPRESSION.search(text, start.end(), end)
        if found is None:
            raise ValueError(f"{start[2]} has no expression")
        expression = found[1] or found[2]
        rules.append(Rule(start[2], start[1] == "alert", expression.strip()))
    return rules


def selectors(query: str) -> list[Selector]:
    """The metrics that a query asks for, in their order."""
    return list(_selectors(_GROUPING.sub(" ", _without_strings(query))))


def _selectors(query: str) -> Iterator[Selector]:
    for found in _SELECTOR.finditer(query):
        name, matchers = found[1], found[2]
        if name.lower() not in _WORDS:
            yield Selector(name, frozenset(_MATCHER.findall(matchers or "")))


def _without_strings(query: str) -> str:
    return re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", '""', query)


def grouping_labels(query: str) -> frozenset[str]:
    """The labels that a query groups or matches by."""
    return frozenset(
        label for found in _GROUPING.finditer(query) for label in re.split(r"[,\s]+", found[1].strip()) if label
    )


def metrics_of(rule: Rule, rules: Sequence[Rule]) -> frozenset[str]:
    """The metrics that a rule asks for, also through recording rules among `rules`."""
    recorded: Mapping[str, Rule] = {one.name: one for one in rules if not one.is_alert}
    found: set[str] = set()
    for name in {selector.metric for selector in selectors(rule.expression)}:
        found |= metrics_of(recorded[name], rules) if name in recorded else {name}
    return frozenset(found)
