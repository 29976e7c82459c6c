"""deploy/alerts.yml and its tests."""

import re
from pathlib import Path

import pytest
from harness.prometheus import needs_prometheus, promtool
from harness.queries import check_names

from demo.process import ROOT
from scripts.metrics_table import RULES
from scripts.promql import Rule, parse_rules

TESTS = ROOT / "deploy" / "alerts_test.yml"

ALERTS = [rule for rule in parse_rules(RULES.read_text()) if rule.is_alert]


@pytest.mark.parametrize("rule", parse_rules(RULES.read_text()), ids=lambda rule: rule.name)
def test_every_rule_asks_for_what_there_is(rule: Rule) -> None:
    check_names(rule.expression)


@pytest.mark.parametrize("query", ["notify_relay_nothing", 'notify_relay_redis_up{topic="x"}', "sum by (x) (up)", "5"])
def test_what_there_is_not_is_found(query: str) -> None:
    with pytest.raises(AssertionError):
        check_names(query)


def test_every_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    blocks = re.split(r"^ *- alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(ALERTS)
    for block in blocks:
        name = block.split()[0]
        assert re.search(r"labels: \{severity: (page|ticket)\}$", block, re.MULTILINE), name
        assert re.search(r"^ *summary: \S", block, re.MULTILINE), name
        assert re.search(r"^ *description: \S", block, re.MULTILINE), name
        assert f"runbook_url: docs/runbook.md#{name.lower()}\n" in block, name


@needs_prometheus
def test_promtool_takes_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout


@needs_prometheus
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    tested = promtool("test", "rules", TESTS)
    assert tested.returncode == 0, tested.stdout


@needs_prometheus
@pytest.mark.parametrize("name", [rule.name for rule in ALERTS])
def test_the_tests_miss_each_alert(name: str, tmp_path: Path) -> None:
    """Without it, and with one that always fires, some test fails."""
    tmp_path.joinpath(TESTS.name).write_text(TESTS.read_text())
    block = re.compile(rf"^ *- alert: {name}\n(?:(?! *- alert: ).*\n)*", re.MULTILINE)
    for instead in ("", f"      - alert: {name}\n        expr: vector(1)\n"):
        text, count = block.subn(instead, RULES.read_text())
        assert count == 1
        tmp_path.joinpath(RULES.name).write_text(text)
        assert promtool("test", "rules", tmp_path / TESTS.name).returncode != 0
