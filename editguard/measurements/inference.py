"""What edits make of a pass over prompts: seconds with them in force, and without, one right after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, Protocol, Self

from editguard.edits import EditCase
from editguard.measurements.devices import now
from editguard.probes import probes_of

PASSES: Final = 3
"""Of each state that are timed, after one that is not."""
TIMED_CASES: Final = 8
"""Of so many cases the prompts are timed."""


class Passing(Protocol):
    """A model that can be brought into force and run over prompts."""

    def anew(self) -> Self:
        """The same model, which has not looked up any prompt yet."""

    def activate(self) -> None:
        """Bring the physical model to this one's edits."""

    def consult(self, prompts: Sequence[str]) -> object:
        """Find what is read in place of each prompt, which then holds for every later pass."""

    def next_tokens(self, prompts: Sequence[str], k: int = ...) -> object:
        """Run the prompts once, and return the k most likely next tokens."""

    def count_tokens(self, prompts: Sequence[str]) -> int:
        """How many tokens the prompts have together, as they are asked."""


@dataclass(frozen=True, kw_only=True)
class AnsweringCost:
    """What one pass over some prompts takes with edits in force, and without.

    Attributes:
        prompts: how many there are; they run in batches.
        edited_seconds, unedited_seconds: per prompt, the median of a few passes. Where a memory of edits is looked up
            and writes the prompts anew, that is part of it, and so are the tokens that it adds.
        lookup_seconds: per prompt, the part of `edited_seconds` that goes into looking up, which is timed once.
        tokens: of all prompts together as they are asked, before anything writes them anew; None in records of
            earlier versions.
    """

    prompts: int
    edited_seconds: float
    unedited_seconds: float
    lookup_seconds: float = 0.0
    tokens: int | None = None

    @property
    def spent(self) -> float:
        """About how many seconds the timing itself took, with the passes that are not counted."""
        passes = (1 + PASSES) * (self.edited_seconds - self.lookup_seconds + self.unedited_seconds)
        return self.prompts * (passes + self.lookup_seconds)

    @property
    def ratio(self) -> float:
        """How many times as long the edited model takes."""
        return self.edited_seconds / self.unedited_seconds

    @property
    def overhead_per_token(self) -> float | None:
        """Seconds that the edits add to a token of the question; what they add to the question counts in full."""
        if not self.tokens:
            return None
        return (self.edited_seconds - self.unedited_seconds) * self.prompts / self.tokens

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, in this version or an earlier one."""
        return cls(**record)


def answering_cost(
    edited: Passing, unedited: Passing, prompts: Sequence[str], *, passes: int = PASSES
) -> AnsweringCost:
    """Time passes of two states of one model over the same prompts; the first pass of each is not counted.

    Afterwards the edited state is in force.

    Raises: ValueError: there is no prompt.
    """
    if not prompts:
        raise ValueError("without a prompt there is no pass to time.")
    found = []
    try:
        for model in (edited.anew(), unedited.anew()):
            model.activate()
            start = now()
            model.consult(prompts)
            looked_up = now() - start
            times = []
            for _ in range(1 + passes):
                start = now()
                model.next_tokens(prompts, 1)
                times.append(now() - start)
            found.append((looked_up / len(prompts), median(times[1:]) / len(prompts)))
    finally:
        edited.activate()
    (lookup, read), (unedited_lookup, unedited_read) = found
    return AnsweringCost(
        prompts=len(prompts),
        edited_seconds=lookup + read,
        unedited_seconds=unedited_lookup + unedited_read,
        lookup_seconds=lookup,
        tokens=unedited.count_tokens(prompts),
    )


def timed_prompts(cases: Sequence[EditCase]) -> list[str]:
    """The prompts whose pass is timed, the same for every state: of the first cases the edit's own, and one that the
    edit should not reach."""
    own = [case.request.text for case in cases[:TIMED_CASES]]
    others = [probe.prompt for case in cases[:TIMED_CASES] for probe in probes_of(case, "locality")[:1]]
    return list(dict.fromkeys([*own, *others]))
