"""One check of a baseline: what was measured, the accepted value of every case, and who accepted it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import fsum
from types import MappingProxyType
from typing import Any, Final, Self

from editguard.edits import content_id
from editguard.measurements.intervals import Interval, mean_interval
from editguard.measurements.record import CaseValue, Measurement, named

ANSWER_CHARACTERS: Final = 80
"""Longer answers are cut in a baseline file: they are there for its readers, and decide nothing."""
ACCEPTED_BY: Final = "EDITGUARD_ACCEPTED_BY"


@dataclass(frozen=True)
class AcceptedValue:
    """One case of a baseline: its value (None without a finite one), outcome, teacher-forced score and answer."""

    value: float | None
    outcome: str
    token_accuracy: float | None
    answer: str
    edit: str

    @classmethod
    def of(cls, case: CaseValue) -> Self:
        """What a baseline keeps of a case."""
        answer = case.answer
        if len(answer) > ANSWER_CHARACTERS:
            answer = f"{answer[: ANSWER_CHARACTERS - 3]}..."
        return cls(tidy(case.value), case.outcome, tidy(case.token_accuracy), answer, case.edit)

    def to_json(self) -> list[Any]:
        """One line of the file."""
        return [self.value, self.outcome, self.token_accuracy, self.answer, self.edit]

    @classmethod
    def from_json(cls, line: Any) -> Self:
        """Read a line. Raises: TypeError, ValueError: it is none."""
        value, outcome, token_accuracy, answer, edit = line
        for number in (value, token_accuracy):
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise TypeError(f"{number!r} is no number")
        if not all(isinstance(text, str) for text in (outcome, answer, edit)):
            raise TypeError(f"{line!r} is no accepted value")
        return cls(tidy(value), outcome, tidy(token_accuracy), answer, edit)


def tidy(number: float | None) -> float | None:
    """A value as a baseline keeps it: to the sixth place, beyond which kernels differ."""
    return None if number is None else round(float(number), 6)


@dataclass(frozen=True)
class Acceptance:
    """Who accepted a value, why, and on which day (UTC)."""

    by: str
    why: str
    on: str

    @classmethod
    def now(cls, why: str = "", by: str | None = None) -> Self:
        """Accept today; by the given name, or the one `who` finds."""
        return cls(by or who(), why, datetime.now(UTC).date().isoformat())


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """A check of a baseline file.

    Attributes:
        id: content id of what is asked (see `Measurement.id`); the test's name is no part of it.
        label: the test's name when it was accepted, for people.
        method, mode, name (the property), kind, protocol, unit: as in the measurement.
        edits: how many requests were applied; `edits_id` is the content id of their list.
        excluded, superseded: how many probes and requests were left out.
        settings: the method's settings in force, where given.
        values: per probe id.
        accepted: by whom, why, when.
    """

    id: str
    label: str
    method: str
    mode: str
    name: str
    kind: str | None
    protocol: str
    unit: str
    edits: int
    edits_id: str
    excluded: int
    superseded: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, AcceptedValue]
    accepted: Acceptance

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        *,
        label: str,
        accepted: Acceptance,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """What a baseline keeps of a measurement."""
        return cls(
            id=measurement.id,
            label=label,
            method=measurement.method,
            mode=measurement.mode,
            name=measurement.name,
            kind=measurement.kind,
            protocol=measurement.protocol,
            unit=measurement.unit,
            edits=measurement.edits,
            edits_id=content_id("edits", list(measurement.edit_ids)),
            excluded=measurement.excluded,
            superseded=measurement.superseded,
            settings=settings or {},
            values={case.probe: AcceptedValue.of(case) for case in measurement.values},
            accepted=accepted,
        )

    @property
    def title(self) -> str:
        """Property and kind, with the unit where that is no share of cases."""
        return named(self.name if self.kind is None else f"{self.name}/{self.kind}", self.unit)

    @property
    def mean(self) -> float:
        """Mean of the valid values; NaN without any."""
        numbers = self._numbers
        return fsum(numbers) / len(numbers) if numbers else float("nan")

    @property
    def interval(self) -> Interval:
        """95 % interval of the mean."""
        clusters = [value.edit or probe for probe, value in self.values.items() if value.value is not None]
        numbers = self._numbers
        return mean_interval(numbers, clusters, binary=all(number in (0.0, 1.0) for number in numbers))

    @property
    def _numbers(self) -> list[float]:
        return [value.value for value in self.values.values() if value.value is not None]

    def same_values(self, other: CheckRecord) -> bool:
        """Whether both say the same of every case; label, acceptance and settings aside."""
        return (
            dict(self.values) == dict(other.values)
            and self.excluded == other.excluded
            and self.superseded == other.superseded
        )

    def accepted_as(self, accepted: Acceptance) -> CheckRecord:
        """The same check under another acceptance."""
        return replace(self, accepted=accepted)

    def declaration(self) -> dict[str, Any]:
        """What was asked, without the values: to explain how two checks differ."""
        return {
            "method": self.method,
            "mode": self.mode,
            "property": self.name,
            "kind": self.kind,
            "protocol": self.protocol,
            "edits": {"number": self.edits, "list": self.edits_id},
            "excluded": self.excluded,
            "superseded": self.superseded,
            "settings": dict(self.settings),
            "probes": sorted(self.values),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads; the id is the key under which it stands."""
        return {
            "label": self.label,
            "method": self.method,
            "mode": self.mode,
            "property": self.name,
            "kind": self.kind,
            "protocol": self.protocol,
            "unit": self.unit,
            "edits": self.edits,
            "edits_id": self.edits_id,
            "excluded": self.excluded,
            "superseded": self.superseded,
            "settings": dict(self.settings),
            "accepted": {"by": self.accepted.by, "why": self.accepted.why, "on": self.accepted.on},
            "values": {probe: value.to_json() for probe, value in self.values.items()},
        }

    @classmethod
    def from_json(cls, id: str, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: KeyError, TypeError, ValueError, AttributeError: it is no check."""
        values = {probe: AcceptedValue.from_json(line) for probe, line in record["values"].items()}
        rest = {name: part for name, part in record.items() if name != "property"}
        accepted = Acceptance(**record["accepted"])
        return cls(id=id, name=record["property"], **{**rest, "values": values, "accepted": accepted})


def who() -> str:
    """The person at work: EDITGUARD_ACCEPTED_BY, else git's user name, else the system's."""
    if name := os.environ.get(ACCEPTED_BY, "").strip():
        return name
    if git := shutil.which("git"):
        try:
            found = subprocess.run([git, "config", "user.name"], capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            if name := found.stdout.strip():
                return name
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
