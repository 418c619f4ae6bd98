"""A model under test that tells the plugin of every measurement taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from editguard.edits import Probe, Property
from editguard.measurements import Measurement, ModelUnderTest, Remembered


class WatchedModel(ModelUnderTest):
    """What the fixtures hand out: `ModelUnderTest`, whose measurements also reach the summary."""

    _report: Callable[[Measurement], None] | None = None

    def sharing(self, original: ModelUnderTest) -> Self:
        """Answer from what `original` was asked before, and remember there; for the unedited model alone."""
        self._answers = self._original = original._answers
        return self

    def remembering(self, known: dict[int, Remembered]) -> Self:
        """Share what was asked with the other tests of the same edits: `known` by the number of edits."""
        self._answers = known.setdefault(self.edits, self._answers)
        return self

    def reporting(self, report: Callable[[Measurement], None] | None) -> Self:
        """Call `report` with every measurement from now on; returns itself."""
        self._report = report
        return self

    def _measure(self, property: Property, kind: str | None, tasks: Sequence[Probe] | None = None) -> Measurement:
        measurement = super()._measure(property, kind, tasks)
        if self._report is not None:
            self._report(measurement)
        return measurement
