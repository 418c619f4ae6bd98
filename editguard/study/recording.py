"""Where finished parts go: into the folder, whoever has done them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from editguard.study.items import Item, divided
from editguard.study.plan import UNEDITED, Cell, Plan
from editguard.study.progress import Estimate

if TYPE_CHECKING:
    from editguard.edits import EditCase
    from editguard.measurements import PhaseCost
    from editguard.study.folder import StudyFolder


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished part.

    Attributes:
        cells: that it is a part of; a batch and a checkpoint of one chain are the same state.
        name: of the part.
        values: one record per value.
        end: the line that completes the part.
        cost: what it took, in plain data.
    """

    cells: tuple[Cell, ...]
    name: str
    values: Sequence[Mapping[str, Any]]
    end: Mapping[str, Any]
    cost: Mapping[str, Any]


class Sink(Protocol):
    """Takes what a bench has done.

    Attributes:
        states: where edits and answers of states under way are kept; nobody else keeps any there under the same names.
        original: the name of the unedited model's answers there.
    """

    @property
    def states(self) -> StudyFolder: ...

    @property
    def original(self) -> str: ...

    def prepared(self, method: str, cost: PhaseCost | None) -> None:
        """A method is ready, or has refused; None where it has nothing to prepare."""

    def add(self, done: Done) -> None:
        """A part is finished."""

    def forget(self, state: str) -> None:
        """All parts of a state under way are finished."""


class Recorder:
    """Writes to a folder, whose lock the caller holds, and tells how far the study is."""

    original = UNEDITED

    def __init__(self, plan: Plan, cases: Sequence[EditCase], folder: StudyFolder, told: Callable[[str], None]) -> None:
        self.folder = self.states = folder
        self.told = told
        self.estimate = Estimate()
        self._parts = {cell: plan.parts(cell, cases) for name in (UNEDITED, *plan.methods) for cell in plan.cells(name)}
        self._missing = {
            cell: missing for cell, names in self._parts.items() if (missing := self._not_in_the_folder(cell, names))
        }
        for cell, missing in self._missing.items():
            for _ in missing:
                self.estimate.expect(cell.method, cell.size)

    def items(self, *, workers: int = 1) -> list[Item]:
        """What the folder did not hold at the beginning."""
        return divided(self._missing, workers=workers)

    def prepared(self, method: str, cost: PhaseCost | None) -> None:
        """See `Sink`."""
        if cost is not None:
            self.folder.add_cost({"method": method, "costs": [cost.to_json()]})

    def add(self, done: Done) -> None:
        """See `Sink`; the part is on the disk when this returns."""
        for cell in done.cells:
            self.folder.add_cost({"cell": cell.name, "part": done.name, **done.cost})
            self.folder.add(cell, done.name, done.values, done.end)
            self.estimate.did(cell.method, cell.size)
        self.folder.forget_answers(done.cells[0].name)
        self.told(f"{done.cells[0].name}, part {done.name}{_noted(done.end['failed'])}; {self.estimate.text()}")

    def forget(self, state: str) -> None:
        """See `Sink`."""
        self.folder.forget_state(state)

    def arrange(self) -> None:
        """Bring the parts of each file into the order of the plan, whatever order they came in."""
        for cell, names in self._parts.items():
            self.folder.arrange(cell, names)

    def forget_all(self) -> None:
        """Remove what killed processes may have left of states whose parts are complete now."""
        states = {cell.name for cell in self._parts} | {sequence_name(cell.method, cell.order) for cell in self._parts}
        for state in states:
            self.folder.forget_state(state)
        self.folder.forget_answers(UNEDITED)
        for path in self.folder.answers_file(f"{UNEDITED}-*").parent.glob(f"{UNEDITED}-*-answers.jsonl"):
            self.folder.forget_answers(path.name.removesuffix("-answers.jsonl"))

    def _not_in_the_folder(self, cell: Cell, names: Sequence[str]) -> list[str]:
        complete = self.folder.parts(cell)
        return [name for name in names if name not in complete]


def sequence_name(method: str, order: int) -> str:
    """Under which the state of a sequence is kept."""
    return f"{method}-order-{order}" if order else method


def _noted(failures: Sequence[Mapping[str, str]]) -> str:
    if not failures:
        return ""
    return f" ({len(failures)} {failures[0]['reason']}: {failures[0]['message']})"
