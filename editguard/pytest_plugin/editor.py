"""Edits that are drawn while a test runs: applied for a block, and taken back behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from editguard.edits import EditCase, EditRequest, as_cases, refuse_conflicts

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.measurements import ModelUnderTest

Edits = EditRequest | EditCase | Iterable[EditRequest | EditCase]


class Editor:
    """What the fixture `editor` hands out: `with editor(request) as edited: ...`."""

    def __init__(
        self,
        base: EditedModel,
        apply: Callable[[EditedModel, Sequence[EditRequest]], EditedModel],
        under_test: Callable[[EditedModel, tuple[EditCase, ...]], ModelUnderTest],
    ) -> None:
        """Edit on top of `base`.

        Args:
            base: the model with the edits that the test's mark declares; without a mark the original one.
            apply: the method under test.
            under_test: what to hand out for an edited model and the cases applied on top.
        """
        self._base, self._apply, self._under_test = base, apply, under_test
        self._open: dict[int, EditedModel] = {}

    @contextmanager
    def __call__(self, *edits: Edits, on: ModelUnderTest | None = None) -> Iterator[ModelUnderTest]:
        """Apply requests or cases together for the length of a `with` block.

        Args:
            edits: what to apply, one batch.
            on: the model of an enclosing block, to edit on top of it; by default the test's own state.

        Raises: InvalidEdit, ConflictingEdits: the edits cannot be applied together. MethodRefused: the method
            cannot do it on this model. ValueError: `on` is no model of an open block.
        """
        single = (EditRequest, EditCase)
        cases = as_cases([one for edit in edits for one in ((edit,) if isinstance(edit, single) else edit)])
        requests = [case.request for case in cases]
        refuse_conflicts(requests)
        if on is not None and id(on) not in self._open:
            raise ValueError("`on` is the model of an enclosing `with editor(...)` block.")
        base = self._base if on is None else self._open[id(on)]
        edited = self._apply(base, requests)
        model = self._under_test(edited, cases)
        self._open[id(model)] = edited
        try:
            with edited:
                yield model
        finally:
            del self._open[id(model)]
