"""What more and more edits do: each property over the number of edits in force, a line for each method, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from editguard.report.palette import COLOURS
from editguard.report.trade_off import svg
from editguard.study.criteria import Group, Value
from editguard.study.plan import UNEDITED, Mode
from editguard.study.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SHOWN: Final = ("reliability", "generalization", "portability", "locality", "other_tasks", "fluency")
_MARKS: Final = ("o", "s", "^", "D", "v", "P", "X")
_STYLES: Final = ("-", "--", ":")


@dataclass(frozen=True)
class Curves:
    """Values over numbers of edits.

    Attributes:
        title: what is shown.
        sizes: numbers of edits in force, rising.
        panels: property -> method -> size -> value; the unedited model is one of the methods.
        across: what the sizes are numbers of.
        ticks: the sizes in words; the numbers themselves by default.
    """

    title: str
    sizes: tuple[int, ...]
    panels: Mapping[str, Mapping[str, Mapping[int, Value]]]
    across: str = "edits in force"
    ticks: tuple[str, ...] = ()


def curves(results: Results, mode: Mode) -> Curves | None:
    """The curves of a mode; None where the study has fewer than two sizes of it."""
    sizes = results.sizes().get(mode, [])
    if len(sizes) < 2:
        return None
    groups = {size: Group(results, mode, size) for size in sizes}
    names = [name for name in (*results.methods, UNEDITED) if any(name in _measured(each) for each in groups.values())]
    panels: dict[str, dict[str, dict[int, Value]]] = {}
    for criterion in SHOWN:
        for name in names:
            for size, group in groups.items():
                value = group.value(criterion, name) if name in _measured(group) else None
                if value is not None:
                    panels.setdefault(criterion, {}).setdefault(name, {})[size] = value
    whole = "batches" if mode == "batch" else "a sequence, all edits so far asked again"
    return Curves(f"{results.name}: {whole}", tuple(sizes), panels)


def curves_svg(shown: Curves) -> bytes:
    """The bytes of an SVG file; the same values give the same bytes."""
    return svg(draw(shown))


def draw(shown: Curves) -> Figure:
    """A panel for each property, with one legend for all."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for panel in shown.panels.values() for name in panel))
    columns = min(3, len(shown.panels)) or 1
    rows = -(-len(shown.panels) // columns) or 1
    height = max(2.9 * rows + 0.7, 0.22 * len(names) + 0.4)  # the legend may be the tallest
    figure = Figure(figsize=(3.6 * columns + 1.9, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    looks = _looks([name for name in names if name != UNEDITED])
    lines: dict[str, Line2D] = {}
    for axis, (criterion, panel) in zip(axes, shown.panels.items(), strict=False):
        for name, values in panel.items():
            lines[name] = _line(axis, values, looks[name])
        axis.set_title(criterion.replace("_", " ") + (" (bits)" if criterion == "fluency" else ""), fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(shown.sizes, shown.ticks or [str(size) for size in shown.sizes], fontsize=9)
        axis.minorticks_off()
        axis.set_xlim(shown.sizes[0] / 1.4, shown.sizes[-1] * 1.4)
        if criterion != "fluency":
            axis.set_ylim(-0.04, 1.04)
        axis.tick_params(labelsize=9)
        axis.grid(True, color="#e6e6e6", linewidth=0.7)
        axis.set_axisbelow(True)
    for axis in axes[len(shown.panels) :]:
        axis.set_visible(False)
    figure.suptitle(shown.title.replace("$", r"\$"), fontsize=11)
    several = any(
        value.orders for panel in shown.panels.values() for values in panel.values() for value in values.values()
    )
    thin = "; thin: each order, thick: their mean" if several else ""
    figure.supxlabel(f"{shown.across} (bars: 95 % intervals over edits{thin})", fontsize=10)
    labels = ["(no edit)" if name == UNEDITED else name.replace("$", r"\$") for name in lines]
    figure.legend(list(lines.values()), labels, loc="outside right upper", fontsize=9, frameon=False)
    return figure


def _measured(group: Group) -> list[str]:
    unedited = [UNEDITED] if group.results.unedited(group.mode, group.size) is not None else []
    return [*group.methods(), *unedited]


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, mark and style of each method's line, no two alike up to 49 methods."""
    found: dict[str, dict[str, Any]] = {}
    for at, name in enumerate(names):
        lap = at // len(COLOURS)
        found[name] = {
            "color": COLOURS[at % len(COLOURS)],
            "marker": _MARKS[(at + lap) % len(_MARKS)],
            "linestyle": _STYLES[lap % len(_STYLES)],
        }
    return {**found, UNEDITED: {"color": "#888888", "marker": "", "linestyle": "-."}}


def _line(axis: Axes, values: Mapping[int, Value], look: Mapping[str, Any]) -> Line2D:
    sizes = sorted(values)
    for size in sizes:
        low, high = values[size].low, values[size].high
        if low is not None and high is not None:
            axis.plot([size, size], [low, high], color=look["color"], linewidth=1, alpha=0.35, zorder=1)
    orders = sorted({order for value in values.values() for order in value.orders})
    for order in orders:
        own = {size: values[size].orders[order] for size in sizes if order in values[size].orders}
        axis.plot(list(own), list(own.values()), linewidth=0.6, alpha=0.6, color=look["color"], zorder=1)
    width = 2.2 if orders else 1.3
    [line] = axis.plot(sizes, [values[size].value for size in sizes], linewidth=width, markersize=4.5, **look)
    return line
