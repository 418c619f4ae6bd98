"""Models after what happened to their weights, kept so that each is trained and asked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.measurements import ModelUnderTest
    from editguard.models.language_model import Change
    from editguard.release.survival import Fate

_Known = dict[str, "tuple[Fate, ModelUnderTest]"]


@dataclass
class AgedModels:
    """Of the unedited model and of one edited model, what they are after each fate.

    There are no more of them because each may hold a copy of all weights.
    """

    _kept: dict[bool, tuple[tuple[Change, ...], _Known]] = field(default_factory=dict)

    def after(self, model: EditedModel, fate: Fate, *, unedited: bool) -> ModelUnderTest:
        """The model after a fate, with what it was asked so far.

        Args:
            unedited: whether it is what edited models are compared with.

        Raises: MethodRefused: the fate cannot be done.
        """
        from editguard.measurements import ModelUnderTest
        from editguard.release.survival import aged

        changes, known = self._kept.get(unedited, ((), {}))
        if changes != model.changes:
            known = {}
        self._kept[unedited] = model.changes, known
        found = known.get(fate.label)
        if found is None or found[0] != fate:
            found = known[fate.label] = fate, ModelUnderTest(aged(model, fate))
        return found[1]

    def forget_edited(self) -> None:
        """Let go of what hangs on an edited model."""
        self._kept.pop(False, None)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()
