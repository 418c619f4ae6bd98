"""A sequence under way, and its last state on disk, from which a process goes on that follows a killed one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard.edited.chain_file import read_chain, write_chain
from editguard.measurements import PhaseCost

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.models.language_model import LanguageModel

SAVED_EVERY: Final = 10
"""After so many edits, and at each checkpoint, the state of a sequence is saved."""


@dataclass
class Chain:
    """What a sequence is after some of its edits.

    Attributes:
        edited: the model with those in force that did not fail.
        done: how many edits were tried, from the first on.
        standing: positions of the cases that are in force.
        failures: of the others, one record each.
        costs: of the edits since the last checkpoint.
    """

    edited: EditedModel
    done: int = 0
    standing: list[int] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    costs: list[PhaseCost] = field(default_factory=list)

    def save(self, path: Path, *, at_checkpoint: bool) -> bool:
        """Write the state in place of the one before; returns whether the chain is of a kind that can be written.

        at_checkpoint: whether the costs belong to a checkpoint here.

        Raises: CacheError: see `write_chain`.
        """
        notes = {
            "done": self.done,
            "standing": self.standing,
            "failures": self.failures,
            "costs": [cost.to_json() for cost in self.costs],
            "at_checkpoint": at_checkpoint,
        }
        return write_chain(path, self.edited, notes)


def saved_chain(path: Path, model: LanguageModel, *, first: int) -> Chain | None:
    """The state that was saved last, if it is not beyond the first checkpoint that is asked for.

    A file that is damaged counts as none.
    """
    found = read_chain(path, model)
    if found is None or found[1]["done"] > first:
        return None
    edited, notes = found
    belong = not notes["at_checkpoint"] or notes["done"] == first
    costs = [PhaseCost.from_json(cost) for cost in notes["costs"]] if belong else []
    return Chain(edited, notes["done"], notes["standing"], notes["failures"], costs)
