"""What a measurement gives: a section of docs/benchmarks.md, and what of it is held against a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Effort(Enum):
    """How long it may take, all together."""

    QUICK = "quick"
    """Two minutes, for CI: enough to see that something is far off."""
    STANDARD = "standard"
    """Fifteen minutes: everything that docs/benchmarks.md has a target for."""
    FULL = "full"
    """An hour or two: more rounds, larger crowds."""


@dataclass(frozen=True)
class Goal:
    """A target, and what was measured."""

    what: str
    """With its unit, such as `events/s through one relay`."""
    measured: float
    target: float
    is_limit: bool = False
    """The target is the most that it may be, not the least."""
    spread: tuple[float, float] | None = None
    """The least and the most of several rounds, of which `measured` is the median."""
    floor: float | None = None
    """Worse than this fails CI: a ratio, far below the target. None for what a busy machine changes at will."""

    @property
    def is_met(self) -> bool:
        return self.measured <= self.target if self.is_limit else self.measured >= self.target

    @property
    def is_far_off(self) -> bool:
        if self.floor is None:
            return False
        return self.measured > self.floor if self.is_limit else self.measured < self.floor


@dataclass(frozen=True)
class Table:
    """As people read it. The first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """Lines of points, by what they show."""

    name: str
    """Of the SVG file, without its ending: small letters and hyphens."""
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    is_logarithmic: bool = False
    """Both axes."""


@dataclass(frozen=True)
class Section:
    """What one module of this package measured."""

    title: str
    command: str
    """That gives it again, such as `python -m bench fanout`."""
    text: str
    """What was done, in a paragraph or two of Markdown. No figures: they are in the tables."""
    goals: Sequence[Goal] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = field(default_factory=tuple)
