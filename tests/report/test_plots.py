"""Pictures: images that can be read, the same bytes twice, labels for every row and layer, no global state."""

import io
import sys
from typing import Any

import pytest
import torch

from editguard.models.indirect_effects import KINDS, CausalTrace, FactTrace, TraceSettings, suggest_layers
from editguard.report import plots
from editguard.report.plots import average_effects_png, fact_png

image = pytest.importorskip("PIL.Image")


def made_up(layers: int, tokens: tuple[str, ...] = ("<s>", " Vel", "lo", "ria", " costs", " $5")) -> CausalTrace:
    drawn = torch.Generator().manual_seed(0)
    facts = tuple(
        FactTrace(
            text="t",
            answer="$x",
            tokens=tokens,
            subject=(1, 3),
            clean=0.9,
            corrupted=0.2,
            probabilities={
                kind: torch.rand(len(tokens), layers, generator=drawn, dtype=torch.float64) for kind in KINDS
            },
        )
        for _ in range(4)
    )
    return CausalTrace("a/model $ of $ mine", "0" * 16, layers, TraceSettings(), 1.0, 2, facts, (), 1.0)


def texts(figure: Any) -> list[str]:
    found = []
    for axis in figure.axes:
        labels = [*axis.get_xticklabels(), *axis.get_yticklabels(), *axis.texts, axis.title, axis.yaxis.label]
        found += [label.get_text() for label in labels]
        found += [axis.get_title(loc="left"), axis.get_xlabel()]
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were made into bytes."""
    figures: list[Any] = []
    whole = plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: figures.append(figure) or whole(figure))
    return figures


def test_the_average_effects_have_a_panel_for_each_kind_with_roles_layers_and_a_unit(drawn: list[Any]) -> None:
    trace = made_up(8)
    suggestion = suggest_layers(trace)
    png = average_effects_png(trace, suggestion)
    assert image.open(io.BytesIO(png)).size >= (900, 900)
    [figure] = drawn
    maps = [axis for axis in figure.axes if axis.images]
    assert len(maps) == 3
    for kind, axis in zip(KINDS, maps, strict=True):
        table = torch.stack(list(trace.average_effects(kind).values()))
        assert torch.equal(torch.tensor(axis.images[0].get_array().data), table)
        assert [label.get_text() for label in axis.get_yticklabels()] == list(trace.average_effects(kind))
        assert axis.images[0].get_cmap().name == "cividis"
    [frame] = [patch for axis in maps for patch in axis.patches]
    assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == (suggestion.layer, 2)
    shown = texts(figure)
    assert {str(layer) for layer in range(8)} <= set(shown)
    assert any("probability" in text for text in shown)
    assert f"{trace.average_effects('mlp')['last token'][3]:.2f}" in shown
    assert "4 facts, 10 noise draws" in figure.get_suptitle()


def test_a_single_fact_is_shown_by_its_tokens_also_where_these_hold_dollars_and_blanks(drawn: list[Any]) -> None:
    trace = made_up(3, ("<s>", " Vel", "\n", "$", " ", " $5"))
    png = fact_png(trace.facts[0], trace.model, trace.window)
    assert image.open(io.BytesIO(png)).format == "PNG"
    shown = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert shown == ["<s>", "Vel*", r"'\n'*", r"\$*", "' '", r"\$5"]


def test_deep_models_get_fewer_labels_and_no_figures_in_the_cells(drawn: list[Any]) -> None:
    average_effects_png(made_up(80))
    axis = drawn[0].axes[0]
    assert len(axis.get_xticklabels()) <= 30
    assert not axis.texts


def test_the_same_figures_give_the_same_bytes() -> None:
    trace = made_up(4)
    assert average_effects_png(trace) == average_effects_png(trace)


def test_no_global_state_of_the_plotting_library_is_touched() -> None:
    average_effects_png(made_up(2))
    assert "matplotlib.pyplot" not in sys.modules
