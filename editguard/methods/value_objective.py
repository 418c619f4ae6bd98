"""What a target vector is optimised for: the target's likelihood, the drift of the subject, the vector's length.

Source: Meng et al. 2022 (ROME), section 3.1, equation 4, with the loss as the released code computes it; two places
at once are those of Li et al. 2024 (PMET), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from editguard.edits import EditRequest
from editguard.errors import PromptTooLong
from editguard.methods.keys import SubjectRow, subject_row
from editguard.models.continuation import Passes, Row, continued
from editguard.models.hooks import capture

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Place = Literal["mlp", "block", "attention and mlp"]
"""Where the vector is added: to the down projection's output, to the block's, or one vector each to the outputs of
attention and of the down projection."""

MakePasses = Callable[["LanguageModel", Sequence[Row], int], Passes]


@dataclass(frozen=True)
class ValueProblem:
    """One edit in tokens.

    Attributes:
        prompts: the prompt behind each prefix context; the first is the bare one.
        target: ids of the answer, as they follow the bare prompt.
        drift: the subject alone, read at its last token.
        statement: the request in words, for messages.
    """

    prompts: tuple[SubjectRow, ...]
    target: tuple[int, ...]
    drift: SubjectRow
    statement: str = ""

    def rows(self) -> list[Row]:
        """The rows of the batch: prompts with the target but its last token, then the subject."""
        length = len(self.target)
        rows = []
        for prompt in self.prompts:
            ids = (*prompt.ids, *self.target[:-1])
            rows.append(Row(ids, prompt.end, tuple(range(len(ids) - length, len(ids)))))
        end = self.drift.end
        return [*rows, Row(self.drift.ids[: end + 1], end, (end,))]


def value_problem(model: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> ValueProblem:
    """Return the request in tokens; `contexts` are prefix contexts, the empty one first.

    Raises: PromptTooLong: a context, the prompt and the target do not fit the model together. AmbiguousTokens: the
        tokenizer gives the subject no end of its own.
    """
    _, target = model.encode_answer(request.text, request.target)
    prompts = tuple(subject_row(model, request, context) for context in contexts)
    for context, row in zip(contexts, prompts, strict=True):
        length = len(row.ids) + len(target) - 1
        if model.context_length is not None and length > model.context_length:
            raise PromptTooLong(f"{context}{request.text} {request.target}", length, model.context_length)
    essence = EditRequest(prompt="{} is a", subject=request.subject, target=request.target)
    return ValueProblem(prompts, tuple(target), subject_row(model, essence), request.statement)


@dataclass(frozen=True)
class Evaluation:
    """One forward pass of several edits, each entry an edit's own.

    Attributes:
        nll: the target's negative log-likelihood (nats per token), averaged over the prompts; (edits,).
        subject: the log distribution right after the subject alone; (edits, vocabulary).
        misses: how many of the target's tokens, over all prompts, were not the likeliest; (edits,).
        bare_misses: the same on the bare prompt.
    """

    nll: Tensor
    subject: Tensor
    misses: Tensor
    bare_misses: Tensor


@dataclass(frozen=True)
class Objective:
    """The loss of several edits at once, as a function of their vectors.

    Attributes:
        passes: the model on the rows of all edits.
        modules: where the vectors are added, one module for each place.
        edit_of_row: (rows,) which edit a row belongs to.
        target_reads: which of the reads are labelled, with `labels` (token ids), `edit_of_label`, `bare_label` (1 where
            the prompt is the bare one) and `share` (1 / (prompts x target tokens) of the label's edit).
        drift_reads: (edits,) the read of each edit's subject row.
    """

    passes: Passes
    modules: tuple[nn.Module, ...]
    edit_of_row: Tensor
    target_reads: Tensor
    labels: Tensor
    edit_of_label: Tensor
    bare_label: Tensor
    share: Tensor
    drift_reads: Tensor

    def evaluate(self, deltas: Tensor | None) -> Evaluation:
        """Run all rows with the edits' vectors (edits, d_model) or (edits, places, d_model) added; None adds none."""
        with ExitStack() as hooks:
            if deltas is not None:
                rows = deltas.reshape(len(deltas), len(self.modules), -1)[self.edit_of_row.to(deltas.device)]
                for module, vectors in zip(self.modules, rows.unbind(1), strict=True):
                    hooks.enter_context(self.passes.added(module, vectors))
            log_probs = self.passes.logits().log_softmax(-1)
        labels, edit_of_label = self.labels.to(log_probs.device), self.edit_of_label.to(log_probs.device)
        labelled = log_probs[self.target_reads.to(log_probs.device)]
        picked = labelled.gather(-1, labels[:, None])[:, 0]
        missed = (picked.detach() < labelled.detach().amax(-1)).to(log_probs)
        zeros = torch.zeros(len(self.drift_reads), dtype=log_probs.dtype, device=log_probs.device)
        return Evaluation(
            nll=zeros.index_add(0, edit_of_label, -picked * self.share.to(picked)),
            subject=log_probs[self.drift_reads.to(log_probs.device)],
            misses=zeros.index_add(0, edit_of_label, missed),
            bare_misses=zeros.index_add(0, edit_of_label, missed * self.bare_label.to(missed)),
        )

    def forward(self, deltas: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the NLL (edits,) in nats and the subjects' log distributions (edits, vocabulary)."""
        seen = self.evaluate(deltas)
        return seen.nll, seen.subject

    def base(self, first_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return v0 at the edits' first rows, and the subjects' log distributions.

        v0 is (edits, d_model), or (edits, places, d_model) where there are several places.
        """
        with torch.no_grad(), ExitStack() as hooks:
            captured = [hooks.enter_context(capture(module)) for module in self.modules]
            _, before = self.forward(None)
        vectors = [self.passes.at_start(each.value)[first_rows.to(each.value.device)] for each in captured]
        stacked = torch.stack([each.to(vectors[0].device) for each in vectors], dim=1)
        if len(self.modules) == 1:
            stacked = stacked[:, 0]
        return stacked.to(torch.promote_types(stacked.dtype, torch.float32)), before


def _modules(model: LanguageModel, layer: int, place: Place) -> tuple[nn.Module, ...]:
    anatomy = model.anatomy
    if place == "block":
        return (anatomy.block(layer),)
    mlp = anatomy.down_projection(layer).module
    return (mlp,) if place == "mlp" else (anatomy.attention_output(layer).module, mlp)


def objective(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    layer: int,
    place: Place,
    make_passes: MakePasses = continued,
) -> tuple[Objective, Tensor]:
    """Return the objective of several edits, and the number (edits,) of each edit's bare row."""
    rows: list[Row] = []
    edit_of_row: list[int] = []
    first_rows: list[int] = []
    target_reads: list[int] = []
    labels: list[int] = []
    edit_of_label: list[int] = []
    bare_label: list[int] = []
    share: list[float] = []
    drift_reads: list[int] = []
    reads = 0
    for edit, problem in enumerate(problems):
        first_rows.append(len(rows))
        length, prompts = len(problem.target), len(problem.prompts)
        count = length * prompts
        target_reads += range(reads, reads + count)
        labels += problem.target * prompts
        edit_of_label += [edit] * count
        bare_label += [1] * length + [0] * (count - length)
        share += [1 / count] * count
        drift_reads.append(reads + count)
        reads += count + 1
        edit_of_row += [edit] * (prompts + 1)
        rows += problem.rows()
    return (
        Objective(
            passes=make_passes(model, rows, layer),
            modules=_modules(model, layer, place),
            edit_of_row=torch.tensor(edit_of_row),
            target_reads=torch.tensor(target_reads),
            labels=torch.tensor(labels),
            edit_of_label=torch.tensor(edit_of_label),
            bare_label=torch.tensor(bare_label),
            share=torch.tensor(share, dtype=torch.float64),
            drift_reads=torch.tensor(drift_reads),
        ),
        torch.tensor(first_rows),
    )


def drift(now: Tensor, before: Tensor) -> Tensor:
    """D_KL(now || before) in nats from log distributions (edits, vocabulary); returns (edits,)."""
    divergence: Tensor = (now.exp() * (now - before)).sum(-1)
    return divergence


def penalty(deltas: Tensor, base: Tensor) -> Tensor:
    """||delta|| / ||v0||^2 of vectors (..., d_model); its gradient at delta = 0 is zero."""
    length: Tensor = torch.linalg.vector_norm(deltas, dim=-1)
    reference: Tensor = torch.linalg.vector_norm(base, dim=-1)
    return length / reference.square()
