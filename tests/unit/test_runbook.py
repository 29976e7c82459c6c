"""docs/runbook.md: an entry for each alert, and nothing in it that is not there."""

import re
from itertools import pairwise

import pytest
from harness.queries import check_names

from demo.process import ROOT
from scripts.metrics_table import RULES
from scripts.promql import parse_rules

TEXT = (ROOT / "docs" / "runbook.md").read_text()
ALERTS = [rule.name for rule in parse_rules(RULES.read_text()) if rule.is_alert]
PARTS = re.split(r"^## (\w+)$", TEXT, flags=re.MULTILINE)[1:]
ENTRIES = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
SERVICES = "".join(
    file.read_text() for folder in ("gateway", "relay", "shared") for file in (ROOT / folder).rglob("*.py")
)
VERDICTS = (ROOT / "gateway" / "console" / "verdicts.js").read_text()


def quoted(label: str) -> list[str]:
    """What stands in backquotes behind `**<label>:**`, up to the end of its sentence."""
    sentences = re.findall(rf"\*\*{label}:\*\* ((?:`[^`]+`|[^`.])*)", TEXT)
    return [word for sentence in sentences for word in re.findall(r"`([^`]+)`", sentence)]


def test_every_alert_has_its_entry_in_the_same_order_and_every_entry_its_alert() -> None:
    assert list(ENTRIES) == ALERTS


@pytest.mark.parametrize("name", ALERTS)
def test_an_entry_says_what_it_means_how_to_see_it_what_to_do_and_when_it_is_over(name: str) -> None:
    entry = ENTRIES[name]
    places = [entry.index(part) for part in ("**Means:** ", "**Hurt:** ", "**See:**", "**Do:**\n1. ", "**Over when** ")]
    assert all(before < after for before, after in pairwise(places))
    assert "```promql\n" in entry


@pytest.mark.parametrize("query", [line for block in re.findall(r"```promql\n(.*?)```", TEXT, re.DOTALL)
                                   for line in block.splitlines()])  # fmt: skip
def test_every_query_asks_for_what_there_is(query: str) -> None:
    check_names(query)


def test_every_line_of_the_log_is_written_somewhere() -> None:
    lines = quoted("Log")
    assert len(lines) > 10
    assert [line for line in lines if f'"{line}"' not in SERVICES] == []


def test_every_sentence_of_the_console_is_said_by_it() -> None:
    sentences = quoted("Console")
    assert len(sentences) > 5
    assert [one for one in sentences if one not in re.sub(r"\$\{[^}]*\}", "", VERDICTS)] == []


def test_every_setting_is_one() -> None:
    settings = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", TEXT))
    assert len(named) > 10
    assert [name for name in named if f"\n{name}=" not in settings] == []


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in {name.lower() for name in ALERTS}, anchor
