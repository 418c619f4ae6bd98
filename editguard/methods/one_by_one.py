"""One request after another: the course of the methods that insert a single fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from editguard.edited import AppliedEdit, EditedModel, stack_kept
from editguard.edits import EditRequest, first_mentions, refuse_conflicts


def one_by_one(
    edited: EditedModel, requests: Sequence[EditRequest], edit: Callable[[EditedModel, EditRequest], AppliedEdit]
) -> EditedModel:
    """Return `edited` with the requests on top, each edited on the model that the ones before have left.

    They are one batch all the same: identical requests count once, and the later ones say which they repeat.

    Args:
        edit: one request's update of a model.

    Raises: ConflictingEdits: two requests want different targets for one fact. Whatever `edit` does.
    """
    refuse_conflicts(requests)
    first, made = first_mentions(requests), list[AppliedEdit]()
    with stack_kept(edited.model):
        for position, request in enumerate(requests):
            if first[position] == position:
                made.append(edit(edited, request))
            else:
                before = made[first[position]]
                kept = {name: before.record[name] for name in ("settings", "provenance")}
                made.append(AppliedEdit(before.method, (request,), (), {**kept, "duplicate_of": first[position]}, 0.0))
            edited = edited.extended(made[-1])
    return edited
