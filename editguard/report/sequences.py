"""The growing sequences among a run's measurements: which of them belong to one sequence, at which checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from editguard.measurements.drift import CURVE
from editguard.measurements.record import Measurement


@dataclass(frozen=True)
class Grown:
    """One sequence.

    Attributes:
        edit_ids: of all its edits, as far as it was looked at.
        measurements: of its checkpoints and all methods.
    """

    edit_ids: tuple[str, ...]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def checkpoints(self) -> list[int]:
        """After how many edits it was looked at."""
        return sorted({one.edits for one in self.measurements})

    @property
    def methods(self) -> list[str]:
        """In the order of the measurements."""
        return list(dict.fromkeys(one.method for one in self.measurements))


def grown_sequences(measurements: Sequence[Measurement]) -> list[Grown]:
    """Put the measurements of sequences together by their edits, in the order of the measurements.

    What joins all checkpoints in one measurement is left out, and so are sequences with one checkpoint.
    """
    chosen = [one for one in measurements if one.mode == "sequence" and one.edits and not one.name.endswith(CURVE)]
    found: list[Grown] = []
    for one in sorted(chosen, key=lambda one: -one.edits):
        known = next((each for each in found if each.edit_ids[: one.edits] == one.edit_ids), None)
        if known is None:
            found.append(known := Grown(one.edit_ids))
        known.measurements.append(one)
    place = {id(one): at for at, one in enumerate(chosen)}
    for each in found:
        each.measurements.sort(key=lambda one: place[id(one)])
    found.sort(key=lambda each: place[id(each.measurements[0])])
    return [each for each in found if len(each.checkpoints) > 1]
