"""deploy/alerts.yml and its tests."""

import re
from pathlib import Path

import pytest
import yaml
from harness.prometheus import needs_prometheus, promtool
from harness.queries import check_names

from demo.process import ROOT
from scripts.metrics_table import RULES
from scripts.promql import Rule, parse_rules

CONFIG = ROOT / "deploy" / "prometheus.yml"
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
@pytest.mark.parametrize("what", [("rules", RULES), ("config", CONFIG)], ids=lambda what: what[0])
def test_promtool_takes_it(what: tuple[str, Path]) -> None:
    checked = promtool("check", *what)
    assert checked.returncode == 0, checked.stdout


def test_missing_processes_are_those_of_the_jobs_that_there_are() -> None:
    (rule,) = (rule for rule in ALERTS if rule.name == "NotificationProcessMissing")
    found = re.search(r'job=~"([^"]+)"', rule.expression)
    assert found is not None
    for job in yaml.safe_load(CONFIG.read_text())["scrape_configs"]:
        assert re.fullmatch(found[1], job["job_name"])


@needs_prometheus
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    tested = promtool("test", "rules", TESTS)
    assert tested.returncode == 0, tested.stdout


CHECKS = [check for test in yaml.safe_load(TESTS.read_text())["tests"] for check in test["promql_expr_test"]]


@pytest.mark.parametrize("name", [rule.name for rule in ALERTS])
def test_each_alert_fires_in_some_test(name: str) -> None:
    assert any(f'"{name}"' in str(check) and check["exp_samples"] for check in CHECKS)


def test_in_the_first_test_none_fires() -> None:
    """So one that always does is found."""
    assert CHECKS[0] == {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "20m",
        "exp_samples": [],
    }
