"""The matrix that a method's settings name: a layer, and which of its MLP's matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from editguard.errors import MethodRefused

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

MatrixChoice = Literal["down", "up"]
"""The MLP's output matrix, or the one that makes its inner activations (beside the gate, where there is one)."""


def chosen_matrix(model: LanguageModel, method: str, layer: int, which: MatrixChoice) -> Matrix:
    """Return the matrix.

    Raises: MethodRefused: the model has no such layer.
    """
    layers = model.anatomy.layers
    if layer >= layers:
        raise MethodRefused(
            f"{method} should edit layer {layer} of {model.name}, which has layers 0 to {layers - 1}: set `layer` in "
            "its settings."
        )
    return model.anatomy.down_projection(layer) if which == "down" else model.anatomy.up_projections(layer)[0]
