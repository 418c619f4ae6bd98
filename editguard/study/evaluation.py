"""Asking one state of the model everything, in batches, and putting the answers into records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

from editguard.edits import PROPERTIES, EditCase, Probe, Property, superseded
from editguard.measurements import Answering, Measurement, measure
from editguard.measurements.fluency import Continuing, continuing, fluency
from editguard.measurements.selection import select
from editguard.probes import probes_of

if TYPE_CHECKING:
    from editguard.edited import EditedModel

Measured = Property | Literal["fluency"]
MEASURED: Final[tuple[Measured, ...]] = (*PROPERTIES, "fluency")
COMPARED: Final[tuple[Measured, ...]] = ("portability", "locality", "other_tasks")
"""What asks the unedited model too: for its own answers, or for what it must know."""
SINGLE_TASKS: Final = 8
"""About so many items of other tasks are asked after each single edit; over the edits all of them are."""


def measurements(
    edited: EditedModel,
    original: Answering,
    cases: Sequence[EditCase],
    *,
    tasks: Sequence[Probe] = (),
    by: Answering | None = None,
    continued: Continuing | None = None,
    properties: Sequence[Measured] = MEASURED,
) -> list[Measurement]:
    """Every property that the cases have probes for, and the fluency, of one edited model.

    Args:
        edited: the model with all of `cases` in force.
        original: the unedited model; a `Remembered` one is asked each question once.
        cases: in the order of their application; superseded ones are left out, and counted.
        tasks: items of other tasks.
        by: who answers in the name of `edited`; itself by default.
        continued: who continues text in its name; itself by default.
        properties: which of them.
    """
    found = []
    for name in properties:
        if name == "fluency":
            found.append(fluency(continued or continuing(edited), cases))
        elif _has(name, cases, tasks):
            found.append(measure(name, by or edited, original, cases, tasks=tasks))
    return found


def questions(cases: Sequence[EditCase], tasks: Sequence[Probe] = ()) -> int:
    """How many values `measurements` finds, at most: it leaves out what follows from premises that the unedited model
    does not know, which only the model can tell."""
    standing = len(cases) - len(superseded([case.request for case in cases]))
    asked = [len(select(name, cases, tasks=tasks).asked) for name in PROPERTIES if _has(name, cases, tasks)]
    return standing + sum(asked)  # a continuation of each prompt, for the fluency


def _has(name: Property, cases: Sequence[EditCase], tasks: Sequence[Probe]) -> bool:
    return any(probes_of(case, name) for case in cases) or (name == "other_tasks" and bool(tasks))


def tasks_in_turn(tasks: Sequence[Probe], position: int) -> Sequence[Probe]:
    """The items of other tasks that are asked after the single edit at a position: about `SINGLE_TASKS`, so that all
    edits together have asked all items."""
    stride = max(1, len(tasks) // SINGLE_TASKS)
    return tasks[position % stride :: stride]


def records(
    found: Sequence[Measurement], *, case: str | None = None, keeps_prompts: bool = False
) -> list[dict[str, Any]]:
    """One plain record per value.

    Args:
        found: the measurements of one state of the model.
        case: the only edit in force, which then also owns the values of other tasks.
        keeps_prompts: whether the prompts that memories of edits have written stand in the records.
    """
    lines = []
    for one in found:
        for value in one.values:
            line: dict[str, Any] = {
                "case": value.edit or case or "",
                "property": one.name,
                "kind": value.kind,
                "probe": value.probe,
                "outcome": value.outcome,
                "value": value.value,
                "token_accuracy": value.token_accuracy,
                "unit": one.unit,
                "answer": value.answer,
            }
            if value.agrees is not None:
                line["agrees"] = value.agrees
            if value.lookup is not None:
                line["lookup"] = asdict(value.lookup)
                if not keeps_prompts:
                    del line["lookup"]["sent"]
            lines.append(line)
    return lines


def left_out(found: Sequence[Measurement]) -> dict[str, Any]:
    """How many probes of each property were left out, and which edits a later one superseded."""
    excluded = {one.name: one.excluded for one in found if one.excluded}
    return {"excluded": excluded, "superseded": sorted({name for one in found for name in one.superseded_edits})}
