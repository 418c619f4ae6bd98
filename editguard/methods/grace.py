"""GRACE: a codebook in front of one matrix's output; an edit adds a key, or widens or narrows the ball around one.

Source: Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi, "Aging with GRACE: Lifelong Model Editing with Discrete
Key-Value Adaptors", NeurIPS 2023, section 3 and algorithm 1. Other than in the released code, answers are equal when
their tokens are; a value that several prompts share is trained on all of them; training ends once the answer is safe;
a ball never grows when it is split from another; and an edit at a key that is there already takes that key over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edited.codebook import Codebook, Replacement
from editguard.edited.routed import newest
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods.batch_training import BatchOutcome, edited_as_batch
from editguard.methods.chosen_matrix import MatrixChoice, chosen_matrix
from editguard.methods.codebook_draft import Draft
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.methods.text_beginnings import beginnings

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

CALIBRATION_TEXTS: Final = 128
CALIBRATION_TOKENS: Final = 16
"""How many texts, and how many of their first tokens, a calibrated radius looks at."""


@dataclass(frozen=True, kw_only=True)
class GraceSettings:
    """Defaults are those of EasyEdit for GPT-2 XL."""

    layer: int = 35
    """The edited block, counted from 0."""
    matrix: MatrixChoice = "up"
    """Which of its MLP's matrices: its input is the query, its output is replaced."""
    steps: int = 200
    """Updates of a value, at most."""
    step_size: float = 1.0
    """Adam's learning rate, in units of the matrix's output."""
    initial_radius: float = 1.0
    """epsilon: the radius of a new entry, a distance between inputs of the matrix."""
    radius_quantile: float | None = None
    """Where it is set, a new entry's radius is half of this quantile of the distances between the inputs at the ends
    of unrelated texts, in place of `initial_radius`."""
    replacement: Replacement = "replace_last"
    """See `Replacement`."""
    value_start: Literal["cold", "warm"] = "cold"
    """What training starts from: a draw from [0, 1) in each coordinate, or what the matrix puts out there now."""
    stop_margin: float | None = 0.5
    """A value is done once each token of the answer is likelier than any other token by so much; None makes all the
    steps."""
    seed: int = 0
    """Of the cold starts."""

    def __post_init__(self) -> None:
        for name in ("layer", "steps"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        for name in ("step_size", "initial_radius"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        if self.stop_margin is not None and not 0 <= self.stop_margin < 1:
            raise InvalidSettings(f"stop_margin lies in [0, 1), not at {self.stop_margin}.")
        if self.radius_quantile is not None and not 0 < self.radius_quantile <= 1:
            raise InvalidSettings(f"radius_quantile lies in (0, 1], not at {self.radius_quantile}.")


_EASY: Final = "EasyEdit, hparams/GRACE"

PUBLISHED: Final = (
    Published("gpt2", 48, 1600, _EASY, {"layer": 35, "matrix": "up", "steps": 200}),
    Published("gptj", 28, 4096, _EASY, {"layer": 25, "matrix": "down", "steps": 200}),
    Published("llama", 32, 4096, _EASY, {"layer": 27, "matrix": "down", "steps": 50}, d_ff=11008),
    Published("llama", 28, 3072, _EASY, {"layer": 27, "matrix": "down", "steps": 50}),
    Published("qwen2", 28, 3584, _EASY, {"layer": 18, "matrix": "down", "steps": 50}),
    Published(
        "t5",
        12,
        512,
        "GRACE repository, T5-small",
        {"layer": 4, "matrix": "down", "steps": 100, "replacement": "replace_prompt"},
    ),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return layer and matrix for a model that no source speaks of."""
    return {
        "layer": (3 * layers // 4, "three quarters of the blocks, as for GPT-2 XL"),
        "matrix": ("down", "as published for most models"),
    }


def derived_with_encoder(encoder: int, decoder: int) -> Mapping[str, tuple[Any, str]]:
    """Return the same for a model whose encoder reads the prompt."""
    del decoder
    return {
        "layer": (2 * encoder // 3, "two thirds of the encoder's blocks, as for T5-small"),
        "matrix": ("down", "as published for most models"),
    }


class Grace:
    """Several requests enter the codebook in their order; the values of all of them are trained together."""

    name: ClassVar[str] = "grace"
    settings_type: ClassVar[type] = GraceSettings
    recipe: ClassVar[Recipe] = Recipe(GraceSettings, PUBLISHED, derived, derived_with_encoder)

    def __init__(self, settings: GraceSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or GraceSettings()
        self.provenance = dict(provenance or {})
        self._radii: WeakKeyDictionary[LanguageModel, tuple[float, str]] = WeakKeyDictionary()
        self._calibrated_on: WeakKeyDictionary[LanguageModel, Mapping[str, tuple[int, ...]]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Need a layer that exists, and texts where the radius is to be calibrated.

        Raises: MethodRefused: the model has no such layer. MissingMaterial: there are not enough texts.
        """
        matrix = self._matrix(model)
        if self.settings.radius_quantile is None:
            return
        texts = beginnings(model, data.texts, CALIBRATION_TEXTS, CALIBRATION_TOKENS)
        if model not in self._radii or (texts and texts != self._calibrated_on[model]):
            self._radii[model] = calibrated_radius(model, matrix, list(texts.values()), self.settings.radius_quantile)
            self._calibrated_on[model] = texts

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with a further version of its codebook.

        Identical requests count once; one that is the model's answer already leaves the codebook as it is.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, not
            prepared, or the training broke down; then nothing has changed.
        """
        model = edited.model
        matrix, (radius, origin) = self._matrix(model), self._radius(model)
        earlier = newest(edited.changes, Codebook, matrix)
        if earlier is not None and earlier.replacement != self.settings.replacement:
            raise MethodRefused(
                f"grace should go on with {self.settings.replacement!r} from a codebook that was made with "
                f"{earlier.replacement!r}: one codebook has one rule; keep to it, or edit another layer."
            )

        def edit(true: Mapping[EditRequest, bool]) -> BatchOutcome:
            wanted = [request for request, answered in true.items() if not answered]
            draft = Draft(earlier, radius)
            if wanted:
                draft.enter(model, matrix, wanted, self.settings)
                draft.train(model, matrix, self.settings)
            codebook = draft.codebook(matrix, self.settings.replacement) if wanted else earlier
            figures = {
                "initial_radius": {"value": radius, "from": origin},
                "codebook_size": codebook.size if codebook else 0,
                "codebook_bytes": codebook.bytes() if codebook else 0,
                "lookup": _timed_lookup(codebook, draft.queries),
            }
            changes = (codebook,) if wanted and codebook is not None else ()
            return BatchOutcome(changes, figures, dict(zip(wanted, draft.records, strict=True)))

        return edited_as_batch(self.name, edited, requests, self.settings, self.provenance, edit)

    def _matrix(self, model: LanguageModel) -> Matrix:
        matrix = chosen_matrix(model, self.name, self.settings.layer, self.settings.matrix)
        encoder = model.anatomy.encoder_layers
        if encoder and self.settings.layer >= encoder:
            raise MethodRefused(
                f"grace looks at the prompt, which the encoder of {model.name} reads: set `layer` to one of its "
                f"layers 0 to {encoder - 1}, not to {self.settings.layer}."
            )
        return matrix

    def _radius(self, model: LanguageModel) -> tuple[float, str]:
        if self.settings.radius_quantile is None:
            return self.settings.initial_radius, self.provenance.get("initial_radius", "default")
        if model not in self._radii:
            raise MethodRefused(
                "grace was not prepared for this model: call prepare(model, Preparation(texts=...)) first."
            )
        return self._radii[model]


def calibrated_radius(
    model: LanguageModel, matrix: Matrix, prompts: Sequence[Sequence[int]], quantile: float
) -> tuple[float, str]:
    """Return half a quantile of the distances between the matrix's inputs at the ends of texts, and the rule in words.

    So the balls of all but this share of pairs of unrelated prompts are apart.

    Raises: MissingMaterial: there are not two texts.
    """
    if len(prompts) < 2:
        raise MissingMaterial(
            "grace needs running text to calibrate its radius (--editguard-corpus FILE, one document per line; "
            "Preparation(texts=...) from Python); or leave radius_quantile unset."
        )
    with EditedModel.original(model):
        [queries] = at_prompt_ends(model, prompts, [(matrix.module, "input")])
    distances = torch.nn.functional.pdist(queries.double())
    radius = float(distances.quantile(quantile)) / 2
    if not radius > 0:
        raise MethodRefused(f"grace cannot calibrate its radius: the texts' {quantile} quantile of distances is 0.")
    return radius, f"calibrated: half the {quantile} quantile of distances between {len(prompts)} texts"


def _timed_lookup(codebook: Codebook | None, queries: Tensor | None) -> dict[str, Any]:
    """What one look-up costs with all entries there."""
    if codebook is None or queries is None or not codebook.size:
        return {"entries": codebook.size if codebook else 0}
    started = time.perf_counter()
    codebook.keys.nearest(codebook.size, queries[:1])
    return {
        "entries": codebook.size,
        "multiplications": codebook.size * codebook.keys.width,
        "seconds": time.perf_counter() - started,
    }
