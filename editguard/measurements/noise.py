"""The noise floor: by how much a measurement differs when the same edited model is asked again.

An A/A comparison changes only what must not matter, and shows what a difference between two runs is made of where
nothing has changed. Kernels sum in another order for other batches and threads, so that two tokens of nearly equal
probability can change places; in float32 that is rare, in 16 bits it is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from editguard.edited import AppliedEdit, EditedModel
from editguard.edits import PROPERTIES, Property
from editguard.errors import ConfigurationError
from editguard.measurements.record import Measurement

if TYPE_CHECKING:
    from editguard.measurements.answering import Answering, Generated, Scored, Switchable
    from editguard.measurements.under_test import ModelUnderTest

Variant = Literal["no-op edit", "batch size", "order", "threads"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
SEED: Final = 7
_ROUNDED: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The same model asked again.

    Attributes:
        variant: what was otherwise, with the values: "batch size 32 -> 4".
        difference: by how much the mean differs, unit as the measurement's; None where no case has both values.
        flips: cases whose value differs by more than a rounding in the sixth place; a case that only one of both
            runs asked, or found a value for, counts too.
    """

    variant: str
    difference: float | None
    flips: int


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What A/A comparisons of one measurement found.

    Attributes:
        cases: of the measurement.
        repeats: one for each variant that could be asked.
    """

    cases: int
    repeats: tuple[Repeat, ...]

    @property
    def difference(self) -> float:
        """The largest difference of the mean; what lies below cannot be told from noise."""
        return max((repeat.difference or 0.0 for repeat in self.repeats), default=0.0)

    @property
    def flips(self) -> int:
        """The most cases that flipped in one comparison."""
        return max((repeat.flips for repeat in self.repeats), default=0)

    def __str__(self) -> str:
        flipped = ", ".join(f"{each.variant}: {each.flips}" for each in self.repeats if each.flips)
        told = f" ({flipped})" if flipped else ""
        return (
            f"noise floor {self.difference:.3g}, {self.flips} of {self.cases} cases flipped in "
            f"{len(self.repeats)} A/A comparisons{told}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {"cases": self.cases, "repeats": [asdict(repeat) for repeat in self.repeats]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: KeyError, TypeError: it is none."""
        return cls(cases=record["cases"], repeats=tuple(Repeat(**repeat) for repeat in record["repeats"]))


def noise_floor(
    model: ModelUnderTest,
    take: Callable[[ModelUnderTest], Measurement],
    first: Measurement,
    *,
    variants: Sequence[Variant] = VARIANTS,
) -> NoiseFloor:
    """Take a measurement again under each variant and compare it with the first.

    Edited and unedited model are both asked anew, as another run would ask them. Afterwards batch size and threads are
    what they were.

    Args:
        model: with the edits in force.
        take: the measurement, as `lambda model: model.locality()`.
        first: what it gave.
        variants: what to change; one that means nothing here (threads where nothing runs on a CPU) is left out.
    """
    repeats = []
    for variant in variants:
        with varied(model, variant, cases=len(first.values)) as (told, again):
            if again is not None:
                repeats.append(_compared(told, first, take(again)))
    return NoiseFloor(cases=len(first.values), repeats=tuple(repeats))


def noise_floors(
    model: ModelUnderTest, properties: Sequence[Property] | None = None, *, variants: Sequence[Variant] = VARIANTS
) -> dict[Property, NoiseFloor]:
    """The noise floor of each property that there are probes for.

    Args:
        model: with the edits in force.
        properties: which; by default all.
        variants: as for `noise_floor`.

    Raises: ConfigurationError: there are no probes for a property that was named.
    """
    found: dict[Property, NoiseFloor] = {}
    for name in PROPERTIES if properties is None else properties:

        def take(each: ModelUnderTest, name: Property = name) -> Measurement:
            measured: Measurement = getattr(each, name)()
            return measured

        try:
            first = take(model)
        except ConfigurationError:
            if properties is not None:
                raise
            continue
        found[name] = noise_floor(model, take, first, variants=variants)
    return found


@contextmanager
def varied(model: ModelUnderTest, variant: Variant, *, cases: int) -> Iterator[tuple[str, ModelUnderTest | None]]:
    """The same model, which has not been asked yet, under one changed condition.

    Args:
        model: with the edits in force.
        variant: what to change.
        cases: how many prompts there will be: a batch must become smaller than they are to change.

    Yields: what is otherwise, in words, and the model; None in its place where the variant means nothing here.
    """
    if variant == "no-op edit":
        model.withdraw()
        yield "no-op edit", model.anew(_edited_by_nothing)
    elif variant == "order":
        yield "order", model.anew(Reordered)
    elif variant == "batch size":
        with _other_batch_size(model.physical, cases) as told:
            yield told, model.anew() if told else None
    else:
        with _other_threads(model.physical) as told:
            yield told, model.anew() if told else None


def _edited_by_nothing(model: Switchable) -> Answering:
    """The model with one more edit, which leaves nothing behind."""
    return model.extended(AppliedEdit("no-op", (), ())) if isinstance(model, EditedModel) else model


@contextmanager
def _other_batch_size(physical: Any, cases: int) -> Iterator[str]:
    """Half as many rows at once as there are, which splits the only batch of a few; two where it is one."""
    before = getattr(physical, "batch_size", None)
    if before is None:
        yield ""
        return
    other = max(1, min(before, cases) // 2) if before > 1 else 2
    physical.batch_size = other
    try:
        yield f"batch size {before} -> {other}"
    finally:
        physical.batch_size = before


@contextmanager
def _other_threads(physical: Any) -> Iterator[str]:
    """One thread instead of several, two instead of one; only where something is computed on a CPU."""
    if not any(str(device).startswith("cpu") for device in getattr(physical, "devices", ())):
        yield ""
        return
    import torch

    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    torch.set_num_threads(other)
    try:
        yield f"threads {before} -> {other}"
    finally:
        torch.set_num_threads(before)


class Reordered:
    """A model that is asked in another order than its asker says; answers come in the asker's order."""

    def __init__(self, model: Switchable) -> None:
        self.model = model

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Generated]:
        """See `Answering`."""
        return self._in_order(prompts, lambda asked: self.model.generate(asked, **options))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """See `Answering`."""
        return self._in_order(pairs, self.model.score)

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[Sequence[tuple[str, float]]]:
        """See `Answering`."""
        return self._in_order(prompts, lambda asked: self.model.next_tokens(asked, k))

    def _in_order(self, asked: Sequence[Any], ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
        order = list(range(len(asked)))
        random.Random(SEED).shuffle(order)
        found = dict(zip(order, ask([asked[place] for place in order]), strict=True))
        return [found[place] for place in range(len(asked))]


def _compared(told: str, first: Measurement, again: Measurement) -> Repeat:
    before = {case.probe: case.value for case in first.values}
    now = {case.probe: case.value for case in again.values}
    both = [(one, other) for probe, one in before.items() if one is not None and (other := now.get(probe)) is not None]
    flips = sum(abs(one - other) > _ROUNDED for one, other in both)
    valid = {probe for values in (before, now) for probe, value in values.items() if value is not None}
    return Repeat(
        variant=told,
        difference=abs(sum(other - one for one, other in both)) / len(both) if both else None,
        flips=flips + len(valid) - len(both),
    )
