"""Two criteria against each other: who is dominated, and the line of those who are not, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from editguard.report.labels import Box, Place, distance, nearest_edge, placed
from editguard.study.criteria import COSTS, QUALITY, SURVEYED, Group, Value
from editguard.study.ranking import dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure

Line = tuple[tuple[float, float], tuple[float, float]]
"""Along an axis: both ends' x, both ends' y."""

DPI: Final = 130
"""Dots per inch."""
FRONT: Final = "#b2182b"
BEHIND: Final = "#8a8a8a"
MARKER: Final = 6.0
"""Diameter of a point, in points of type."""
_LEADER: Final = 9.0
"""Pixels between a point and its name from which on a line joins them."""


@dataclass(frozen=True)
class TradeOff:
    """The methods that have a value of both criteria.

    Attributes:
        title: what is shown.
        across, up: criteria of the horizontal and the vertical axis.
        methods: in the order of the study.
        values: (across, up) of each method.
        front: methods that no other one dominates in the two.
    """

    title: str
    across: str
    up: str
    methods: tuple[str, ...]
    values: tuple[tuple[Value, Value], ...]
    front: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "across": self.across,
            "up": self.up,
            "front": [name for name in self.methods if name in self.front],
            "methods": {
                name: {self.across: across.value, self.up: up.value}
                for name, (across, up) in zip(self.methods, self.values, strict=True)
            },
        }


def trade_off(group: Group, across: str, up: str) -> TradeOff:
    """Two criteria of all methods of a group, whatever limits there are.

    Raises: ConfigurationError: a criterion has no scale.
    """
    found: dict[str, tuple[Value, Value]] = {}
    for name in group.methods():
        first, second = group.value(across, name), group.value(up, name)
        if first is not None and second is not None:
            found[name] = (first, second)
    utilities = np.stack(
        [
            group.utilities(criterion, [pair[at] for pair in found.values()])
            for at, criterion in enumerate((across, up))
        ],
        axis=1,
    )
    behind = dominated(utilities)
    return TradeOff(
        title=f"{group.results.name}: {group.title}",
        across=across,
        up=up,
        methods=tuple(found),
        values=tuple(found.values()),
        front=frozenset(name for name, beaten in zip(found, behind, strict=True) if not beaten),
    )


def trade_off_pictures(shown: TradeOff) -> Mapping[str, bytes]:
    """The picture in each form: ending of the file's name -> bytes; the same values give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(shown)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)  # type: ignore[no-untyped-call]
    return {"png": png.getvalue(), "svg": svg(figure)}


def svg(figure: Figure) -> bytes:
    """The bytes of an SVG file, without a date or drawn names, so that the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "editguard"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return file.getvalue()


def draw(shown: TradeOff) -> Figure:
    """The figure with every point named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5.8), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0.1, 0.12, 0.86, 0.76))
    places = [(_at(shown.across, across), _at(shown.up, up)) for across, up in shown.values]
    for criterion, scale in ((shown.across, axis.set_xscale), (shown.up, axis.set_yscale)):
        if criterion in COSTS:
            scale("log")
    lines = [*_intervals(shown, places), *_steps(shown, places)]
    for (xs, ys), colour in lines:
        axis.plot(xs, ys, color=colour, linewidth=1, zorder=2)
    for name, (x, y) in zip(shown.methods, places, strict=True):
        first = name in shown.front
        axis.plot([x], [y], "o", color=FRONT if first else BEHIND, markersize=MARKER, zorder=4 if first else 3)
    axis.margins(0.1)
    axis.set_xlabel(_title(shown.across), fontsize=10)
    axis.set_ylabel(_title(shown.up), fontsize=10)
    axis.tick_params(labelsize=9)
    axis.grid(True, color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.set_title(
        f"{_plain(shown.title)}\nred: not dominated (no other method is as good in both and better in one)",
        fontsize=10.5,
        loc="left",
    )
    _name_points(axis, shown, places, [line for line, _ in lines], canvas.get_renderer())  # type: ignore[no-untyped-call]
    return figure


def _box(ends: NDArray[np.float64]) -> Box:
    """Around a line along an axis.  ends: (2, 2), a row for each end."""
    (left, bottom), (right, top) = ends.min(axis=0).tolist(), ends.max(axis=0).tolist()
    return (left, bottom, right, top)


def _at(criterion: str, value: Value) -> float:
    return max(value.value, COSTS[criterion].floor) if criterion in COSTS else value.value


def _title(criterion: str) -> str:
    if criterion in COSTS:
        return f"{COSTS[criterion].title} (less is better)"
    if criterion == QUALITY:
        return f"mean of {', '.join(SURVEYED)}"
    return criterion.replace("_", " ").replace("/", ": ")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def _intervals(shown: TradeOff, places: Sequence[Place]) -> Iterator[tuple[Line, str]]:
    """95 % intervals of the values that have one."""
    for (across, up), (x, y) in zip(shown.values, places, strict=True):
        if across.low is not None and across.high is not None:
            yield ((across.low, across.high), (y, y)), "#c9c9c9"
        if up.low is not None and up.high is not None:
            yield ((x, x), (up.low, up.high)), "#c9c9c9"


def _steps(shown: TradeOff, places: Sequence[Place]) -> Iterator[tuple[Line, str]]:
    """Steps through the front: what lies behind them is dominated."""
    line = sorted(place for name, place in zip(shown.methods, places, strict=True) if name in shown.front)
    for (x, y), (next_x, next_y) in pairwise(line):
        corner = y if shown.across in COSTS else next_y
        yield ((x, next_x), (corner, corner)), "#dd9aa2"
        turn = next_x if shown.across in COSTS else x
        yield ((turn, turn), (y, next_y)), "#dd9aa2"


def _name_points(
    axis: Axes, shown: TradeOff, places: Sequence[Place], lines: Sequence[Line], renderer: RendererBase
) -> None:
    """Write each name where it covers nothing, the front's first; a name far from its point is joined to it."""
    from matplotlib.patheffects import withStroke

    axis.figure.draw(renderer)
    order = sorted(range(len(places)), key=lambda at: (shown.methods[at] not in shown.front, at))
    points = [tuple(axis.transData.transform(places[at]).tolist()) for at in order]
    colours = [FRONT if shown.methods[at] in shown.front else "#4d4d4d" for at in order]
    texts = [
        axis.text(0, 0, _plain(shown.methods[at]), fontsize=9, color=colour, transform=axis.transAxes, va="bottom")
        for at, colour in zip(order, colours, strict=True)
    ]
    for text in texts:
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    extents = [text.get_window_extent(renderer) for text in texts]
    frame = axis.get_window_extent(renderer)
    radius = MARKER * DPI / 72 / 2
    boxes = placed(
        points,
        [(extent.width, extent.height) for extent in extents],
        (frame.x0 + 2, frame.y0 + 2, frame.x1, frame.y1),
        radius=radius,
        lines=[_box(axis.transData.transform(np.transpose(line))) for line in lines],
    )
    to_axis = axis.transAxes.inverted()  # not pixels, of which an SVG has another number
    for text, box, point in zip(texts, boxes, points, strict=True):
        text.set_position(tuple(to_axis.transform(box[:2])))
        if distance(box, point) > radius + _LEADER:
            ends = to_axis.transform([point, nearest_edge(box, point)])
            axis.plot(ends[:, 0], ends[:, 1], color="#9a9a9a", linewidth=0.7, zorder=2.8, transform=axis.transAxes)
