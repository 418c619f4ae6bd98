"""What was measured: one value per case with its unit, never only a mean. Plain data that crosses processes as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import isfinite
from statistics import fmean
from typing import Any, Final, Self

from editguard.edits import content_id
from editguard.errors import ConfigurationError, closest
from editguard.measurements.intervals import Interval, mean_interval
from editguard.measurements.matching import normalise

FRACTION: Final = "fraction"
"""The unit of a share of cases."""


Tokens = tuple[tuple[str, float], ...]
"""Tokens of an answer, each with its probability."""


def named(title: str, unit: str) -> str:
    """A measurement's title as people read it: with its unit, except where that is a share of cases."""
    return title if unit == FRACTION else f"{title} ({unit})"


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """How an answer came through a memory of edits, and what it cost.

    Attributes:
        route: "in-scope" or "out-of-scope": whether the memory took the prompt for one of its own.
        retrieved: ids of the rows that it found, each with its similarity, the best first.
        tokens: all that were read and written for the answer, those of earlier steps included.
        calls: generations, the answer's own included.
        outcome: how a procedure of several steps ended, "" where there is none.
        sent: the prompt that was read in the end.
    """

    route: str
    retrieved: tuple[tuple[str, float], ...]
    tokens: int
    calls: int
    outcome: str
    sent: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "retrieved", tuple((row, similarity) for row, similarity in self.retrieved))

    def after(self, earlier: Lookup) -> Lookup:
        """Return this, of a later sentence of one answer, with the costs of both."""
        return replace(self, tokens=earlier.tokens + self.tokens, calls=earlier.calls + self.calls)


@dataclass(frozen=True, kw_only=True)
class CaseValue:
    """One probe's outcome.

    Attributes:
        probe: the probe's content id; unique within a measurement.
        edit: the id of the request that the probe speaks of, "" for a task; probes of one edit are correlated.
        kind: the probe's kind.
        prompt: the text that was asked, before a method rewrote it.
        expected: accepted answers, the gold answer first; for locality the unedited model's own answer.
        answer: what the model said (after the stop rule), or the option that it found most likely.
        outcome: one of `matching.OUTCOMES`.
        value: 1 for a pass, else 0, or a graded value; None where there is no finite value.
        token_accuracy: share of the expected answer's tokens that are the most likely next token when the ones
            before are given (teacher forcing), or, for locality, that agree with the unedited model's most likely
            ones; None where there is nothing to force.
        original: the unedited model's answer, where it was asked too.
        must_hold: whether a single flip of this case is a regression.
        lookup: how the answer came through a memory of edits, where there is one.
        tokens: the first expected answer's tokens, each with its probability when the ones before are given; of the
            pass that `token_accuracy` comes from, empty where there was none.
        tokens_before: the same of the unedited model, where it was asked too.
    """

    probe: str
    edit: str
    kind: str
    prompt: str
    expected: tuple[str, ...]
    answer: str
    outcome: str
    value: float | None
    token_accuracy: float | None = None
    original: str | None = None
    must_hold: bool = False
    lookup: Lookup | None = None
    tokens: Tokens = ()
    tokens_before: Tokens = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", tuple(self.expected))
        for name in ("tokens", "tokens_before"):
            object.__setattr__(self, name, tuple((text, chance) for text, chance in getattr(self, name)))
        for name in ("value", "token_accuracy"):
            number = getattr(self, name)
            if number is not None and not isfinite(number):
                object.__setattr__(self, name, None)

    @property
    def valid(self) -> bool:
        """Whether the case has a finite value."""
        return self.value is not None

    @property
    def names(self) -> frozenset[str]:
        """By what a suite may name the case."""
        return frozenset({self.probe, self.prompt, self.kind, self.edit} - {""})

    @property
    def cluster(self) -> str:
        """The group of correlated cases that this one belongs to: its edit, or itself."""
        return self.edit or self.probe

    @property
    def agrees(self) -> bool | None:
        """Whether the answer is the unedited model's; None where that was not asked."""
        return None if self.original is None else normalise(self.answer) == normalise(self.original)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The values of one property of one edited model.

    Attributes:
        name: the property.
        kind: the kind of probe it was limited to, or None.
        protocol: how answers were obtained and compared, such as "decode_match"; several joined by "+".
        values: one per case.
        method, model: names.
        mode: "single", "batch" or "sequence".
        edit_ids: content ids of the requests applied, in order.
        excluded_probes: ids of probes left out because the unedited model lacks what they build on, or because
            they ask for what another edit has changed.
        superseded_edits: ids of requests of a sequence that a later one replaced; their probes are left out.
        unit: of the values.
        lower_is_better: whether a rise of the mean is a loss, as for perplexity; comparisons turn the sign then.
    """

    name: str
    kind: str | None = None
    protocol: str
    values: tuple[CaseValue, ...]
    method: str = ""
    model: str = ""
    mode: str = "single"
    edit_ids: tuple[str, ...] = ()
    excluded_probes: tuple[str, ...] = ()
    superseded_edits: tuple[str, ...] = ()
    unit: str = FRACTION
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        for name in ("values", "edit_ids", "excluded_probes", "superseded_edits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @cached_property
    def id(self) -> str:
        """Content id of the check: what was asked of which edits by which protocol, whatever the test is called."""
        probes = sorted([*(value.probe for value in self.values), *self.excluded_probes])
        edits = list(self.edit_ids)
        return content_id("check", self.method, self.mode, edits, self.name, self.kind, probes, self.protocol)

    @property
    def edits(self) -> int:
        """How many requests were applied."""
        return len(self.edit_ids)

    @property
    def excluded(self) -> int:
        """How many probes were left out (see `excluded_probes`)."""
        return len(self.excluded_probes)

    @property
    def superseded(self) -> int:
        """How many requests a later one of the sequence replaced."""
        return len(self.superseded_edits)

    @cached_property
    def valid(self) -> tuple[CaseValue, ...]:
        """The cases that have a finite value; means and intervals are over these."""
        return tuple(value for value in self.values if value.valid)

    @property
    def n(self) -> int:
        """How many cases have a value."""
        return len(self.valid)

    @property
    def invalid(self) -> int:
        """How many cases have no finite value; they enter no mean."""
        return len(self.values) - self.n

    @cached_property
    def mean(self) -> float:
        """Mean over the valid cases, unit as `unit`; NaN without any."""
        return fmean(numbers) if (numbers := self._numbers) else float("nan")

    @cached_property
    def interval(self) -> Interval:
        """95 % confidence interval of the mean (see `intervals.mean_interval`)."""
        return mean_interval(self._numbers, [value.cluster for value in self.valid], binary=self.binary)

    @property
    def binary(self) -> bool:
        """Whether every valid case has the value 0 or 1."""
        return all(number in (0.0, 1.0) for number in self._numbers)

    @property
    def clusters(self) -> int:
        """How many groups of correlated cases there are: the edits that the probes speak of."""
        return len({value.cluster for value in self.valid})

    @property
    def token_accuracy(self) -> float | None:
        """Mean of the teacher-forced score where it exists: the protocol of the literature's tables."""
        scores = [value.token_accuracy for value in self.values if value.token_accuracy is not None]
        return fmean(scores) if scores else None

    @property
    def agreement(self) -> float | None:
        """Share of answers that are the unedited model's, where it was asked too."""
        agreeing = [value.agrees for value in self.values if value.agrees is not None]
        return fmean(agreeing) if agreeing else None

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome occurred."""
        return dict(Counter(value.outcome for value in self.values))

    @cached_property
    def _numbers(self) -> list[float]:
        return [value.value for value in self.values if value.value is not None]

    def of_kind(self, kind: str) -> Measurement:
        """The part of the measurement that a kind of probe makes up; what was left out is not counted by kind."""
        values = tuple(value for value in self.values if value.kind == kind)
        return replace(self, kind=kind, values=values, excluded_probes=())

    def marked(self, must_hold: bool | Collection[str], *, strict: bool = True) -> Measurement:
        """The same measurement with cases marked as must-hold.

        Args:
            must_hold: True for all cases, or names of some: prompts, kinds, probe ids or ids of requests.
            strict: whether a name that fits no case is an error.

        Raises: ConfigurationError: a name fits no case, and that is an error.
        """
        if must_hold is False:
            return self
        if isinstance(must_hold, str):
            must_hold = (must_hold,)
        wanted = None if isinstance(must_hold, bool) else set(must_hold)
        marked = []
        for value in self.values:
            hit = must_hold is True if wanted is None else not wanted.isdisjoint(value.names)
            marked.append(replace(value, must_hold=value.must_hold or hit))
        known = {name for value in self.values for name in value.names} | set(self.excluded_probes)
        if strict and wanted is not None and (unknown := sorted(wanted - known)):
            raise ConfigurationError(
                f"must_hold names {unknown[0]!r}, which is no prompt, kind or id of this {self.name} measurement."
                f"{closest(unknown[0], known)}"
            )
        return replace(self, values=tuple(marked))

    def __str__(self) -> str:
        if not self.n:
            return f"{self.title}: no valid case"
        low, high = self.interval
        notes = [f"n {self.n}"]
        notes += [f"{self.excluded} excluded"] if self.excluded else []
        notes += [f"{self.superseded} superseded"] if self.superseded else []
        notes += [f"{self.invalid} invalid"] if self.invalid else []
        return f"{named(self.title, self.unit)} {self.mean:.3f} [{low:.3f}, {high:.3f}], {', '.join(notes)}"

    @property
    def title(self) -> str:
        """Property and kind, as tables print them."""
        return self.name if self.kind is None else f"{self.name}/{self.kind}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal measurement."""
        record = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "values"}
        record = {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}
        record["values"] = [{**asdict(value), "expected": list(value.expected)} for value in self.values]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises: TypeError: a field is missing or unknown.
        """
        values = tuple(
            CaseValue(**{**value, "lookup": Lookup(**value["lookup"]) if value.get("lookup") else None})
            for value in record["values"]
        )
        return cls(**{**record, "values": values})
