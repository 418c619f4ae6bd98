"""Edits that are drawn while a test runs: applied for a block, and taken back behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from editguard.edits import EditCase, EditRequest, as_cases
from editguard.pytest_plugin.edit_steps import Edits, EditSteps, batch_of

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.measurements import ModelUnderTest


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

    def steps(self) -> EditSteps:
        """Edits that come and go one after another, on top of the test's own state; see `EditSteps`."""
        return EditSteps(self._base, self._apply, self._under_test)

    def explore(
        self,
        cases: Sequence[EditRequest | EditCase],
        invariant: Callable[[ModelUnderTest], None],
        *,
        steps: int = 6,
        examples: int = 10,
        together: int = 3,
    ) -> None:
        """Add, batch and withdraw edits in any order, and check an invariant after every step; see `exploring`.

        Args:
            cases: what is drawn from; each is in force once at most.
            invariant: asserts what must hold of the model, whatever is in force.
            steps: most steps of an example.
            examples: how many are tried before one fails.
            together: most edits of a batch.

        Raises: AssertionError: of the shortest example that was found, with a test to paste that repeats it.
        """
        from editguard.pytest_plugin.exploring import explore

        explore(self.steps, as_cases(list(cases)), invariant, steps=steps, examples=examples, together=together)

    @contextmanager
    def __call__(self, *edits: Edits, on: ModelUnderTest | None = None) -> Iterator[ModelUnderTest]:
        """Apply requests or cases together for the length of a `with` block.

        Args:
            edits: what to apply, one batch.
            on: the model of an enclosing block, to edit on top of it; by default the test's own state.

        Raises: InvalidEdit, ConflictingEdits: the edits cannot be applied together. MethodRefused: the method
            cannot do it on this model. ValueError: `on` is no model of an open block.
        """
        cases = batch_of(edits)
        requests = [case.request for case in cases]
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
