"""What is left of the i-th edit after n edits, as tables of shares with a colour, their text, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from editguard.measurements.record import Measurement
from editguard.measurements.retention import passed
from editguard.report.palette import heat
from editguard.report.sequences import Grown

MOST_COLUMNS: Final = 20
"""Of longer sequences neighbouring edits share a column."""
MOST_EDITS: Final = 200
"""Edits that are named one by one at most."""
State = Literal["holds", "lost", "superseded", "not asked"]
SIGNS: Final[Mapping[State, str]] = {"holds": "✓", "lost": "✗", "superseded": "–", "not asked": "?"}


@dataclass(frozen=True)
class Cell:
    """Edits of one column after so many edits.

    Attributes:
        text: what stands in the cell; "" where the edits are not made yet.
        told: the same in words.
        ground, ink: colours; "" where there is no share.
    """

    text: str
    told: str
    ground: str = ""
    ink: str = ""


@dataclass(frozen=True)
class NamedEdit:
    """An edit that was lost at a checkpoint: its number, in words, and its state at each checkpoint."""

    number: int
    text: str
    states: tuple[State | None, ...]


@dataclass(frozen=True)
class RetentionMap:
    """The matrix of one method on one sequence.

    Attributes:
        columns: the edits of each, in words.
        rows: per checkpoint its cells.
        told: per checkpoint a sentence.
        lost: edits that were lost at some checkpoint, the first ones.
        more_lost: how many further ones there are.
    """

    method: str
    checkpoints: tuple[int, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    told: str
    lost: tuple[NamedEdit, ...]
    more_lost: int


def retention_maps(sequence: Grown, texts: Mapping[str, str]) -> list[RetentionMap]:
    """The maps of a sequence, one for each method whose edits were asked again at a checkpoint.

    Args:
        texts: id of a request -> the edit in words.
    """
    maps = []
    for method in sequence.methods:
        own = [one for one in sequence.measurements if one.method == method and one.name == "reliability"]
        if own:
            maps.append(_map(method, sequence.edit_ids, own, texts))
    return maps


def _map(method: str, edits: Sequence[str], own: Sequence[Measurement], texts: Mapping[str, str]) -> RetentionMap:
    checkpoints = sorted({one.edits for one in own})
    states = {n: _states(edits[:n], [one for one in own if one.edits == n]) for n in checkpoints}
    last = checkpoints[-1]
    width = -(-last // MOST_COLUMNS)
    bins = [range(start, min(start + width, last)) for start in range(0, last, width)]
    columns = [str(each[0] + 1) if len(each) == 1 else f"{each[0] + 1}–{each[-1] + 1}" for each in bins]
    lost = [
        NamedEdit(
            place + 1, texts.get(edits[place], ""), tuple(states[n][place] if place < n else None for n in checkpoints)
        )
        for place in range(last)
        if any(place < n and states[n][place] == "lost" for n in checkpoints)
    ]
    return RetentionMap(
        method=method,
        checkpoints=tuple(checkpoints),
        columns=tuple(columns),
        rows=tuple(tuple(_cell(states[n], each) for each in bins) for n in checkpoints),
        told="; ".join(f"{_counted(states[n])} after {n}" for n in checkpoints),
        lost=tuple(lost[:MOST_EDITS]),
        more_lost=max(0, len(lost) - MOST_EDITS),
    )


def _states(edits: Sequence[str], measurements: Sequence[Measurement]) -> list[State]:
    """The state of each edit; one that several measurements asked holds where it does in all of them."""
    outcomes: dict[str, bool] = {}
    for one in measurements:
        for edit, right in passed(one).items():
            outcomes[edit] = outcomes.get(edit, True) and right
    gone = {edit for one in measurements for edit in one.superseded_edits}
    return [_state(outcomes.get(edit), edit in gone) for edit in edits]


def _state(right: bool | None, superseded: bool) -> State:
    if superseded:
        return "superseded"
    if right is None:
        return "not asked"
    return "holds" if right else "lost"


def _cell(states: Sequence[State], places: range) -> Cell:
    """The cell of some edits, of which only the first ones may have been made."""
    made = [states[place] for place in places if place < len(states)]
    if not made:
        return Cell("", "not made yet")
    known = [state for state in made if state in ("holds", "lost")]
    if len(places) == 1:
        [state] = made
        colours = heat(float(state == "holds")) if known else ("", "")
        return Cell(SIGNS[state], state, *colours)
    if not known:
        return Cell(SIGNS[made[0]], _counted(made))
    share = known.count("holds") / len(known)
    return Cell(f"{share:.2f}", _counted(made), *heat(share))


def _counted(states: Sequence[State]) -> str:
    known = [state for state in states if state in ("holds", "lost")]
    notes = [f"{number} {name}" for name in ("superseded", "not asked") if (number := states.count(name))]
    told = f"{known.count('holds')} of {len(known)} hold"
    return f"{told} ({', '.join(notes)})" if notes else told
