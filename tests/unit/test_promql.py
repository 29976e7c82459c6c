"""What rule files and queries name."""

import pytest

from scripts.promql import Rule, Selector, grouping_labels, metrics_of, parse_rules, selectors


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("up", [("up", ())]),
        ('sum by (le) (rate(a_bucket{job="x, and (y)", code!~"5.."}[5m])) > 0.5', [("a_bucket", ("job", "code"))]),
        ("(a == 1 or vector(0)) unless on (job) b:c:max offset 5m", [("a", ()), ("b:c:max", ())]),
        ("increase(a{instance=~\"$replica\"}[$__rate_interval]) * 1e3", [("a", ("instance",))]),
        ("a / on (job) group_left (version) b", [("a", ()), ("b", ())]),
        ("time() - 5", []),
    ],
)  # fmt: skip
def test_the_metrics_of_a_query_and_their_labels(query: str, found: list[tuple[str, tuple[str, ...]]]) -> None:
    assert selectors(query) == [Selector(name, frozenset(labels)) for name, labels in found]


def test_labels_that_are_grouped_or_matched_by() -> None:
    assert grouping_labels("sum by (le, type) (a) and on () b * on (job) group_left (version) c") == {
        "le", "type", "job", "version",
    }  # fmt: skip


RULES = """
groups:
  - name: one
    rules:
      - record: a:b:max
        expr: max(a)
      - alert: Late
        expr: |
          (a:b:max > 1)
          or c
        for: 1m
      - alert: Other
        expr: d
"""


def test_rules_with_expressions_of_one_line_and_of_several() -> None:
    rules = parse_rules(RULES)
    assert rules == [
        Rule("a:b:max", False, "max(a)"),
        Rule("Late", True, "(a:b:max > 1)\n          or c"),
        Rule("Other", True, "d"),
    ]
    assert [metrics_of(rule, rules) for rule in rules] == [{"a"}, {"a", "c"}, {"d"}]


def test_a_rule_without_an_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="Late has no expression"):
        parse_rules("- alert: Late\n- alert: Other\n  expr: d\n")
