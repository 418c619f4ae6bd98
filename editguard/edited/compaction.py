"""Forgetting the states of a sequence that nobody asks for, where each would hold a matrix of its own.

A low-rank update of a matrix is small, and a thousand of them are kept as they stand. A dense one is as large as the
matrix. Of dense updates in a row only their sum is needed, unless a state between them is asked for again; of side
memories, which hold all that those before them hold, only the newest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from editguard.edited.edited_model import AppliedEdit, EditedModel
from editguard.edited.side_memory import SideMemory
from editguard.edited.weight_delta import WeightDelta
from editguard.models.weights import LowRank

if TYPE_CHECKING:
    from editguard.models.language_model import Change


def compacted(chain: EditedModel, keep: Collection[int]) -> dict[int, EditedModel]:
    """Return the states of a chain after so many of its edits, by that number; those in between are given up.

    A state has the bytes that `chain.prefix(number)` has. The states share what they have in common.

    Raises: ValueError: a number is negative, or the chain has fewer edits.
    """
    states: dict[int, EditedModel] = {}
    compact, done = EditedModel.original(chain.model), 0
    for number in sorted(set(keep)):
        missing = chain.prefix(number).edits[done:]
        compact = merged(EditedModel(chain.model, (*compact.edits, *missing)), since=len(compact.edits))
        states[number], done = compact, number
    return states


def merged(chain: EditedModel, since: int) -> EditedModel:
    """Return the chain with neighbouring dense edits of one method merged into one, from position `since` on.

    The model answers the same, and its bytes are the same. Merged edits cannot be told apart any more: the chain is
    shorter, and the states between them are gone. Edits that hold anything else than dense updates, or than side
    memories, stay as they are, so that a method finds in the chain what it has left there. Merging again after each
    edit holds a sequence at one matrix per position that was left out of `since`, whatever its length.
    """
    edits = list(chain.edits[:since])
    for stretch in _stretches(chain.edits[since:]):
        before = EditedModel(chain.model, edits)
        edits += [_one(before, stretch)] if len(stretch) > 1 else stretch
    return EditedModel(chain.model, edits)


def _stretches(edits: Sequence[AppliedEdit]) -> Iterator[list[AppliedEdit]]:
    """The edits in order: those of one method that can be merged together, every other one alone."""
    for (kind, _), neighbours in groupby(edits, lambda edit: (_mergeable(edit), edit.method)):
        if kind is not None:
            yield list(neighbours)
        else:
            yield from ([edit] for edit in neighbours)


def _mergeable(edit: AppliedEdit) -> type | None:
    """The type of all of an edit's changes, where these can be merged with others of the type; dense without any."""
    if edit.changes and all(type(change) is SideMemory for change in edit.changes):
        return SideMemory
    dense = all(
        type(change) is WeightDelta and not any(isinstance(delta, LowRank) for delta in change.deltas.values())
        for change in edit.changes
    )
    return WeightDelta if dense else None


def _one(before: EditedModel, stretch: Sequence[AppliedEdit]) -> AppliedEdit:
    """Merge edits on top of a chain into one."""
    added = [change for edit in stretch for change in edit.changes]
    side = _mergeable(stretch[0]) is SideMemory
    changes = _newest_of_each_matrix(added) if side else _summed(before, added)
    return AppliedEdit(
        stretch[-1].method,
        tuple(request for edit in stretch for request in edit.requests),
        changes,
        {**stretch[-1].record, "merged": [line for edit in stretch for line in _records(edit)]},
        sum(edit.seconds for edit in stretch),
    )


def _newest_of_each_matrix(added: Sequence[Change]) -> tuple[Change, ...]:
    memories = [change for change in added if isinstance(change, SideMemory)]
    newest = {id(memory.matrix.module): memory for memory in memories}
    return tuple(memory for memory in memories if newest[id(memory.matrix.module)] is memory)


def _summed(before: EditedModel, added: Sequence[Change]) -> tuple[Change, ...]:
    """Dense updates as one that sets their sum."""
    stack = [change.deltas for change in (*before.changes, *added) if isinstance(change, WeightDelta)]
    names = {name for change in added if isinstance(change, WeightDelta) for name in change.deltas}
    totals = before.model.weights.totals(stack, names)
    return (WeightDelta(totals),) if totals else ()


def _records(edit: AppliedEdit) -> list[object]:
    """The records of the edits that an edit was merged from, or its own."""
    earlier = edit.record.get("merged")
    return list(earlier) if earlier is not None else [dict(edit.record)]
