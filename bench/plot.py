"""A plot as the text of an SVG file that reads on light and on dark pages."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import Plot

_WIDTH, _HEIGHT = 500, 300
"""Of the area that the lines are in."""
_LEFT, _TOP, _BELOW = 90, 44, 56
_LEGEND_ROW = 22
_LETTER_WIDTH, _TITLE_LETTER_WIDTH = 6.6, 8.8
_GREY = "#808080"
"""Of all text: it reads on white and on black."""
_COLOURS = ("#3987d6", "#e07b28", "#27a06f", "#d4568f", "#8f74dd", "#a08c1e", "#2aa3b5", "#b0684c")
_MARKS = ("m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "m-3.5-3.5h7v7h-7z", "m0-5l5 8.5h-10z", "m0-5l5 5l-5 5l-5-5z")
_MOST_MARKS = 40
"""A line of more points is drawn without marks."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """Where a value is, from 0 to 1, between the first and the last tick."""

    ticks: Sequence[float]
    is_logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], is_logarithmic: bool) -> "_Axis":
        """One on which all values have a place."""
        least, most = min(values, default=1.0), max(values, default=1.0)
        if is_logarithmic:
            return cls(_logarithmic_ticks(least, most), True)
        return cls(_linear_ticks(0.0 if 0 < least <= most / 2 else least, most), False)

    def place(self, value: float) -> float:
        first, last = self.ticks[0], self.ticks[-1]
        if self.is_logarithmic:
            return math.log(value / first) / math.log(last / first)
        return (value - first) / (last - first)


def _linear_ticks(least: float, most: float) -> list[float]:
    """About six round numbers around the values."""
    rough = (most - least or abs(most) or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    first = math.floor(least / step + 1e-9)
    last = max(math.ceil(most / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]


def _logarithmic_ticks(least: float, most: float) -> list[float]:
    """Powers of ten around positive values; over less than three of them with 2 and 5 between."""
    factors = (1, 2, 5) if most / least < 1000 else (1,)
    powers = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    first = max(index for index, tick in enumerate(ticks) if tick <= least)
    last = min(index for index, tick in enumerate(ticks) if tick >= most)
    return ticks[first : max(last, first + 1) + 1]


def svg(plot: Plot) -> str:
    """The file's text, the same for the same plot. Points that have no place, such as 0 on a logarithmic axis,
    are left out."""
    lines = {name: _drawable(points, plot.is_logarithmic) for name, points in plot.lines.items()}
    every = [point for points in lines.values() for point in points]
    x_axis = _Axis.of([x for x, _ in every], plot.is_logarithmic)
    y_axis = _Axis.of([y for _, y in every], plot.is_logarithmic)
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    legend = right + 60 + _LETTER_WIDTH * max(map(len, lines), default=0)
    width = max(legend, _LEFT + _TITLE_LETTER_WIDTH * len(plot.title))
    height = max(bottom + _BELOW, _TOP + _LEGEND_ROW * len(lines))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'width="{width:.0f}" height="{height}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{_GREY}">',
        f"<title>{html.escape(plot.title)}</title>",
        _text(_LEFT, 22, plot.title, more='font-size="15" font-weight="600"'),
        _text(_LEFT + _WIDTH / 2, bottom + 44, plot.x, "middle"),
        _text(20, _TOP + _HEIGHT / 2, plot.y, "middle", f'transform="rotate(-90 20 {_TOP + _HEIGHT / 2:g})"'),
    ]
    for tick in x_axis.ticks:
        x = _LEFT + _WIDTH * x_axis.place(tick)
        parts += [_rule(x, _TOP, x, bottom), _text(x, bottom + 20, f"{tick:,.10g}", "middle")]
    for tick in y_axis.ticks:
        y = bottom - _HEIGHT * y_axis.place(tick)
        parts += [_rule(_LEFT, y, right, y), _text(_LEFT - 8, y + 4, f"{tick:,.10g}", "end")]
    for number, (name, points) in enumerate(lines.items()):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        places = [f"{_LEFT + _WIDTH * x_axis.place(x):.1f} {bottom - _HEIGHT * y_axis.place(y):.1f}" for x, y in points]
        if places:
            parts.append(f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _TOP + 10 + _LEGEND_ROW * number
        parts.append(f'<path d="M{right + 16} {y}h20" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(places) <= _MOST_MARKS:
            marked = [f"{right + 26} {y}", *places]
            parts.append(f'<path d="{"".join(f"M{place}{mark}" for place in marked)}" fill="{colour}"/>')
        parts.append(_text(right + 44, y + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _drawable(points: Points, is_logarithmic: bool) -> list[tuple[float, float]]:
    least = 0.0 if is_logarithmic else -math.inf
    return [point for point in points if all(math.isfinite(value) and value > least for value in point)]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{_GREY}" stroke-opacity="0.25"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    words = html.escape(text, quote=False)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{" " * bool(more)}{more}>{words}</text>'
