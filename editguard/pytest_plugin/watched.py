"""A model under test that tells the plugin of every measurement taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from editguard.edits import Probe, Property
from editguard.measurements import Answering, Measurement, ModelUnderTest, NoiseFloor, Remembered, noise_floor
from editguard.measurements.answering import Switchable


class WatchedModel(ModelUnderTest):
    """What the fixtures hand out: `ModelUnderTest`, whose measurements also reach the summary."""

    _report: Callable[[Measurement], None] | None = None
    _aged: dict[str, ModelUnderTest] | None = None

    def after(self, fate: str) -> WatchedModel:
        """This model after what happens to its weights before use; the model to compare with has met the same.

        Locality then tells what the edits do beyond what that alone does. Measurements bear the fate in the method's
        name, "rome after int8", so that they have baselines of their own.

        Args:
            fate: "bfloat16", "float16", "int8" or "int4"; see `editguard.release.survival`.

        Raises: ConfigurationError: there is no such fate.
        """
        from editguard.edited import EditedModel
        from editguard.release.survival import aged

        edited, rest = self._edited, self._rest
        assert isinstance(edited, EditedModel)
        assert isinstance(rest, EditedModel)
        known = self._aged if self._aged is not None else {}
        if fate not in known:
            known[fate] = ModelUnderTest(aged(rest, fate))
        model = WatchedModel(
            known[fate]._edited if edited is rest else aged(edited, fate),
            original=None if edited is rest else known[fate],
            cases=self.cases,
            method=f"{self.method} after {fate}",
            mode=self.mode,
            model=self.model,
            tasks=self._tasks,
            limit=self._limit,
        )
        return (model.sharing(known[fate]) if edited is rest else model).reporting(self._report)

    def ageing(self, known: dict[str, ModelUnderTest]) -> Self:
        """Share what unedited models were asked after each fate: `known` by the fate."""
        self._aged = known
        return self

    _keep: Callable[[str, Callable[[], NoiseFloor]], None] | None = None

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

    def repeatable(self, keep: Callable[[str, Callable[[], NoiseFloor]], None] | None) -> Self:
        """Call `keep` for every measurement with its id and what measures its noise floor; returns itself."""
        self._keep = keep
        return self

    def anew(self, asked: Callable[[Switchable], Answering] | None = None) -> Self:
        """See `ModelUnderTest.anew`; what is measured then is nobody's business."""
        return super().anew(asked).reporting(None).repeatable(None)

    def _took(self, found: Measurement, take: Callable[[ModelUnderTest], Measurement]) -> None:
        if self._keep is not None:
            self._keep(found.id, lambda: noise_floor(self, take, found))

    def _measure(self, property: Property, kind: str | None, tasks: Sequence[Probe] | None = None) -> Measurement:
        measurement = super()._measure(property, kind, tasks)
        if self._report is not None:
            self._report(measurement)
        return measurement
