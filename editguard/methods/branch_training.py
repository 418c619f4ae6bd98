"""Answers under supervision, as a function of neurons beside MLPs: what T-Patcher and CaliNet descend the gradient of.

Beside the last block's MLP, each step runs the final norm and the head at the supervised tokens alone (`MlpTail`);
beside any other, the blocks from the lowest one on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from editguard.edited.added_neurons import Neurons, in_force, with_neurons
from editguard.errors import MethodRefused, PromptTooLong
from editguard.models.answer_passes import AnswerPasses, Pair, answer_passes
from editguard.models.hooks import capture
from editguard.models.mlp_tail import MlpTail

if TYPE_CHECKING:
    from editguard.edits import EditRequest
    from editguard.models.language_model import LanguageModel

Branches = Mapping[int, Neurons]
"""Neurons by the block that they stand in."""

TOKENS_AT_ONCE: Final = 512
"""Supervised tokens whose logits are held together: they are as wide as the vocabulary."""


@dataclass(frozen=True, eq=False)
class Supervised:
    """Some tokens of answers, each predicted from the ones before it.

    Attributes:
        labels: their ids, (tokens,).
        inputs: block -> what its MLP reads where they are predicted, (tokens, d_model).
        logits: what predicts them, (tokens, vocabulary), at least float32, under the edits in force and the neurons.
    """

    labels: Tensor
    inputs: Mapping[int, Tensor]
    logits: Callable[[Branches], Tensor]


def supervised(model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int]) -> list[Supervised]:
    """Return the tokens of the pairs' answers, in their order and in parts, for neurons in the given blocks.

    The blocks below run once, now; the neurons act on all tokens that can see their effect.
    """
    groups = [pairs[at : at + model.batch_size] for at in range(0, len(pairs), model.batch_size)]
    if tuple(layers) != (model.anatomy.layers - 1,) or not MlpTail.available(model):
        return [replayed(model, answer_passes(model, group, min(layers)), group, layers) for group in groups]
    parts = []
    for group in groups:
        labels = torch.split(answer_labels(group), TOKENS_AT_ONCE)
        tails = MlpTail.of(model, answer_passes(model, group, layers[0])).chunks(TOKENS_AT_ONCE)
        parts += [_cached(tail, of_tail, layers[0]) for tail, of_tail in zip(tails, labels, strict=True)]
    return parts


def replayed(model: LanguageModel, passes: AnswerPasses, pairs: Sequence[Pair], layers: Sequence[int]) -> Supervised:
    """Return the tokens of the pairs' answers, with every block from the lowest one on run at each call."""
    modules = {layer: model.anatomy.up_projections(layer)[0].module for layer in layers}
    with torch.no_grad(), ExitStack() as hooks:
        captured = {layer: hooks.enter_context(capture(module, "input")) for layer, module in modules.items()}
        passes.logits()

    def logits(branches: Branches) -> Tensor:
        with ExitStack() as hooks:
            for layer, neurons in branches.items():
                hooks.enter_context(in_force(model, layer, neurons))
            return passes.logits()

    inputs = {layer: passes.at_reads(each.value) for layer, each in captured.items()}
    return Supervised(answer_labels(pairs), inputs, logits)


def answer_labels(pairs: Sequence[Pair]) -> Tensor:
    """Return the ids of all answers, one after the other, (tokens,); in main memory."""
    return torch.tensor([token for _, answer in pairs for token in answer])


def request_pairs(model: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[str] = ("",)) -> list[Pair]:
    """Return each request's prompt behind each of the contexts, with the target, in tokens.

    With an encoder, an answer ends with the token that closes it, and that is supervised too.

    Raises: PromptTooLong: a context, a prompt and its target do not fit the model together.
    """
    pairs: list[Pair] = []
    for request in requests:
        for context in contexts:
            prompt, answer = model.encode_answer(context + request.text, request.target)
            row = model.forced_row(prompt, answer[:-1])
            length = max(len(row.source), len(row.stream))
            if model.context_length is not None and length > model.context_length:
                raise PromptTooLong(f"{context}{request.statement}", length, model.context_length)
            pairs.append((prompt, answer))
    return pairs


def refuse_missing_layers(model: LanguageModel, method: str, setting: str, layers: Sequence[int]) -> None:
    """Raise MethodRefused unless neurons can be added in all of the blocks: those of the model's decoder."""
    anatomy = model.anatomy
    first = anatomy.encoder_layers
    if all(first <= layer < anatomy.layers for layer in layers):
        return
    only = f", of which those from {first} on are the decoder's and can have some" if first else ""
    raise MethodRefused(
        f"{method} should add neurons in layer {', '.join(map(str, layers))} of {model.name}, which has layers 0 to "
        f"{anatomy.layers - 1}{only}: set `{setting}` in its settings."
    )


def _cached(tail: MlpTail, labels: Tensor, layer: int) -> Supervised:
    def logits(branches: Branches) -> Tensor:
        outputs = tail.outputs
        for neurons in branches.values():
            outputs = with_neurons(outputs, tail.inputs, neurons)
        return tail.logits(outputs)

    return Supervised(labels, {layer: tail.inputs}, logits)
