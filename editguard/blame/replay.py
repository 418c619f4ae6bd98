"""Models with some of a chain's edits in force: from the recorded changes, or applied anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from editguard.edited import AddedNeurons, AppliedEdit, EditedModel, WeightDelta, merged
from editguard.edited.key_memory import KeyMemory
from editguard.models.weights import Total

if TYPE_CHECKING:
    from editguard.edits import EditRequest

Apply = Callable[[EditedModel, Sequence["EditRequest"]], EditedModel]


def stands_alone(edit: AppliedEdit) -> bool:
    """Whether an edit's changes can be in force without those before it: one request's additions, and no sum.

    A memory of edits, for example, holds all rows before it.
    """
    return len(edit.requests) == 1 and separable(edit)


def separable(edit: AppliedEdit) -> bool:
    """Whether what an edit left behind can be in force without what those before it left."""
    return all(
        isinstance(change, AddedNeurons | KeyMemory)
        or (isinstance(change, WeightDelta) and not any(isinstance(delta, Total) for delta in change.deltas.values()))
        for change in edit.changes
    )


class Replay:
    """The edits of one group, any of which can be left out.

    An update that was computed on top of others is another one when it is computed without them; the recorded one says
    what it did, and costs nothing to put in force.

    Attributes:
        recorded: whether `model` uses the recorded changes.
    """

    def __init__(self, chain: EditedModel, requests: Sequence[EditRequest], apply: Apply, *, together: bool) -> None:
        """Look at a chain.

        Args:
            chain: the model with all of the edits.
            requests: what was applied, in order.
            apply: the method.
            together: whether the requests were one batch.
        """
        self._chain = chain
        self._requests = tuple(requests)
        self._apply = apply
        self._together = together
        self.recorded = len(chain.edits) == len(self._requests) and all(map(stands_alone, chain.edits))

    def model(self, subset: Sequence[int], before_each: Callable[[], None] = lambda: None) -> EditedModel:
        """The model with the edits at these places in force, in their order.

        Args:
            subset: places of edits, ascending.
            before_each: called before each application, where the method is applied anew; what it raises ends that.

        Raises: MethodRefused: the method is applied anew, and refuses.
        """
        if len(subset) == len(self._requests):
            return self._chain
        if self.recorded:
            return EditedModel(self._chain.model, [self._chain.edits[place] for place in subset])
        return self.anew(subset, before_each)

    def anew(self, subset: Sequence[int], before_each: Callable[[], None] = lambda: None) -> EditedModel:
        """The same edits, applied as if there had never been others; the physical model is left without any edit.

        Args: as for `model`.

        Raises: MethodRefused.
        """
        chosen = [self._requests[place] for place in subset]
        rest = chain = EditedModel.original(self._chain.model)
        try:
            for part in [chosen] if self._together and chosen else [[request] for request in chosen]:
                before_each()
                chain.activate()
                chain = merged(self._apply(chain, part), since=0)
        finally:
            rest.activate()
        return chain
