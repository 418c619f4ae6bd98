"""Causal tracing: at which tokens and layers a model's states carry the answer to a fact.

Source: Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 2. The
model reads the prompt three times: as it is (clean run), with noise on the embeddings of the subject's tokens
(corrupted run), and with the same noise but one state taken from the clean run (restored run). The indirect effect
of a state is the probability of the answer in the restored run minus that in the corrupted one.

The answer's probability is that of its first token, the one that the prompt's last token predicts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidEdit, UnsupportedModel
from editguard.models.hooks import capture, replaced
from editguard.models.indirect_effects import KINDS, CausalTrace, FactTrace, Kind, TraceSettings

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

FACTS_AT_ONCE: Final = 16
"""Of so many facts the clean states of all layers are held in memory together."""


@dataclass(frozen=True)
class Restoration:
    """States to take from the clean run: one kind of module, in some layers, at some positions; none = none."""

    kind: Kind = "block"
    layers: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedFact:
    """A fact that the model knows, in tokens, with what restored runs need.

    Attributes:
        request: the fact.
        ids: the prompt's tokens.
        subject: positions of the subject's tokens.
        answer: the answer's first token.
        noise: (draws, subject tokens, embedding width), float32.
    """

    request: EditRequest
    ids: tuple[int, ...]
    subject: range
    answer: int
    noise: Tensor


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The clean run of a fact: the answer's probability, and kind -> states (layers, tokens, d_model)."""

    probability: float
    states: Mapping[Kind, Tensor]


def _silent(message: str) -> None:
    del message


def causal_trace(
    model: LanguageModel,
    facts: Sequence[EditRequest],
    settings: TraceSettings | None = None,
    *,
    on_progress: Callable[[str], None] = _silent,
) -> CausalTrace:
    """Trace the facts through the model as it is now.

    Args:
        facts: each with its answer in `previous` or, without one, in `target`. Facts that the model answers
            otherwise are left out.
        on_progress: called with one line of text after each group of facts.

    Raises: InvalidEdit: the model knows none of the facts. AmbiguousTokens: a subject's tokens cannot be found.
        PromptTooLong: a fact does not fit the model's context. UnsupportedModel: the model has an encoder.
    """
    settings = settings or TraceSettings()
    started = time.perf_counter()
    if model.anatomy.encoder_layers:
        raise UnsupportedModel(
            f"{model.name} cannot be traced: a trace follows a subject through one causal stream to the answer, and an "
            "encoder-decoder model has two."
        )
    known, unknown = known_facts(model, facts)
    if not known:
        raise InvalidEdit(
            f"{model.name} knows none of the {len(facts)} facts, so there is nothing to trace: give facts that it "
            "answers right, with the answer in 'previous'."
        )
    layers = model.anatomy.layers
    sigma = settings.noise * embedding_deviation(model, known)
    prepared = [prepare_fact(model, fact, settings, sigma) for fact in known]
    window = settings.window_for(layers)
    traced: list[FactTrace] = []
    for at in range(0, len(prepared), FACTS_AT_ONCE):
        part = prepared[at : at + FACTS_AT_ONCE]
        traced += _traced(model, part, clean_runs(model, part), settings, window)
        on_progress(f"traced {len(traced)} of {len(prepared)} facts")
    texts = tuple(fact.text for fact in unknown)
    seconds = time.perf_counter() - started
    return CausalTrace(model.name, model.fingerprint(), layers, settings, sigma, window, tuple(traced), texts, seconds)


def answer_of(fact: EditRequest) -> str:
    """The answer that is traced: the one before any edit, where it is named."""
    return fact.previous if fact.previous is not None else fact.target


def known_facts(model: LanguageModel, facts: Sequence[EditRequest]) -> tuple[list[EditRequest], list[EditRequest]]:
    """Return the facts whose answer is the model's own, token for token, and the others."""
    scores = model.score([(fact.text, answer_of(fact)) for fact in facts])
    known = [fact for fact, score in zip(facts, scores, strict=True) if score.exact]
    return known, [fact for fact, score in zip(facts, scores, strict=True) if not score.exact]


def subject_tokens(model: LanguageModel, fact: EditRequest) -> range:
    """Positions of all tokens that overlap the subject.

    Raises: AmbiguousTokens: the tokenizer gives the subject no place of its own.
    """
    before = fact.prompt.partition("{}")[0]
    blanks = len(fact.subject) - len(fact.subject.lstrip())
    last = model.subject_end(fact.text, fact.subject, start=len(before))
    first = model.subject_end(fact.text, fact.subject[blanks], start=len(before) + blanks)
    # A first letter of several tokens: `subject_end` gave its last one, and the others stand right before it.
    kept = before.rstrip()
    lowest = model.subject_end(fact.text, kept[-1], start=len(kept) - 1) + 1 if kept else first if model.chat else 0
    ids = model.encode(fact.text)
    while first > lowest and model.decode(ids[first - 1 : first]).strip():
        first -= 1
    return range(first, last + 1)


@torch.no_grad()
def embedding_deviation(model: LanguageModel, facts: Sequence[EditRequest]) -> float:
    """Standard deviation of all entries of the embeddings of the facts' subjects' tokens."""
    rows = [(model.encode(fact.text), subject_tokens(model, fact)) for fact in facts]
    ids = [row[position] for row, subject in rows for position in subject]
    embedded: Tensor = model.anatomy.embedding(torch.tensor([ids], device=model.device))
    return float(embedded.double().std())


def prepare_fact(model: LanguageModel, fact: EditRequest, settings: TraceSettings, sigma: float) -> PreparedFact:
    """Encode a fact, and draw its noise from a generator of its own."""
    ids, answer = model.encode_answer(fact.text, answer_of(fact))
    subject = subject_tokens(model, fact)
    table = model.anatomy.embedding.weight
    assert isinstance(table, Tensor)
    generator = torch.Generator().manual_seed(int(content_id("noise", settings.seed, fact.prompt, fact.subject), 16))
    noise = sigma * torch.randn(settings.draws, len(subject), table.shape[1], generator=generator)
    return PreparedFact(fact, tuple(ids), subject, answer[0], noise)


def restored_module(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """The module whose output a restoration of that kind replaces."""
    if kind == "block":
        return model.anatomy.block(layer)
    attention, mlp = model.anatomy.residual_writers(layer)
    return mlp if kind == "mlp" else attention


def clean_runs(model: LanguageModel, facts: Sequence[PreparedFact]) -> list[CleanRun]:
    """Run the facts' prompts as they are, and keep every state that may be restored."""
    places = [(kind, layer) for kind in KINDS for layer in range(model.anatomy.layers)]

    def run(batch: list[int]) -> list[CleanRun]:
        chosen = [facts[index] for index in batch]
        with ExitStack() as hooks:
            captured = [hooks.enter_context(capture(restored_module(model, *place))) for place in places]
            probabilities, width = _forward(model, chosen)
        grids = {
            place: each.value.reshape(len(chosen), width, -1) for place, each in zip(places, captured, strict=True)
        }
        found = []
        for row, fact in enumerate(chosen):
            states: dict[Kind, Tensor] = {
                kind: torch.stack(
                    [grids[kind, layer][row, : len(fact.ids)].to(model.device) for layer in range(model.anatomy.layers)]
                )
                for kind in KINDS
            }
            found.append(CleanRun(probabilities[row], states))
        return found

    return model.in_batches([len(fact.ids) for fact in facts], run)


def restored_runs(
    model: LanguageModel,
    facts: Sequence[PreparedFact],
    clean: Sequence[CleanRun],
    runs: Sequence[tuple[int, int, Restoration]],
) -> list[float]:
    """Run prompts with noise on their subjects and with states restored; return the answers' probabilities.

    Facts, draws, tokens and layers are batched together: every row has its own noise and its own restoration.

    Args:
        clean: the facts' clean runs.
        runs: (index of the fact, number of the draw, what to restore) of each run.
    """

    def run(batch: list[int]) -> list[float]:
        chosen = [runs[index] for index in batch]
        prompts = [facts[fact] for fact, _, _ in chosen]
        noise = [(row, facts[fact].subject, facts[fact].noise[draw]) for row, (fact, draw, _) in enumerate(chosen)]
        restored: dict[tuple[Kind, int], list[tuple[int, Sequence[int], Tensor]]] = {}
        for row, (fact, _, what) in enumerate(chosen):
            for layer in what.layers:
                values = clean[fact].states[what.kind][layer, list(what.positions)]
                restored.setdefault((what.kind, layer), []).append((row, what.positions, values))
        with ExitStack() as hooks:
            hooks.enter_context(replaced(model.anatomy.embedding, _writing(len(chosen), noise, adds=True)))
            for place, writes in restored.items():
                change = _writing(len(chosen), writes, adds=False)
                hooks.enter_context(replaced(restored_module(model, *place), change))
            return _forward(model, prompts)[0]

    return model.in_batches([len(facts[fact].ids) for fact, _, _ in runs], run)


def _forward(model: LanguageModel, facts: Sequence[PreparedFact]) -> tuple[list[float], int]:
    """Probabilities of the facts' answers under the hooks in force, and the width of the batch.

    Rows are padded on the right, where the causal mask hides it.
    """
    width = max(len(fact.ids) for fact in facts)
    ids = torch.tensor([[*fact.ids, *[0] * (width - len(fact.ids))] for fact in facts])
    states = model.forward(ids, torch.ones_like(ids)).last_hidden_state
    rows = range(len(facts))
    logits = model.anatomy.unembed(states[rows, [len(fact.ids) - 1 for fact in facts]])
    found: list[float] = logits.double().softmax(-1)[rows, [fact.answer for fact in facts]].tolist()
    return found, width


def _writing(
    rows: int, writes: Sequence[tuple[int, Sequence[int], Tensor]], *, adds: bool
) -> Callable[[Tensor], Tensor]:
    """A change of a module's output that sets, or adds to, vectors (positions, width) of some rows."""
    row = [number for number, positions, _ in writes for _ in positions]
    column = [position for _, positions, _ in writes for position in positions]
    values = torch.cat([vectors for _, _, vectors in writes])

    def change(output: Tensor) -> Tensor:
        grid = output.reshape(rows, -1, output.shape[-1]).clone()  # some families flatten rows and tokens
        grid[row, column] = (grid[row, column] + values.to(grid)) if adds else values.to(grid)
        return grid.reshape(output.shape)

    return change


def restored_layers(kind: Kind, layer: int, window: int, layers: int) -> tuple[int, ...]:
    """The layers that are restored together around one: itself for blocks, the window in it for their parts."""
    if kind == "block":
        return (layer,)
    return tuple(range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2)))


def _traced(
    model: LanguageModel,
    facts: Sequence[PreparedFact],
    clean: Sequence[CleanRun],
    settings: TraceSettings,
    window: int,
) -> Iterator[FactTrace]:
    """Trace facts whose clean runs are known."""
    layers = model.anatomy.layers
    cells = [
        (number, cell)
        for number, fact in enumerate(facts)
        for cell in (None, *_cells(fact, settings.kinds, window, layers))
    ]
    runs = [
        (number, draw, cell[1] if cell else Restoration()) for number, cell in cells for draw in range(settings.draws)
    ]
    values = torch.tensor(restored_runs(model, facts, clean, runs), dtype=torch.float64)
    averages = values.reshape(len(cells), settings.draws).mean(1).tolist()
    corrupted = {number: value for (number, cell), value in zip(cells, averages, strict=True) if cell is None}
    tables: list[dict[Kind, Tensor]] = [
        {kind: torch.full((len(fact.ids), layers), corrupted[number]).double() for kind in settings.kinds}
        for number, fact in enumerate(facts)
    ]
    for (number, cell), value in zip(cells, averages, strict=True):
        if cell is not None:
            layer, restoration = cell
            tables[number][restoration.kind][restoration.positions[0], layer] = value
    for number, fact in enumerate(facts):
        yield FactTrace(
            text=fact.request.text,
            answer=answer_of(fact.request),
            tokens=tuple(_shown(model, token) for token in fact.ids),
            subject=(fact.subject.start, fact.subject.stop - 1),
            clean=clean[number].probability,
            corrupted=corrupted[number],
            probabilities=tables[number],
        )


def _cells(fact: PreparedFact, kinds: Sequence[Kind], window: int, layers: int) -> Iterator[tuple[int, Restoration]]:
    """(layer, restoration) of every state whose restoration can have an effect.

    Before the subject nothing differs from the clean run; and the last block's states do not reach other positions.
    """
    last = len(fact.ids) - 1
    for kind in kinds:
        for position in range(fact.subject.start, len(fact.ids)):
            for layer in range(layers):
                restored = restored_layers(kind, layer, window, layers)
                if position == last or restored[0] < layers - 1:
                    yield layer, Restoration(kind, restored, (position,))


def _shown(model: LanguageModel, token: int) -> str:
    return model.decode([token]) or str(model.tokenizer.convert_ids_to_tokens(token))
