"""A model under test that tells the plugin of every measurement taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from editguard.edits import Probe, Property
from editguard.errors import ConfigurationError
from editguard.measurements import Answering, Measurement, ModelUnderTest, NoiseFloor, Remembered, noise_floor
from editguard.measurements.answering import Switchable
from editguard.methods.materials import Lines
from editguard.pytest_plugin.ageing import AgedModels


class WatchedModel(ModelUnderTest):
    """What the fixtures hand out: `ModelUnderTest`, whose measurements also reach the summary."""

    _report: Callable[[Measurement], None] | None = None
    _aged: AgedModels | None = None
    _unrelated: Callable[[], Sequence[str]] = tuple

    def after(self, fate: str, *, texts: Sequence[str] | str | Path | None = None, **options: float) -> WatchedModel:
        """This model after what happens to its weights before use; the model to compare with has met the same.

        Locality then tells what the edits do beyond what that alone does. Measurements bear the fate in the method's
        name, "rome after int8", and what was set otherwise than by default, "rome after fine-tuning(steps=100)", so
        that they have baselines of their own.

        Args:
            fate: "bfloat16", "float16", "int8", "int4", "torchao-int8", "torchao-int4", "fine-tuning" or "lora-merge";
                see `editguard.release.survival`.
            texts: what the last two read, or a file with one text a line; by default such as name no subject of the
                edits, of the configured corpus, of the embedded model's world, or else four plain sentences.
            options: of the last two; see `editguard.release.further_training`.

        Raises: ConfigurationError: there is no such fate, or an option or a file cannot be used. MethodRefused: it
            cannot be done to this model.
        """
        from editguard.edited import EditedModel
        from editguard.release.rounding import Rounding
        from editguard.release.survival import known_fate, named_fate

        edited, rest = self._edited, self._rest
        assert isinstance(edited, EditedModel)
        assert isinstance(rest, EditedModel)
        given = _read(texts) if isinstance(texts, str | Path) else texts
        lacks = given is None and not isinstance(known_fate(fate), Rounding)
        met = named_fate(fate, texts=given, otherwise=self._unrelated() if lacks else (), **options)
        known = self._aged if self._aged is not None else AgedModels()
        unedited = known.after(rest, met, unedited=True)
        found = unedited if edited is rest else known.after(edited, met, unedited=False)
        model = WatchedModel(
            found._edited,
            original=None if edited is rest else unedited,
            cases=self.cases,
            method=f"{self.method} after {met.label}",
            mode=self.mode,
            model=self.model,
            tasks=self._tasks,
            limit=self._limit,
        )
        model._answers = found._answers
        if edited is rest:
            model._original = found._answers
        model._unrelated = self._unrelated
        return model.reporting(self._report)

    def ageing(self, known: AgedModels, unrelated: Callable[[], Sequence[str]]) -> Self:
        """Share what models became after each fate; returns itself.

        Args:
            known: where they are kept.
            unrelated: texts that say nothing of the edits.
        """
        self._aged, self._unrelated = known, unrelated
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


def _read(path: str | Path) -> list[str]:
    try:
        return list(Lines(Path(path).expanduser()))
    except OSError as problem:
        raise ConfigurationError(f"the texts {path} cannot be read: {problem.strerror or problem}.") from None
