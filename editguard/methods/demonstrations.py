"""The demonstrations of in-context editing: their kinds, their texts, and which of them a prompt gets.

Source: Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?", section 3.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from editguard.edited.searching import Encoder, Index
from editguard.edits import EditRequest
from editguard.methods.protocol import DemonstrationRecord

Kind = Literal["copy", "update", "retain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TypeOrder = Literal["spread", "shuffled"]


@dataclass(frozen=True)
class Demonstration:
    """One worked example: a new fact, a prompt, and the answer that is right given the fact.

    Attributes:
        record: position of the record that it comes from; None for the edit itself.
        kind: "copy" repeats the fact, "update" answers another wording, "retain" leaves another subject alone.
        text: the lines, closed by an empty one.
        similarity: of the record to the edit.
    """

    record: int | None
    kind: Kind
    text: str
    similarity: float = 1.0


def spread_kinds(count: int, proportion: Sequence[int]) -> tuple[Kind, ...]:
    """Return kinds in an order in which every beginning has the wanted proportion, each count within one.

    Args:
        proportion: weights of copy, update, retain; not all zero.

    Source: Tijdeman, "The chairman assignment problem", 1980: among the kinds that would otherwise fall behind, the
    one with the nearest deadline.
    """
    total = sum(proportion)
    shares = {kind: weight / total for kind, weight in zip(KINDS, proportion, strict=True) if weight}
    slack = 1 / (2 * len(shares) - 2) if len(shares) > 1 else 0.0
    given: Counter[Kind] = Counter()
    order: list[Kind] = []
    for place in range(1, count + 1):
        due = {kind: share * place - given[kind] for kind, share in shares.items()}
        open_kinds = [kind for kind in shares if due[kind] >= slack - 1e-12]
        chosen = min(open_kinds, key=lambda kind: (1 - slack - due[kind]) / shares[kind])
        given[chosen] += 1
        order.append(chosen)
    return tuple(order)


def kept_when_shortened(kinds: Sequence[Kind], count: int, proportion: Sequence[int]) -> list[int]:
    """Return which of the demonstrations, nearest first, stay when only `count` fit.

    Whole demonstrations go, the farthest of each kind first, so that the proportion stays and every shorter selection
    is part of the longer ones.
    """
    if count >= len(kinds):
        return list(range(len(kinds)))
    left = Counter(spread_kinds(count, proportion))
    kept = []
    for place, kind in enumerate(kinds):
        if left[kind] > 0:
            left[kind] -= 1
            kept.append(place)
    return kept


def demonstration_text(fact: str, prompt: str, answer: str) -> str:
    """Return one demonstration, byte for byte as published."""
    return f"New Fact: {fact}\nPrompt: {prompt} {answer}\n\n"


def query_text(fact: str, probe: str) -> str:
    """Return the end of the prompt: the new fact and the probe, without a blank or newline after it."""
    return f"New Fact: {fact}\nPrompt: {probe.rstrip()}"


def fact_text(record: DemonstrationRecord) -> str:
    """Return the record's new fact as a sentence."""
    return f"{record.prompt.rstrip()} {record.target_new.strip()}"


def usable(record: DemonstrationRecord, proportion: Sequence[int]) -> bool:
    """Whether the record can serve as every kind that the proportion asks for."""
    _, update, retain = proportion
    return bool((record.paraphrases or not update) and (record.neighbours or not retain))


@dataclass
class Pool:
    """The records to choose from, and their index.

    Attributes:
        records: those that can serve as every kind.
        left_out: how many could not.
    """

    records: tuple[DemonstrationRecord, ...]
    left_out: int
    index: Index
    _ranked: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[DemonstrationRecord], proportion: Sequence[int], encoder: Encoder) -> Pool | None:
        """Return the pool of the usable records, or None when there are none."""
        given = tuple(records)
        chosen = tuple(record for record in given if usable(record, proportion))
        if not chosen:
            return None
        texts = [demonstration_text(fact_text(record), record.prompt, record.target_new) for record in chosen]
        return cls(chosen, len(given) - len(chosen), encoder.index(texts))

    def ranked(self, request: EditRequest) -> list[tuple[int, float]]:
        """Return (position, similarity) of all records, nearest to the request first; ties in the given order."""
        if request.id not in self._ranked:
            text = demonstration_text(request.statement, request.text, request.target)
            [row] = self.index.similarities([text])
            order = np.argsort(-row, kind="stable")
            self._ranked[request.id] = [(int(place), float(row[place])) for place in order]
        return self._ranked[request.id]

    def nearest(
        self,
        request: EditRequest,
        probe: str,
        count: int,
        *,
        proportion: Sequence[int],
        order: TypeOrder,
        edited_subjects: Iterable[str] = (),
        seed: int = 0,
    ) -> list[Demonstration]:
        """Return up to `count` demonstrations, nearest record first.

        Left out are records that would tell the answer or contradict the memory: those about the request's,
        the probe's or another edited subject, and lines that repeat the probe.
        """
        subjects = {subject.casefold() for subject in edited_subjects} | {request.subject.casefold()}
        kinds = list(spread_kinds(count, proportion))
        if order == "shuffled":
            random.Random(f"kinds/{seed}/{request.id}").shuffle(kinds)
        found: list[Demonstration] = []
        for place, similarity in self.ranked(request):
            if len(found) == count:
                break
            record = self.records[place]
            if record.subject.casefold() in subjects or record.subject.casefold() in probe.casefold():
                continue
            kind = kinds[len(found)]
            choices = list(_lines(record, kind, probe, subjects))
            if choices:
                draw = random.Random(f"line/{seed}/{request.id}/{place}")
                prompt, answer = draw.choice(choices)
                text = demonstration_text(fact_text(record), prompt, answer)
                found.append(Demonstration(place, kind, text, similarity))
        return found


def _lines(record: DemonstrationRecord, kind: Kind, probe: str, subjects: set[str]) -> Iterator[tuple[str, str]]:
    """The (prompt, answer) pairs that show the record as that kind."""
    if kind == "copy":
        prompts: tuple[str, ...] = (record.prompt,)
    else:
        prompts = record.paraphrases if kind == "update" else record.neighbours
    answer = record.target_true if kind == "retain" else record.target_new
    for prompt in prompts:
        bare = prompt.strip().casefold()
        contradicts = kind == "retain" and any(subject in bare for subject in subjects)
        if bare != probe.strip().casefold() and not contradicts:
            yield prompt.rstrip(), answer.strip()
