"""Pictures of measured figures, as the bytes of PNG files; no display, and no state shared between pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from editguard.models.indirect_effects import ROLES, CausalTrace, FactTrace, Kind, Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = "cividis"
"""Perceptually uniform, and seen alike with and without colour blindness."""
RESTORED: Final[Mapping[Kind, str]] = {
    "block": "block output (residual stream)",
    "mlp": "MLP output",
    "attention": "attention output",
}
DPI: Final = 130
"""Dots per inch."""
WRITTEN_UP_TO: Final = 16
"""Layers up to which every cell has its figure written into it."""


def average_effects_png(trace: CausalTrace, suggestion: Suggestion | None = None) -> bytes:
    """Heat maps of the average indirect effect by token role and layer, one for each kind of restored state.

    suggestion: its single layer is framed in the map that it goes by.
    """
    tables = {kind: trace.average_effects(kind) for kind in trace.settings.kinds}
    roles = [role for role in ROLES if any(role in table for table in tables.values())]
    grids = {kind: torch.stack([table[role] for role in roles]) for kind, table in tables.items()}
    frames = {}
    if suggestion is not None and "last subject token" in roles:
        frames[suggestion.kind] = (roles.index("last subject token"), suggestion.layer)
    counts = {role: sum(role in fact.roles for fact in trace.facts) for role in roles}
    figure = _heat_maps(
        {kind: (_panel_title(kind, trace.window), grid) for kind, grid in grids.items()},
        rows=[role if counts[role] == len(trace.facts) else f"{role}\n({counts[role]} facts)" for role in roles],
        unit="average indirect effect\n(probability)",
        frames=frames,
    )
    facts = f"{len(trace.facts)} fact{'s' * (len(trace.facts) != 1)}"
    figure.suptitle(
        f"Causal tracing of {_shown(trace.model)}: the answer's probability that one restored state brings back\n"
        f"{facts}, {trace.settings.draws} noise draws each; noise on the subject takes {trace.total_effect:.2f} away"
        + ("; framed: the suggested layer" if frames else ""),
        fontsize=10.5,
    )
    return _png(figure)


def fact_png(fact: FactTrace, model: str, window: int) -> bytes:
    """Heat maps of one fact: probability of the answer by restored token and layer."""
    first, last = fact.subject
    rows = [_shown(token) + ("*" if first <= at <= last else "") for at, token in enumerate(fact.tokens)]
    figure = _heat_maps(
        {kind: (_panel_title(kind, window), table) for kind, table in fact.probabilities.items()},
        rows=rows,
        unit="probability",
        frames={},
    )
    figure.suptitle(
        f"Causal tracing of {_shown(model)}: probability of the answer {_shown(fact.answer)!r} after restoring one "
        f"state\nclean run {fact.clean:.2f}, corrupted run {fact.corrupted:.2f} (* subject, with noise)",
        fontsize=11,
    )
    return _png(figure)


def _shown(text: str) -> str:
    """Text without blanks at its ends, on one line, and with dollars that do not begin a formula."""
    plain = text.strip()
    return (plain if plain.isprintable() and plain else repr(text)).replace("$", r"\$")


def _panel_title(kind: Kind, window: int) -> str:
    around = "" if kind == "block" or window == 1 else f", window of {window} layers"
    return f"{RESTORED[kind]}{around}"


def _heat_maps(
    panels: Mapping[Kind, tuple[str, Tensor]],
    *,
    rows: Sequence[str],
    unit: str,
    frames: Mapping[Kind, tuple[int, int]],
) -> Figure:
    """One heat map (rows, layers) for each panel, one above the other, each with its own scale of colours.

    One common scale would be that of the last token, where a late state holds the answer as such.
    """
    from matplotlib.figure import Figure

    grids = [grid for _, grid in panels.values()]
    layers = grids[0].shape[1]
    width = min(20.0, max(8.5, 3.2 + 0.62 * layers))
    height = 1.5 + len(panels) * (0.95 + 0.36 * len(rows))
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for (kind, (title, grid)), axis in zip(panels.items(), axes, strict=True):
        lowest = min(0.0, float(grid.min()))
        highest = max(lowest + 1e-9, float(grid.max()))
        image = axis.imshow(grid.numpy(), cmap=COLOURS, vmin=lowest, vmax=highest, aspect="auto")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        step = max(1, layers // 24)
        axis.set_xticks(range(0, layers, step), [str(layer) for layer in range(0, layers, step)], fontsize=9)
        axis.tick_params(length=0, labelbottom=True)
        if layers <= WRITTEN_UP_TO:
            _write_values(axis, grid, (lowest + highest) / 2)
        if kind in frames:
            _frame(axis, *frames[kind])
        bar = figure.colorbar(image, ax=axis, pad=0.02, fraction=0.05)
        bar.set_label(unit, fontsize=9)
    axes[-1].set_xlabel("layer, counted from 0", fontsize=10)
    return figure


def _write_values(axis: Axes, grid: Tensor, middle: float) -> None:
    """Every cell's figure, light on dark and dark on light."""
    for row, values in enumerate(grid.tolist()):
        for layer, value in enumerate(values):
            shown = f"{value:.2f}".replace("-0.00", "0.00")
            axis.text(
                layer, row, shown, ha="center", va="center", fontsize=8, color="black" if value > middle else "white"
            )


def _frame(axis: Axes, row: int, layer: int) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((layer - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d62728", linewidth=2.2))


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()
