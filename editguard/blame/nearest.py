"""Where lost probes meet the edits: similarity of their keys, what enters the down projections that were changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import EditguardError
from editguard.methods.keys import keys_and_outputs, subject_row
from editguard.models.hooks import capture, stop_after

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

PROMPTS: Final = 20
"""Most probes that are looked at."""
PAIRS: Final = 5


@dataclass(frozen=True, kw_only=True)
class NearPair:
    """An edit, by its number, and a token of a lost probe's prompt whose key is similar to the edit's.

    Attributes:
        similarity: cosine of the two keys of the unedited model.
        layer: of the down projection.
        own: whether the prompt is of the edit itself.
    """

    edit: int
    prompt: str
    token: str
    layer: int
    similarity: float
    own: bool = False

    def __str__(self) -> str:
        return f"{self.similarity:.2f}  edit {self.edit} and {self.prompt!r} at {self.token!r}, layer {self.layer}"


def nearest_pairs(
    model: LanguageModel,
    edited: EditedModel,
    requests: Mapping[int, EditRequest],
    prompts: Sequence[str],
    own: Collection[tuple[int, str]] = (),
) -> tuple[NearPair, ...]:
    """Return the pairs of an edit and a prompt with the most similar keys, of each pair the best token and layer.

    Tokens without a text, such as one that begins every prompt, are left out.

    A down projection that is changed at an edit's key k by some v moves the output at a token with key k' by about
    v cos(k, k') |k'| / |k|. The keys are those of the unedited model; it is in force afterwards.

    Args:
        model: the model under edit.
        edited: with the edits, which tells what they change.
        requests: edit's number -> request.
        prompts: lost probes; the first of them are looked at.
        own: pairs of a number and a prompt that speak of the same edit.

    Returns: at most five, the most similar first; none for a model with an encoder, or an edit of other parts.
    """
    matrices = list(_changed(model, edited))
    EditedModel.original(model).activate()
    if not matrices or model.anatomy.encoder_layers:
        return ()
    rows = {}
    for number, request in requests.items():
        with suppress(EditguardError):  # a subject without tokens of its own
            rows[number] = subject_row(model, request)
    if not rows:
        return ()
    best: dict[tuple[int, str], NearPair] = {}
    for layer, matrix in matrices:
        keys, _ = keys_and_outputs(model, matrix, list(rows.values()))
        for prompt in list(dict.fromkeys(prompts))[:PROMPTS]:
            ids, found = _keys_of_tokens(model, matrix, prompt)
            texts = [model.decode([token]) for token in ids]
            visible = torch.tensor([bool(text.strip()) for text in texts])
            if not visible.any():
                continue
            similarity, place = cosines(keys, found).masked_fill(~visible.to(keys.device), -2.0).max(dim=1)
            for number, value, token in zip(rows, similarity.tolist(), place.tolist(), strict=True):
                known = best.get((number, prompt))
                if known is None or value > known.similarity:
                    best[number, prompt] = NearPair(
                        edit=number,
                        prompt=prompt,
                        token=texts[token],
                        layer=layer,
                        similarity=round(value, 4),
                        own=(number, prompt) in own,
                    )
    pairs = sorted(best.values(), key=lambda pair: (pair.own, -pair.similarity))
    return tuple(pairs[:PAIRS])


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosines (n, m) between the rows of two matrices, (n, width) and (m, width)."""
    one, other = (torch.nn.functional.normalize(part.float(), dim=-1) for part in (left, right))
    return one @ other.to(one.device).T


def _changed(model: LanguageModel, edited: EditedModel) -> Iterator[tuple[int, Matrix]]:
    """The down projections that the edits change, by layer."""
    deltas = [change.deltas for change in edited.changes if isinstance(change, WeightDelta)]
    names = {name for each in deltas for name in each}
    for layer in range(model.anatomy.layers):
        matrix = model.anatomy.down_projection(layer)
        if matrix.name in names:
            yield layer, matrix


def _keys_of_tokens(model: LanguageModel, matrix: Matrix, prompt: str) -> tuple[list[int], Tensor]:
    """A prompt's tokens, and what enters the matrix at each of them: (tokens, d_in)."""
    ids = model.encode(prompt)
    row = torch.tensor([ids])
    with torch.no_grad(), capture(matrix.module, "input") as captured, stop_after(matrix.module):
        model.forward(row, torch.ones_like(row))
    return ids, captured.value.reshape(len(ids), -1)
