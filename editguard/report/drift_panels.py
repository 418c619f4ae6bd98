"""Drift over a sequence of edits as small charts: what a template needs to draw them, and the same in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Final

from editguard.measurements.record import FRACTION, named
from editguard.measurements.signals import SIGNALS, Series
from editguard.report.palette import COLOURS
from editguard.report.sequences import Grown
from editguard.report.terminal import property_order

WIDTH: Final = 360
HEIGHT: Final = 224
LEFT: Final = 46
RIGHT: Final = 14
TOP: Final = 12
BOTTOM: Final = 40
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 4", "12 4")
MARKERS: Final = (
    "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0z",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.2L4,3.2H-4z",
    "M0,-4.6L4.6,0L0,4.6L-4.6,0z",
    "M0,4.2L4,-3.2H-4z",
    "M-1.3,-4.2h2.6v2.9h2.9v2.6h-2.9v2.9h-2.6v-2.9h-2.9v-2.6h2.9z",
    "M-4,-2.2L-2.2,-4L0,-1.8L2.2,-4L4,-2.2L1.8,0L4,2.2L2.2,4L0,1.8L-2.2,4L-4,2.2L-1.8,0z",
)
"""Circle, square, triangle, diamond, triangle upside down, plus, cross."""
_DODGE: Final = 2.5
"""Pixels between the intervals of two methods at one checkpoint."""
_INSET: Final = 10
"""Pixels between the ends of the axis and the first and last point."""
_SPACE: Final = 26
"""Pixels between the numbers below a chart at least."""
_MARKED: Final = 8
"""Of a long line no more than about so many points are marked."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn everywhere: number of its colour, dashes, and the path of its marker."""

    colour: int
    dash: str
    marker: str


@dataclass(frozen=True)
class Point:
    """A value after so many edits, with its 95 % interval where it has one."""

    edits: int
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """The points of one method; `onset`: the edit from which on it gets worse, where that was found."""

    name: str
    points: tuple[Point, ...]
    onset: int | None = None


@dataclass(frozen=True)
class Mark:
    """A drawn point: where, and the ends of its interval, all in pixels; `told` in words."""

    x: float
    y: float
    low: float | None
    high: float | None
    told: str
    shown: bool = True


@dataclass(frozen=True)
class DrawnLine:
    """A line in pixels: its path, its marks, and where it begins to get worse, which is at the edit `worse_from`."""

    name: str
    path: str
    marks: tuple[Mark, ...]
    onset: Mark | None = None
    worse_from: int | None = None


@dataclass(frozen=True)
class Panel:
    """A chart in pixels.

    Attributes:
        across, up: ticks, each with its place and its text.
        told: the chart in words.
    """

    title: str
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    lines: tuple[DrawnLine, ...]
    told: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """How each method is drawn, no two alike up to 49."""
    found = {}
    for at, name in enumerate(dict.fromkeys(names)):
        lap = at // len(COLOURS)
        found[name] = Look(at % len(COLOURS), DASHES[(at + lap) % len(DASHES)], MARKERS[(at + lap) % len(MARKERS)])
    return found


def property_panels(sequence: Grown) -> list[Panel]:
    """A chart for each property of a sequence: the mean at every checkpoint with its interval."""
    by_title: dict[str, dict[str, dict[int, Point]]] = {}
    shares = set()
    for one in sequence.measurements:
        if one.n:
            title = named(one.title, one.unit)
            shares |= {title} if one.unit == FRACTION else set()
            points = by_title.setdefault(title, {}).setdefault(one.method, {})
            points.setdefault(one.edits, Point(one.edits, one.mean, one.interval))
    panels = []
    for title in sorted(by_title, key=property_order):
        lines = [_line(name, list(points.values())) for name, points in by_title[title].items()]
        panels.append(_panel(title, lines, sequence.checkpoints, (0.0, 1.0) if title in shares else None))
    return panels


def signal_panels(sequences: Sequence[Series]) -> list[tuple[int, list[Panel]]]:
    """Charts of what was read after every edit, for the sequences of each length, with where it gets worse."""
    by_length: dict[int, list[Series]] = {}
    for series in sequences:
        by_length.setdefault(series.points[-1].edits, []).append(series)
    found = []
    for length, alike in by_length.items():
        panels = []
        for signal in SIGNALS:
            lines = []
            for series in alike:
                values = zip((point.edits for point in series.points), series.values(signal), strict=True)
                points = [Point(edits, value) for edits, value in values if value is not None and isfinite(value)]
                onset = series.onset(signal)
                lines.append(_line(series.method, points, None if onset is None else onset.after + 1))
            lines = [line for line in lines if len(line.points) > 1]
            if lines:
                panels.append(_panel(signal, lines, [0, *range(1, length + 1)], None))
        if panels:
            found.append((length, panels))
    return found


def _line(name: str, points: Sequence[Point], onset: int | None = None) -> Line:
    return Line(name, tuple(sorted(points, key=lambda point: point.edits)), onset)


def _panel(title: str, lines: Sequence[Line], counts: Sequence[int], span: tuple[float, float] | None) -> Panel:
    first, last = counts[0], counts[-1]
    low, high = span or _span(lines)

    def across(edits: float) -> float:
        room = WIDTH - LEFT - RIGHT - 2 * _INSET
        return LEFT + _INSET + (edits - first) / max(last - first, 1) * room

    def up(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for at, line in enumerate(lines):
        aside = (at - (len(lines) - 1) / 2) * _DODGE if any(point.interval for point in line.points) else 0.0
        each = -(-len(line.points) // _MARKED)
        marks = [
            Mark(
                x=round(across(point.edits) + aside, 1),
                y=round(up(point.value), 1),
                low=None if point.interval is None else round(up(point.interval[0]), 1),
                high=None if point.interval is None else round(up(point.interval[1]), 1),
                told=_told(point),
                shown=number % each == 0 or number == len(line.points) - 1,
            )
            for number, point in enumerate(line.points)
        ]
        path = "M" + "L".join(f"{mark.x:g},{mark.y:g}" for mark in marks)
        onset = next((mark for mark, point in zip(marks, line.points, strict=True) if point.edits == line.onset), None)
        drawn.append(DrawnLine(line.name, path, tuple(marks), onset, line.onset))
    ticks = _ticks(low, high)
    digits = max(0, -floor(log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    return Panel(
        title=title,
        across=tuple((round(across(count), 1), str(count)) for count in _apart(counts, across)),
        up=tuple((round(up(tick), 1), f"{tick:.{digits}f}") for tick in ticks),
        lines=tuple(drawn),
        told=f"{title} over the number of edits. " + " ".join(_in_words(line) for line in lines),
    )


def _told(point: Point) -> str:
    bounds = "" if point.interval is None else " [{:.2f}, {:.2f}]".format(*point.interval)
    return f"after {point.edits}: {point.value:.2f}{bounds}"


def _in_words(line: Line) -> str:
    """A line as a sentence: some of its points, and where it gets worse."""
    last = len(line.points) - 1
    shown = sorted({round(step * last / 5) for step in range(6)}) if last > 5 else range(last + 1)
    worse = "" if line.onset is None else f"; gets worse from edit {line.onset}"
    return f"{line.name}: {', '.join(_told(line.points[at]) for at in shown)}{worse}."


def _span(lines: Sequence[Line]) -> tuple[float, float]:
    """Bounds of an axis that holds all values and intervals, with round ends."""
    values = [value for line in lines for point in line.points for value in (point.value, *(point.interval or ()))]
    finite = [value for value in values if isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = _step(high - low)
    return floor(low / step + 1e-9) * step, -floor(-high / step + 1e-9) * step


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten: of which about four make up the span."""
    rough = span / 4
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= rough * (1 - 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    if (low, high) == (0.0, 1.0):
        return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    step = _step(high - low)
    return [low + number * step for number in range(round((high - low) / step) + 1)]


def _apart(counts: Sequence[int], across: Callable[[float], float]) -> list[int]:
    """The numbers that find room below the axis; the first and the last always."""
    chosen = [counts[0]]
    step = 1
    if len(counts) > 12:
        step = max(1, int(_step((counts[-1] - counts[0]) * 0.8)))
        counts = [counts[0], *(count for count in counts if count % step == 0 and count != counts[0]), counts[-1]]
    for count in counts[1:-1]:
        if across(count) - across(chosen[-1]) >= _SPACE and across(counts[-1]) - across(count) >= _SPACE:
            chosen.append(count)
    return [*chosen, counts[-1]] if counts[-1] != chosen[0] else chosen
