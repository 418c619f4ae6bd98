"""KN: find the inner MLP units that carry a fact, and overwrite what they write.

Source: Dai, Dong, Hao, Sui, Chang, Wei, "Knowledge Neurons in Pretrained Transformers", ACL 2022, sections 3 and 5.2,
brought from a masked language model to a causal one:

- a neuron is an input of a down projection, behind the activation (and behind the gate, where there is one), so that
  column i of the matrix is what neuron i writes; the port of EleutherAI's `knowledge-neurons`, which editing benchmarks
  ran, reads the up projection's output instead, which no column belongs to where MLPs are gated;
- the activations are read, and scaled, at the one position that predicts the answer, the prompt's last;
- as in the authors' code the whole vector of a layer is scaled at once, where the paper's formula scales one neuron;
- an answer of several tokens: each token is attributed at its own position, behind the answer's own earlier tokens,
  and the scores are averaged (the port goes on with the model's most likely tokens instead);
- behind an encoder the neurons are the decoder's, as in the port: there alone is a position that predicts the answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused, PromptTooLong
from editguard.methods.already_true import warn_already_true
from editguard.methods.context_templates import ROME_LENGTHS, prefix_contexts
from editguard.methods.keys import SubjectRow, vectors
from editguard.methods.one_by_one import one_by_one
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.models.decoding import copied_past
from editguard.models.hooks import replaced
from editguard.models.placement import in_memory, present_value
from editguard.models.streams import ForcedRow
from editguard.models.weights import Delta, LowRank

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Grid = Literal["left", "right", "inclusive"]
"""Where the path from no activation to the present one is sampled: k/m for k = 0 .. m-1 (the authors' code), for
k = 1 .. m (their paper), or m points with both ends (the port)."""
Embedding = Literal["output", "input"]
"""What stands for a token in the residual stream: its row of the head, or of the input embedding (the sources)."""
Pooling = Literal["mean", "port"]
"""What stands for an answer of several tokens: their mean; or, for the new one their sum, for the old one its first."""

FEWEST, MOST, STEP, ROUNDS = 2, 5, 0.05, 6
"""The number of neurons to aim at, and how the share of prompts moves towards it (the authors' code)."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronSettings:
    """Defaults are the authors'; the rows of `PUBLISHED` are the port's."""

    steps: int = 20
    """m: points of the path that the gradient is averaged over."""
    grid: Grid = "left"
    """See `Grid`."""
    threshold: float = 0.2
    """A prompt's neurons: those whose score is at least this fraction of the highest one of all layers."""
    refines: bool = True
    """Whether the neurons are taken from the fact behind several prefix contexts, or from the bare prompt alone."""
    share: float = 0.7
    """p: the fraction of prompts that a neuron must occur in."""
    adjusts_share: bool = True
    """Whether p gives way when fewer than two neurons, or more than five, are left; see `adjusted_share`."""
    context_lengths: tuple[tuple[int, int], ...] = ROME_LENGTHS
    """(length in tokens, number) of the prefix contexts; the authors have paraphrases in their place."""
    seed: int = 0
    """Of the prefix contexts."""
    old_weight: float = 1.0
    """lambda_1: how much of the present answer's embedding is taken from each column."""
    new_weight: float = 8.0
    """lambda_2: how much of the new answer's embedding is added."""
    rescales: bool = True
    """Whether embeddings are first brought to the column's length (the authors' code; the paper is silent)."""
    embedding: Embedding = "output"
    """See `Embedding`; the two are one matrix where they are tied, as in both sources' first models."""
    pooling: Pooling = "mean"
    """See `Pooling`."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InvalidSettings(
                f"steps is at least 2, not {self.steps}: the gradient at one point is no integral (several released "
                "files for the port have steps = 1, which reads it where nothing is active)."
            )
        for name in ("threshold", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidSettings(f"{name} lies in [0, 1], not at {getattr(self, name)}.")
        for name in ("old_weight", "new_weight"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")


_PORT = "EasyEdit, hparams/KN (the EleutherAI port)"
_WAY = {
    "grid": "inclusive",
    "share": 0.4,
    "adjusts_share": False,
    "refines": False,
    "old_weight": 2.0,
    "new_weight": 1.0,
    "rescales": False,
    "embedding": "input",
    "pooling": "port",
}
_ONE_STEP = f"{_PORT}; its steps = 1 is no integral, so steps is the authors'"

PUBLISHED = (
    Published("gpt2", 48, 1600, _PORT, {**_WAY, "steps": 20, "threshold": 0.2}),
    Published("gptj", 28, 4096, _PORT, {**_WAY, "steps": 20, "threshold": 0.1}),
    Published("llama", 32, 4096, _ONE_STEP, {**_WAY, "threshold": 0.2}),
    Published("mistral", 32, 4096, _ONE_STEP, {**_WAY, "threshold": 0.2}),
    Published("qwen2", 28, 3584, _ONE_STEP, {**_WAY, "threshold": 0.2}),
    Published("t5", 48, 1024, _PORT, {**_WAY, "steps": 20, "threshold": 0.2}, d_ff=16384),
)


def derived_with_encoder(encoder_layers: int, decoder_layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return that the bare prompt alone is attributed: a decoder behind an encoder writes no prefix contexts."""
    del encoder_layers, decoder_layers
    return {"refines": (False, "a decoder behind an encoder does not continue texts, so there are no prefix contexts")}


# ---- the paper's formulas


def path(steps: int, grid: Grid) -> Tensor:
    """The fractions alpha of the activations, (steps,), float64."""
    if grid == "inclusive":
        return torch.linspace(0, 1, steps, dtype=torch.float64)
    return (torch.arange(steps, dtype=torch.float64) + (grid == "right")) / steps


def integrated_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
    """Attr_i = w_i / m sum_k dP(alpha_k w) / dw_i (equations 2 and 3).

    activations w: (..., d_ff); gradients along the path: (..., m, d_ff); returns (..., d_ff), unit: probability.
    """
    return activations * gradients.mean(-2)


def coarse_neurons(scores: Tensor, threshold: float) -> Tensor:
    """Mask (layers, d_ff) of the neurons of one prompt: positive, and at least `threshold` of the highest score."""
    return (scores > 0) & (scores >= threshold * scores.max())


def refined_neurons(found: Tensor, share: float) -> Tensor:
    """Mask (layers, d_ff) of the neurons that at least a share p of the prompts have in common; p = 0 keeps all.

    found: mask (prompts, layers, d_ff) of each prompt's own neurons.
    """
    counts = found.sum(0)
    return (counts > 0) & (counts >= share * len(found) - 1e-9)  # 0.7 of 10 is a little more than 7 in floating point


def adjusted_share(found: Tensor, share: float) -> float:
    """The share that leaves two to five neurons, looked for in six steps of 0.05 at most (the authors' code).

    They adjust one share for a whole data set, by the facts' average; here each fact has its own. Where not even the
    last step leaves a neuron, the share is that of the neurons which the most prompts have in common.
    """
    for _ in range(ROUNDS):
        left = int(refined_neurons(found, share).sum())
        if FEWEST <= left <= MOST:
            return share
        share = min(max(share + (STEP if left > MOST else -STEP), 0.0), 1.0)
    if refined_neurons(found, share).any():
        return share
    return float(found.sum(0).max()) / len(found)


def moved_columns(
    columns: Tensor, old: Tensor, new: Tensor, *, old_weight: float, new_weight: float, rescales: bool
) -> tuple[Tensor, Tensor]:
    """What the columns change by, -l1 e(old) + l2 e(new) for each (section 5.2), as a direction and lengths.

    Args:
        columns: (d_model, neurons), of the down projection.
        old, new: e(old) and e(new), (d_model,).
        rescales: l1 = old_weight ||column|| / ||e(old)||, and likewise l2; otherwise the weights themselves.

    Returns: v (d_model,) and c (neurons,); column i changes by c_i v.
    """
    if not rescales:
        return new_weight * new - old_weight * old, torch.ones_like(columns[0])
    unit_old, unit_new = (torch.nn.functional.normalize(each, dim=0) for each in (old, new))
    return new_weight * unit_new - old_weight * unit_old, columns.norm(dim=0)


# ---- attribution


@dataclass(frozen=True)
class Prediction:
    """One token that is to be predicted, behind the tokens before it and, with an encoder, the prompt in that."""

    before: tuple[int, ...]
    token: int
    source: tuple[int, ...] = ()


def predictions(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> list[Prediction]:
    """The answer's tokens, each behind the prompt and the answer's earlier tokens."""
    rows = [model.forced_row(prompt, answer[:place]) for place in range(len(answer))]
    return [Prediction(row.stream, token, row.source) for row, token in zip(rows, answer, strict=True)]


def neuron_layers(model: LanguageModel) -> range:
    """The layers whose neurons are attributed: the decoder's; "layers" of shapes below are these, in their order."""
    return range(model.anatomy.encoder_layers, model.anatomy.layers)


def activations(model: LanguageModel, wanted: Sequence[Prediction]) -> Tensor:
    """What enters every down projection where the tokens are predicted: (predictions, layers, d_ff).

    One pass, whatever the number of layers; at least float32.
    """
    rows = [SubjectRow(each.before, len(each.before) - 1, each.source) for each in wanted]
    downs = [model.anatomy.down_projection(layer).module for layer in neuron_layers(model)]
    return torch.stack([each.to(model.device) for each in vectors(model, rows, [(down, "input") for down in downs])], 1)


def attributions(model: LanguageModel, wanted: Sequence[Prediction], *, steps: int, grid: Grid = "left") -> Tensor:
    """Attribution scores of every neuron to each token's probability: (predictions, layers, d_ff), at least float32.

    What stands before the position of prediction never changes, so its attention keys and values are computed once for
    all points of all layers; each point is a row of one token. Rows of neighbouring layers share a pass, in which the
    gradient goes down no further than to the lowest of them. When memory is short, fewer layers share one.

    Raises: PromptTooLong: a token stands beyond the model's context.
    """
    for each in wanted:
        longest = max(each.before, each.source, key=len)
        if model.context_length is not None and len(longest) > model.context_length:
            raise PromptTooLong(model.decode(longest), len(longest), model.context_length)
    present = activations(model, wanted)
    alphas = path(steps, grid).to(present)
    integrals = [(number, place) for number in range(len(wanted)) for place in range(present.shape[1])]

    def run(batch: list[int]) -> list[Tensor]:
        [number] = {integrals[index][0] for index in batch}
        places = [integrals[index][1] for index in batch]
        points = alphas[:, None] * present[number, places][:, None]  # (layers, steps, d_ff)
        layers = [neuron_layers(model)[place] for place in places]
        gradients = _gradients(model, wanted[number], layers, points)
        return list(integrated_gradients(present[number, places], gradients))

    keys = [(number,) for number, _ in integrals]
    scores = model.in_batches([1] * len(integrals), run, keys=keys)
    return torch.stack(scores).reshape(present.shape)


def _gradients(model: LanguageModel, wanted: Prediction, layers: Sequence[int], points: Tensor) -> Tensor:
    """Gradients of P(token) with respect to the activations of one layer per group of rows: (layers, steps, d_ff).

    points: the activations to put in their place, of the same shape.
    """
    steps = points.shape[1]
    rows = len(layers) * steps
    past, source = copied_past(model, ForcedRow(wanted.source, wanted.before, len(wanted.before) - 1), rows)
    with torch.enable_grad(), ExitStack() as hooks:
        points = points.detach().requires_grad_()
        for group, layer in enumerate(layers):
            place = slice(group * steps, (group + 1) * steps)

            def scaled(entering: Tensor, place: slice = place, group: int = group) -> Tensor:
                changed = entering.reshape(rows, -1).clone()
                changed[place] = points[group].to(changed)
                return changed.reshape(entering.shape)

            hooks.enter_context(replaced(model.anatomy.down_projection(layer).module, scaled, at="input"))
        states = model.forward(
            torch.full((rows, 1), wanted.before[-1]),
            torch.ones(rows, len(wanted.before), dtype=torch.long),
            past=past,
            source=source,
        ).last_hidden_state
        logits = model.anatomy.unembed(states[:, -1])
        probability = _widened(logits).softmax(-1)[:, wanted.token]
        [gradients] = torch.autograd.grad(probability.sum(), [points])
    return gradients


# ---- the method


@dataclass(frozen=True)
class Chosen:
    """What an edit goes by.

    Attributes:
        neurons: mask (layers, d_ff), see `neuron_layers`.
        share: p that left them.
        highest: the highest score of the bare prompt, unit: probability.
    """

    neurons: Tensor
    share: float
    highest: float


class KnowledgeNeurons:
    """One request at a time; columns of the down projections of any layers change, and nothing else."""

    name: ClassVar[str] = "kn"
    settings_type: ClassVar[type] = KnowledgeNeuronSettings
    recipe: ClassVar[Recipe] = Recipe(KnowledgeNeuronSettings, PUBLISHED, derived_with_encoder=derived_with_encoder)

    def __init__(
        self, settings: KnowledgeNeuronSettings | None = None, *, provenance: Mapping[str, str] | None = None
    ) -> None:
        self.settings = settings or KnowledgeNeuronSettings()
        self.provenance = dict(provenance or {})

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts on the unedited model, where neurons are refined.

        Raises: MethodRefused: they should be refined, and the model has an encoder; or a layer is offloaded.
        """
        del data
        self._check(model)
        self._contexts(model)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with one update of some columns per request on top.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no neuron speaks for
            the present answer, or the embeddings do not fit the stream.
        """
        return one_by_one(edited, requests, self._edit)

    def _edit(self, edited: EditedModel, request: EditRequest) -> AppliedEdit:
        """Compute one request's update on the model as the earlier edits have left it.

        The neurons are those of the request's previous answer where it names one, as in the sources, which attribute
        the fact as the data set has it; otherwise those of the model's present answer. What the columns lose is the
        present answer in both cases.
        """
        started = time.perf_counter()
        model, settings = edited.model, self.settings
        self._check(model)
        contexts = self._contexts(model)
        edited.activate()

        prompt, target = model.encode_answer(request.text, request.target)
        new = model.unclosed(target)
        old = present_answer(model, prompt, len(new))
        record: dict[str, Any] = {
            "settings": asdict(settings),
            "provenance": self.provenance,
            "contexts": len(contexts),
            "present_answer": model.decode(old),
            "already_true": old == new,
        }
        changes: tuple[WeightDelta, ...] = ()
        if old == new:
            warn_already_true(self.name, [request.statement])
        else:
            chosen = self._neurons(model, request, contexts, old)
            deltas, norms = self._deltas(model, chosen.neurons, old, new)
            changes = (WeightDelta(deltas),)
            record |= {
                "neurons": {
                    str(layer): of_layer.nonzero()[:, 0].tolist()
                    for layer, of_layer in zip(neuron_layers(model), chosen.neurons, strict=True)
                    if of_layer.any()
                },
                "share": chosen.share,
                "highest_score": chosen.highest,
                "relative_norm": norms,
            }
        return AppliedEdit(self.name, (request,), changes, record, time.perf_counter() - started)

    def _neurons(
        self, model: LanguageModel, request: EditRequest, contexts: Sequence[str], old: Sequence[int]
    ) -> Chosen:
        """Attribute the fact behind every context, and take the neurons that enough of them share.

        Raises: MethodRefused: there are none.
        """
        settings = self.settings
        parts: list[list[Prediction]] = []
        for context in contexts:
            prompt, known = model.encode_answer(context + request.text, request.previous or request.target)
            parts.append(predictions(model, prompt, model.unclosed(known) if request.previous else old))
        scores = attributions(
            model, [each for part in parts for each in part], steps=settings.steps, grid=settings.grid
        )
        by_prompt = torch.stack([part.mean(0) for part in torch.split(scores, [len(part) for part in parts])])
        found = torch.stack([coarse_neurons(each, settings.threshold) for each in by_prompt])
        share = adjusted_share(found, settings.share) if settings.adjusts_share else settings.share
        neurons = refined_neurons(found, share)
        if not neurons.any():
            raise MethodRefused(
                f"kn finds no neuron for {request.text!r} that a share of {share:.2f} of its {len(contexts)} prompts "
                "have in common: lower `share`, or set adjusts_share = true."
            )
        return Chosen(neurons, share, float(by_prompt[0].max()))

    def _deltas(
        self, model: LanguageModel, neurons: Tensor, old: Sequence[int], new: Sequence[int]
    ) -> tuple[dict[str, Delta], dict[str, float]]:
        """The updates by parameter name, and each layer's ||update|| / ||W||.

        All columns of a layer move along one direction, so an update has rank one whatever the number of neurons; its
        right factor is zero but for them.
        """
        settings = self.settings
        old_rows, new_rows = (embeddings(model, ids, settings.embedding) for ids in (old, new))
        if settings.pooling == "mean":
            old_row, new_row = old_rows.mean(0), new_rows.mean(0)
        else:
            old_row, new_row = old_rows[0], new_rows.sum(0)
        deltas: dict[str, Delta] = {}
        norms: dict[str, float] = {}
        for layer, of_layer in zip(neuron_layers(model), neurons, strict=True):
            if not of_layer.any():
                continue
            matrix = model.anatomy.down_projection(layer)
            weight = _widened(matrix.weight().detach())
            chosen = of_layer.nonzero()[:, 0].to(weight.device)
            direction, lengths = moved_columns(
                weight[:, chosen],
                old_row.to(weight),
                new_row.to(weight),
                old_weight=settings.old_weight,
                new_weight=settings.new_weight,
                rescales=settings.rescales,
            )
            right = torch.zeros_like(weight[0]).index_copy(0, chosen, lengths)
            deltas[matrix.name] = LowRank(direction[:, None], right[:, None])
            norms[str(layer)] = float(direction.norm() * right.norm() / weight.norm())
        return deltas, norms

    def _check(self, model: LanguageModel) -> None:
        """Any of the layers may turn out to hold the neurons that are changed."""
        in_memory(self.name, [model.anatomy.down_projection(layer) for layer in neuron_layers(model)])

    def _contexts(self, model: LanguageModel) -> tuple[str, ...]:
        if not self.settings.refines:
            return ("",)
        if model.anatomy.encoder_layers:
            raise MethodRefused(
                f"kn cannot refine neurons on {model.name}: the decoder of an encoder-decoder model does not continue "
                "texts, so there are no prefix contexts. Set refines = false."
            )
        return prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)


@torch.no_grad()
def present_answer(model: LanguageModel, prompt: Sequence[int], length: int) -> list[int]:
    """The `length` most likely tokens behind a prompt, one after the other; no token ends the answer early."""
    forced = model.forced_row(prompt, ())
    source = model.encoded([prompt]) if forced.source else None
    ids = list(forced.stream)
    for _ in range(length):
        row = torch.tensor([ids])
        state = model.forward(row, torch.ones_like(row), source=source).last_hidden_state[:, -1]
        ids.append(int(model.anatomy.unembed(state)[0].argmax()))
    return ids[len(forced.stream) :]


def embeddings(model: LanguageModel, ids: Sequence[int], kind: Embedding) -> Tensor:
    """What stands for tokens in the residual stream: (ids, d_model), at least float32.

    Rows of the head or of the input embedding. A head that is narrower than the stream reads it through a projection;
    its rows are then the directions in which the tokens' logits grow from the middle of the stream, which takes them
    back through that projection.

    Raises: MethodRefused: the input embedding is narrower than the stream, so that its rows are no directions in it.
    """
    anatomy = model.anatomy
    table = present_value(anatomy.head if kind == "output" else anatomy.embedding, "weight")
    if table.shape[1] == anatomy.d_model:
        return _widened(table[torch.tensor(list(ids), device=table.device)].detach())
    if kind == "input":
        raise MethodRefused(
            f"kn cannot write tokens of {model.name} into its residual stream: the input embedding is "
            f'{table.shape[1]} wide and the stream {anatomy.d_model}. Set embedding = "output".'
        )
    with torch.enable_grad():
        middle = torch.zeros(len(ids), anatomy.d_model, dtype=table.dtype, device=table.device, requires_grad=True)
        logits = anatomy.logits(middle)[range(len(ids)), list(ids)]
        return _widened(torch.autograd.grad(logits.sum(), [middle])[0])


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
