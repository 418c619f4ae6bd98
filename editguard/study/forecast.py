"""What a plan asks for, what of it a folder holds, and how long the rest may take, before any model is loaded.

Amounts follow from the cases alone. Seconds come from what earlier work of the same method was measured to take, at the
size that is nearest; a method that was never measured is unknown, and gets no number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tabulate import tabulate

from editguard.edits import EditCase, Probe
from editguard.measurements import AnsweringCost, PhaseCost
from editguard.methods.registry import methods
from editguard.study.evaluation import questions, tasks_in_turn
from editguard.study.folder import StudyFolder
from editguard.study.items import kind_of
from editguard.study.plan import MODES, UNEDITED, Cell, Plan
from editguard.study.progress import duration

_HEADERS: Final = ("cell", "edits", "questions", "parts held", "left", "judged by")
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        edits: to apply; of a checkpoint those since the one before.
        questions: to ask an edited model, at most.
        states: of the model that are asked.
    """

    edits: int
    questions: int
    states: int


@dataclass(frozen=True)
class Pace:
    """What a cell's work took in the mean, in seconds.

    Attributes:
        cell: that was measured.
        edit, question, state: of an edit, of a question, and of timing the passes of a state.
    """

    cell: Cell
    edit: float
    question: float
    state: float

    def seconds(self, work: Work) -> float:
        """How long work takes at this pace."""
        return work.edits * self.edit + work.questions * self.question + work.states * self.state


@dataclass(frozen=True)
class Expected:
    """One cell of a plan.

    Attributes:
        cell: method, mode and size.
        edits: in force in its states; single edits are counted together.
        questions: to all of its states together, at most.
        parts, held: of the cell, and those that the folder holds.
        left: the work of the parts that it does not hold.
        pace: by which that is judged; None where the method was not measured.
    """

    cell: Cell
    edits: int
    questions: int
    parts: int
    held: int
    left: Work
    pace: Pace | None

    @property
    def seconds(self) -> float | None:
        """Of the work that is left; None where nobody knows."""
        if self.held == self.parts:
            return 0.0
        return None if self.pace is None else self.pace.seconds(self.left)


@dataclass(frozen=True)
class Forecast:
    """A plan before it runs.

    Attributes:
        cells: in the order of the work.
        preparing: method -> seconds of its preparation, of those that have something left and were measured.
        workers: how many processes share the work.
    """

    cells: tuple[Expected, ...]
    preparing: Mapping[str, float]
    workers: int = 1

    @property
    def seconds(self) -> float:
        """Of all that is known."""
        return sum(each.seconds or 0.0 for each in self.cells) + sum(self.preparing.values())

    @property
    def shared_seconds(self) -> float:
        """Until the last worker is done: no less than the longest chain takes, which one of them does alone."""
        chains: dict[tuple[str, int], float] = defaultdict(float)
        for each in self.cells:
            if kind_of(each.cell) == "sequence":
                chains[each.cell.method, each.cell.order] += each.seconds or 0.0
        return max(self.seconds / self.workers, *chains.values(), 0.0)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The methods whose time is unknown."""
        return tuple(dict.fromkeys(each.cell.method for each in self.cells if each.seconds is None))

    def time(self) -> str:
        """The time in words."""
        left = {each.cell.method for each in self.cells if each.held < each.parts}
        if not left:
            return "nothing left to do"
        if left <= set(self.unknown):
            return "time unknown"
        names = ", ".join("(no edit)" if name == UNEDITED else name for name in self.unknown)
        by = f" with {self.workers} workers" if self.workers > 1 else ""
        return f"about {duration(self.shared_seconds)}{by}" + (f", and unknown for {names}" if names else "")

    def short(self) -> str:
        """One line: cells, parts left and time."""
        parts = sum(each.parts for each in self.cells)
        left = parts - sum(each.held for each in self.cells)
        return f"{len(self.cells)} cells, {left} of {parts} parts left, {self.time()}"

    def text(self) -> str:
        """A table of the cells, the preparations, and the line of `short`."""
        lines = [
            (
                each.cell.name,
                each.edits,
                each.questions,
                f"{each.held} of {each.parts}",
                _UNKNOWN if each.seconds is None else duration(each.seconds),
                each.pace.cell.name if each.pace is not None and each.held < each.parts else "",
            )
            for each in self.cells
        ]
        table = tabulate(lines, headers=_HEADERS, disable_numparse=True, colalign=("left", *["right"] * 4, "left"))
        preparing = [f"{name}: {duration(seconds)} of preparing" for name, seconds in self.preparing.items()]
        return "\n".join([table, "", *preparing, self.short()])


def forecast(
    plan: Plan,
    cases: Sequence[EditCase],
    folder: StudyFolder,
    *,
    tasks: Sequence[Probe] = (),
    measured: Sequence[StudyFolder] = (),
    workers: int = 1,
) -> Forecast:
    """Lay out a plan over cases, of which `folder` may hold a part already.

    Args:
        tasks: items of other tasks.
        measured: folders whose costs are known; a method's come from the first that has it.
        workers: how many processes share the work.

    Raises: MalformedRecord: a record of a folder cannot be read.
    """
    paces: dict[str, list[Pace]] = {}
    preparations: dict[str, float] = {}
    for each in measured:
        found, prepared = measured_paces(each)
        for name in found.keys() - paces.keys():
            paces[name] = found[name]
            if name in prepared:
                preparations[name] = prepared[name]
    cells = [
        expected
        for name in (UNEDITED, *plan.methods)
        for expected in _cells(plan, name, cases, folder, tasks, paces.get(name, []))
    ]
    unfinished = dict.fromkeys(each.cell.method for each in cells if each.held < each.parts)
    return Forecast(tuple(cells), {name: preparations[name] for name in unfinished if name in preparations}, workers)


def measured_paces(folder: StudyFolder) -> tuple[dict[str, list[Pace]], dict[str, float]]:
    """What a folder's work took: method -> a pace for each cell, and method -> seconds of its first preparation.

    Later preparations find on disk what the first has made, on the same machine; so they are shorter at most.
    """
    prepared: dict[str, float] = {}
    spent: dict[Cell, dict[str, tuple[list[PhaseCost], float]]] = defaultdict(dict)
    for record in folder.costs():
        costs = [PhaseCost.from_json(cost) for cost in record["costs"]]
        if "cell" not in record:
            prepared.setdefault(record["method"], sum(cost.seconds for cost in costs))
            continue
        timing = AnsweringCost.from_json(record["answering"]).spent if "answering" in record else 0.0
        spent[Cell.named(record["cell"])][record["part"]] = (costs, timing)
    found: dict[str, list[Pace]] = defaultdict(list)
    for cell, parts in spent.items():
        records = folder.parts(cell)
        known = {name: part for name, part in parts.items() if name in records and records[name].values}
        costs = [cost for of_part, _ in known.values() for cost in of_part]
        edits = sum(cost.edits for cost in costs)
        asked = sum(len(records[name].values) for name in known)
        if not asked or (not edits and cell.method != UNEDITED):
            continue  # all was refused, which says nothing of what an edit takes
        found[cell.method].append(
            Pace(
                cell,
                edit=sum(cost.seconds for cost in costs if cost.phase == "edit") / (edits or 1),
                question=sum(cost.seconds for cost in costs if cost.phase == "evaluate") / asked,
                state=sum(timing for _, timing in known.values()) / len(known),
            )
        )
    return dict(found), prepared


def _cells(
    plan: Plan,
    name: str,
    cases: Sequence[EditCase],
    folder: StudyFolder,
    tasks: Sequence[Probe],
    paces: Sequence[Pace],
) -> Iterator[Expected]:
    """The cells of a method; checkpoints of one chain share its edits."""
    chained = name != UNEDITED and not methods()[name].batches
    applied, asked = dict[int, int](), set[tuple[int, int]]()
    missing = {
        cell: [part for part in plan.parts(cell, cases) if part not in folder.parts(cell)] for cell in plan.cells(name)
    }
    for cell in sorted(missing, key=lambda cell: (cell.mode in _chain(chained), cell.size)):
        parts = plan.parts(cell, cases)
        each = {part: _questions(cell, part, plan.ordered(cases, cell.order), tasks) for part in parts}
        alone = cell.mode == "single" and name != UNEDITED
        left = Work(0, 0, 0)
        if missing[cell] and name != UNEDITED and cell.mode in _chain(chained):
            again = (cell.order, cell.size) in asked  # a batch and a checkpoint of one chain are one state
            left = Work(cell.size - applied.get(cell.order, 0), 0 if again else sum(each.values()), 0 if again else 1)
            applied[cell.order] = cell.size
            asked.add((cell.order, cell.size))
        elif missing[cell]:
            states = 0 if name == UNEDITED else len(missing[cell])
            edits = 0 if name == UNEDITED else len(missing[cell]) if alone else cell.size
            left = Work(edits, sum(each[part] for part in missing[cell]), states)
        yield Expected(
            cell=cell,
            edits=0 if name == UNEDITED else len(parts) if alone else cell.size,
            questions=sum(each.values()),
            parts=len(parts),
            held=len(parts) - len(missing[cell]),
            left=left,
            pace=_nearest(cell, paces),
        )


def _chain(chained: bool) -> Sequence[str]:
    """The modes whose cells are states of one growing chain."""
    return ("batch", "sequence") if chained else ("sequence",)


def _questions(cell: Cell, part: str, cases: Sequence[EditCase], tasks: Sequence[Probe]) -> int:
    if cell.mode == "single" and cell.method != UNEDITED:
        position = int(part.partition("-")[0])
        return questions(cases[position : position + 1], tasks_in_turn(tasks, position))
    return questions(cases[: cell.size], tasks)


def _nearest(cell: Cell, paces: Sequence[Pace]) -> Pace | None:
    """Of the same mode where there is one, and of these the size whose ratio to the cell's is nearest to 1."""
    return min(
        paces,
        key=lambda pace: (
            pace.cell.mode != cell.mode,
            abs(math.log(pace.cell.size / cell.size)),
            MODES.index(pace.cell.mode),
        ),
        default=None,
    )
