"""What trained editors learn from: edits with rephrases and with facts that should stay, and the order of the draws.

Every draw is a function of the seed and of how many came before: a run that is cut short and goes on draws the same.
Edits, rephrases and locality examples are drawn from seeds of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from editguard.edits import EditCase, EditRequest, content_id
from editguard.errors import MissingMaterial
from editguard.models.answer_rows import TextPair, refuse_too_long

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

VALIDATION_SHARE: Final = 0.1
"""Of the subjects; their edits are never trained on."""
ANSWER_TOKENS: Final = 24
"""Length of an answer that the model gives itself, at most."""


@dataclass(frozen=True)
class EditorExample:
    """One edit to learn from.

    Attributes:
        request: the edit.
        rephrases: prompts in other words, each with the answer wanted after the edit.
        locality: prompts whose answers should stay, each with the answer.
    """

    request: EditRequest
    rephrases: tuple[TextPair, ...]
    locality: tuple[TextPair, ...]

    @property
    def pair(self) -> TextPair:
        """The request's own prompt and target."""
        return self.request.text, self.request.target


@dataclass(frozen=True)
class Drawn:
    """A few edits, and what an edited model is asked about each.

    Attributes:
        examples: the edits.
        rephrases: one for each edit.
        locality: prompts with answers that should stay, and `locality_of` the edit that each is asked about.
    """

    examples: tuple[EditorExample, ...]
    rephrases: tuple[TextPair, ...]
    locality: tuple[TextPair, ...]
    locality_of: tuple[int, ...]


def training_digest(cases: Iterable[EditCase]) -> str:
    """Return 16 hex digits that depend on what is learnt from the cases alone."""
    return content_id(
        "training",
        [
            [case.request.prompt, case.request.subject, case.request.target, case.request.previous]
            + [[probe.property, probe.prompt, list(probe.answers)] for probe in case.probes if probe.property in _USED]
            for case in cases
        ],
    )


_USED: Final = ("generalization", "locality")


def editor_examples(
    model: LanguageModel, method: str, cases: Sequence[EditCase], *, asks_model: bool = True
) -> tuple[list[EditorExample], int]:
    """Return the cases as examples, and how many were left out because they have no rephrase.

    Rephrases are the probes for generalization. Locality examples are the probes for locality with their first answer;
    where they give none, with the unedited model's own, or with "" where it is not asked.

    Raises: MissingMaterial: there are no cases, no rephrases or no locality probes. PromptTooLong: one does not fit.
    """
    if not cases:
        raise MissingMaterial(
            f"{method} is trained on edit cases with rephrases and locality probes: give them with "
            "--editguard-training FILE (--training for a study, --data for editguard train), one JSON object per line; "
            "Preparation(training=...) from Python. None of their subjects may be evaluated."
        )
    for wanted, what in (("generalization", "rephrases"), ("locality", "facts that should stay")):
        if not any(probe.property == wanted for case in cases for probe in case.probes):
            raise MissingMaterial(
                f"none of the {len(cases)} training cases for {method} has a {wanted} probe: {method} learns from "
                f"{what} too. Add probes with the property {wanted!r}."
            )
    unknown = [
        probe.prompt for case in cases for probe in case.probes if probe.property == "locality" and not probe.answers
    ]
    unknown = unknown if asks_model else []
    own = dict(zip(unknown, model.generate(unknown, max_new_tokens=ANSWER_TOKENS) if unknown else [], strict=True))
    examples = []
    for case in cases:
        asked = [probe for probe in case.probes if probe.property in _USED]
        locality = [
            (probe.prompt, probe.answers[0] if probe.answers else own[probe.prompt].text if asks_model else "")
            for probe in asked
            if probe.property == "locality"
        ]
        examples.append(
            EditorExample(
                case.request,
                tuple((probe.prompt, probe.answers[0]) for probe in asked if probe.property == "generalization"),
                tuple((prompt, answer) for prompt, answer in locality if answer.strip() or not asks_model),
            )
        )
    usable = [example for example in examples if example.rephrases]
    if asks_model:
        refuse_pairs_too_long(model, [pair for each in usable for pair in (each.pair, *each.rephrases, *each.locality)])
    return usable, len(cases) - len(usable)


def refuse_pairs_too_long(model: LanguageModel, pairs: Iterable[TextPair]) -> None:
    """Raise PromptTooLong when the model cannot read one of the pairs.

    No token is shorter than a byte, so that few of them have to be taken apart.
    """
    limit = model.context_length
    frame = len(model.encode("x")) + len(model.opening) + len(model.closing)  # special tokens and template
    for prompt, answer in pairs:
        if limit is not None and frame + len(prompt.encode()) + len(answer.encode()) > limit:
            before, after = model.encode_answer(prompt, answer)
            refuse_too_long(model, prompt, model.forced_row(before, after[:-1]))


def with_previous(model: LanguageModel, examples: Sequence[EditorExample]) -> list[EditorExample]:
    """Return the examples with the answer before the edit filled in: the model's own, where the request gives none."""
    missing = [example.request for example in examples if example.request.previous is None]
    said = dict(zip(missing, previous_answers(model, missing), strict=True))
    return [
        replace(example, request=replace(example.request, previous=said.get(example.request, example.request.previous)))
        for example in examples
    ]


def previous_answers(model: LanguageModel, requests: Sequence[EditRequest]) -> list[str]:
    """Return what the requests give as the answer before the edit, or else what the model answers now."""
    asked = [request.text for request in requests if request.previous is None]
    answers = dict(zip(asked, model.generate(asked, max_new_tokens=ANSWER_TOKENS), strict=True)) if asked else {}
    return [answers[r.text].text if r.previous is None else r.previous for r in requests]


def split(examples: Sequence[EditorExample], method: str) -> tuple[list[EditorExample], list[EditorExample]]:
    """Return what to train and what to validate on, split by subject: a tenth of the subjects, by their names alone.

    Raises: MissingMaterial: all cases are about one subject.
    """
    subjects = sorted({example.request.subject for example in examples}, key=lambda name: content_id("split", name))
    if len(subjects) < 2:
        raise MissingMaterial(
            f"the training cases for {method} are about {len(subjects)} subject: some are kept for validation, by "
            "subject, so give cases about several."
        )
    held_out = set(subjects[: max(1, round(VALIDATION_SHARE * len(subjects)))])
    train = [example for example in examples if example.request.subject not in held_out]
    return train, [example for example in examples if example.request.subject in held_out]


class Draws:
    """Examples in a shuffled order, a new one for every round through them, and what each is asked.

    Args:
        locality: how many locality examples each edit is asked: its own first, then those of other edits.
        seed: of every draw.
        others: examples whose locality examples are asked where none of `examples` has any.

    Raises: MissingMaterial: nobody has a locality example.
    """

    def __init__(
        self, examples: Sequence[EditorExample], *, locality: int, seed: int, others: Sequence[EditorExample] = ()
    ) -> None:
        self.examples = tuple(examples)
        self._locality = locality
        self.seed = seed
        pools = [dict.fromkeys(pair for each in group for pair in each.locality) for group in (examples, others)]
        self._pool = tuple(pools[0] or pools[1])
        if not self._pool:
            raise MissingMaterial("no training case with a rephrase has a locality probe: give some of them both.")
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def take(self, start: int, count: int) -> Drawn:
        """Return the draws number `start` to `start + count - 1`."""
        chosen, rephrases, locality, locality_of = [], [], list[TextPair](), list[int]()
        for position, number in enumerate(range(start, start + count)):
            round_, place = divmod(number, len(self.examples))
            example = self.examples[self._order(round_)[place]]
            chosen.append(example)
            rephrases.append(self._stream("rephrase", number).choice(example.rephrases))
            asked = self._asked(example, self._stream("locality", number))
            locality += asked
            locality_of += [position] * len(asked)
        return Drawn(tuple(chosen), tuple(rephrases), tuple(locality), tuple(locality_of))

    def _asked(self, example: EditorExample, rng: random.Random) -> list[TextPair]:
        asked = rng.sample(example.locality, min(self._locality, len(example.locality)))
        if len(asked) < self._locality:
            taboo = {example.pair[0], *(prompt for prompt, _ in (*example.rephrases, *asked))}
            others = [pair for pair in self._pool if pair[0] not in taboo]
            asked += rng.sample(others, min(self._locality - len(asked), len(others)))
        return asked

    def _shuffled(self, round_: int) -> list[int]:
        order = list(range(len(self.examples)))
        self._stream("edits", round_).shuffle(order)
        return order

    def _stream(self, *parts: object) -> random.Random:
        return random.Random("|".join(map(str, ("editor training", self.seed, *parts))))
