"""A test's model with only some of its edits in force: what would the test have said then?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Self

from editguard.edits import Probe, Property
from editguard.errors import ConfigurationError
from editguard.measurements import CaseValue, Measurement, ModelUnderTest
from editguard.measurements.pair_probability import Compared

OWN: Final[frozenset[Property]] = frozenset({"reliability", "generalization", "portability"})
"""Properties whose probes ask for what an edit has brought."""


class Counterfactual(ModelUnderTest):
    """All probes of all cases are asked, though only some of the edits are in force.

    What an edit that is not in force was to bring counts as brought: a check then fails for what the edits in force do,
    to their own probes or to others, and not for what is missing.

    Attributes:
        seen: the measurements taken of it.
    """

    seen: list[Measurement]
    _in_force: frozenset[str]

    def with_edits(self, in_force: Collection[str], *, seen: list[Measurement]) -> Self:
        """Name the requests in force by their content ids, and where measurements are noted; returns itself."""
        self._in_force, self.seen = frozenset(in_force), seen
        return self

    def remembering(self, known: ModelUnderTest, *, anew: Collection[str]) -> Self:
        """Take what `known` was asked for granted, except for the prompts `anew`; returns itself."""
        self._answers = known._answers.over(self._edited, anew=anew)
        return self

    def answers_of(self, other: ModelUnderTest) -> Self:
        """Share the answers of another model under test, whose model is the same; returns itself."""
        self._answers = other._answers
        return self

    def asked(self) -> frozenset[str]:
        """All prompts that it has an answer or a score to."""
        return self._answers.prompts()

    def after(self, fate: str, **options: object) -> Self:
        """Raise ConfigurationError: a part of the edits is not asked after what happens to the weights."""
        del options
        raise ConfigurationError(f"which edits are to blame is not searched for after {fate}.")

    def explain(self, prompt: str) -> list[str]:
        """Nothing: its answers are not shown to anybody."""
        del prompt
        return []

    def _measure(self, property: Property, kind: str | None, tasks: Sequence[Probe] | None = None) -> Measurement:
        return self._excused(super()._measure(property, kind, tasks), property)

    def _compare(self, property: Property, kind: str | None, of: Compared) -> Measurement:
        return self._excused(super()._compare(property, kind, of), property if of == "preference" else None)

    def _excused(self, found: Measurement, property: Property | None) -> Measurement:
        if property in OWN:
            found = replace(found, values=tuple(map(self._excuse, found.values)))
        self.seen.append(found)
        return found

    def _excuse(self, value: CaseValue) -> CaseValue:
        if not value.edit or value.edit in self._in_force:
            return value
        return replace(value, value=1.0, outcome="exact")
