"""The document that sections and the facts about the machine make, as Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bench.plot import svg
from bench.results import Effort, Goal, Section, Table

FOLDER = "benchmarks"
"""Of the plots, beside the document."""
_COMMANDS = {
    Effort.QUICK: "python -m bench --effort quick --write",
    Effort.STANDARD: "make bench",
    Effort.FULL: "make bench-full",
}
_MOST_DECIMALS = 6


def document(sections: Sequence[Section], machine: Mapping[str, str], effort: Effort) -> str:
    """docs/benchmarks.md."""
    goals = [goal for section in sections for goal in section.goals]
    parts = [
        "# Benchmarks",
        "What one gateway replica, one relay and both together do, beside other servers and beside programs in C. "
        f"`{_COMMANDS[effort]}` measured it on {machine['date']} and wrote this document.",
        "Machines are shared and differ, from hour to hour too: a ratio to something that was measured in the same "
        "run says more than a rate. What profiles say about the figures, and where they fall short, is in "
        "[performance.md](performance.md); what follows for so many clients in [capacity.md](capacity.md).",
        "## Goals",
        f"{sum(goal.is_met for goal in goals)} of {len(goals)} are reached. Where several rounds were measured: their "
        "median, with the least and the most.",
        goals_table(goals),
    ]
    for section in sections:
        parts += _body(section)
        parts += [f"![{plot.title}]({FOLDER}/{plot.name}.svg)" for plot in section.plots]
    parts += ["## Machine and versions", _table(Table(["what", "which"], list(machine.items())))]
    return "\n\n".join(parts) + "\n"


def plots(sections: Iterable[Section]) -> dict[str, str]:
    """The texts of the SVG files by name. Raises ValueError when two plots have the same."""
    files: dict[str, str] = {}
    for plot in (plot for section in sections for plot in section.plots):
        if f"{plot.name}.svg" in files:
            raise ValueError(f"two plots have the name {plot.name}")
        files[f"{plot.name}.svg"] = svg(plot)
    return files


def printed(section: Section) -> str:
    """A section by itself, for a terminal: with its goals, without plots."""
    parts = _body(section)
    if section.goals:
        parts.insert(1, goals_table(section.goals))
    return "\n\n".join(parts) + "\n"


def _body(section: Section) -> list[str]:
    return [f"## {section.title}", f"`{section.command}`", section.text, *map(_table, section.tables)]


def goals_table(goals: Iterable[Goal]) -> str:
    """What was to be reached, and what was."""
    rows = [[goal.what, target(goal), measured(goal), "yes" if goal.is_met else "**no**"] for goal in goals]
    return _table(Table(["goal", "target", "measured", "reached"], rows))


def target(goal: Goal) -> str:
    """In words: `at least 0.8`."""
    return f"{'at most' if goal.is_limit else 'at least'} {goal.target:,.10g}"


def measured(goal: Goal) -> str:
    """The number and its spread, as people read them: 1,234,567; 12.3; 0.83; 0.0051; with more decimals when these
    would not show whether the target is reached."""
    decimals = _decimals(goal.measured, *(goal.spread or ()))
    while replace(goal, measured=round(goal.measured, decimals)).is_met != goal.is_met and decimals < _MOST_DECIMALS:
        decimals += 1
    text = _fixed(goal.measured, decimals)
    return f"{text} ({' to '.join(_fixed(value, decimals) for value in goal.spread)})" if goal.spread else text


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


def _decimals(value: float, *others: float) -> int:
    """How many `value` should be shown with: two or three digits in all, none when all numbers are whole."""
    size = abs(value)
    if not math.isfinite(size) or size >= 100 or all(float(one).is_integer() for one in (value, *others)):
        return 0
    if size >= 1 or size == 0:
        return 1 if size >= 10 else 2
    return min(1 - math.floor(math.log10(size)), _MOST_DECIMALS)


def _table(table: Table) -> str:
    lines = [_row(table.columns), "|" + "---|" * len(table.columns), *map(_row, table.rows)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
