"""The gate's policy: what a run must have measured, reached and been able to see before a model is released.

Tests and baselines say what is expected of each check; a policy says what is expected of the run as a whole. It is a
table, `[tool.editguard.gate]` or a file of its own:

    required = ["rome"]                     # methods that must have been measured
    report-only = ["kn"]                    # methods whose failed tests are shown, and fail nothing
    limits = ["reliability>=0.95", "locality/*>=0.9"]
    allowed-losses = 1                      # a check that lost so many cases, none that must hold, is no regression
    must-see = 0.1                          # a check must be able to turn red for a drop of this size

    [budget]                                # share of the edits of a sequence that may be lost at its end
    reliability = 0.1

    [survival]                              # asked after each fate, and the share of probes that may be lost by it
    fates = ["int8", "fine-tuning"]
    reliability = 0.05
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import floor, fsum
from types import MappingProxyType
from typing import Any, Final, Literal

from editguard.comparison.bounds import Bound, read_bound
from editguard.comparison.verdict import Verdict
from editguard.errors import ConfigurationError, closest
from editguard.measurements.record import FRACTION, Measurement

KEYS: Final = ("required", "report-only", "limits", "allowed-losses", "must-see", "budget", "survival")
LIMITS_BROKEN: Final = 10
NOT_MEASURED: Final = 11
"""Exit statuses of a run whose tests all passed: a limit or budget is broken; something is missing, or blind."""


@dataclass(frozen=True)
class Breach:
    """Why a run does not pass the gate.

    Attributes:
        kind: "limit", "budget" and "survival" of what was measured; "missing" and "blind" of what was not.
        text: one line.
    """

    kind: Literal["limit", "budget", "survival", "missing", "blind"]
    text: str

    @property
    def status(self) -> int:
        """The exit status that it means."""
        return LIMITS_BROKEN if self.kind in ("limit", "budget", "survival") else NOT_MEASURED


@dataclass(frozen=True)
class Survival:
    """What must hold after what happens to weights before use, of what held before that.

    Attributes:
        fates: as suites name them; one without options means it with whatever options.
        shares: of each property the share of its probes that may be lost.
    """

    fates: tuple[str, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", MappingProxyType(dict(self.shares)))

    def breaches(self, measurements: Sequence[Measurement]) -> list[Breach]:
        """What was lost, and what of each method's largest set of edits was not asked."""
        found = []
        for name, share in self.shares.items():
            meant = [one for one in measurements if one.unit == FRACTION and _meant(name, one)]
            plain = [one for one in meant if not _fate(one) and one.method != "original"]
            if not plain:
                found.append(Breach("missing", f"nothing was measured that the survival of {name} speaks of"))
            for fate in self.fates:
                after = [one for one in meant if fate in (_fate(one), _without_options(_fate(one)))]
                pairs = [(one, other) for other in after if (one := _before(plain, other)) is not None]
                found += [breach for one, other in pairs if (breach := _lost(one, other, share)) is not None]
                for method in dict.fromkeys(one.method for one in plain):
                    most = max(one.edits for one in plain if one.method == method)
                    if not any(one.method == method and one.edits == most for one, _ in pairs):
                        edits = f"{most} edit{'' if most == 1 else 's'}"
                        found.append(Breach("missing", f"{name} of {method} with {edits} was not asked after {fate}"))
        return found


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a run as a whole is held to; see the module for the table that it is read from."""

    required: tuple[str, ...] = ()
    report_only: tuple[str, ...] = ()
    limits: tuple[Bound, ...] = ()
    allowed_losses: int = 0
    must_see: float | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    survival: Survival = Survival()

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", MappingProxyType(dict(self.budget)))

    def allowed(self, verdict: Verdict) -> Verdict:
        """The verdict, with as many lost cases allowed as the policy says; never a case that must hold."""
        lost = len(verdict.lost)
        if verdict.kind not in ("regressed", "undecided") or not 0 < lost <= self.allowed_losses:
            return verdict
        if verdict.drop is None or any(flip.must_hold for flip in verdict.lost):
            return verdict
        return replace(verdict, kind="held", reason=f"{lost} lost; the gate's policy allows {self.allowed_losses}")

    def breaches(self, measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> list[Breach]:
        """What a run does not fulfil: of each kind every instance, in the order of the policy.

        Methods that are reported only are left out.
        """
        counted = [one for one in measurements if _method(one.method) not in self.report_only and one.n]
        judged = [verdict for verdict in verdicts if _method(verdict.method) not in self.report_only]
        return [
            *self._missing(counted),
            *self._limits(counted),
            *self._budget(counted),
            *self.survival.breaches(counted),
            *self._blind(judged),
        ]

    def _missing(self, measurements: Sequence[Measurement]) -> list[Breach]:
        measured = {_method(one.method) for one in measurements}
        return [
            Breach("missing", f"the required method {method} was not measured")
            for method in self.required
            if method not in measured
        ]

    def _limits(self, measurements: Sequence[Measurement]) -> list[Breach]:
        found = []
        for limit in self.limits:
            meant = [one for one in measurements if _method(one.method) != "original" and _meant(limit.criterion, one)]
            if not meant:
                found.append(Breach("missing", f"nothing was measured that the limit {limit.text()} speaks of"))
            for one in meant:
                if not limit.holds(one.mean):
                    low, high = one.interval
                    found.append(
                        Breach(
                            "limit",
                            f"{_place(one)}: {one.mean:.3f} [{low:.3f}, {high:.3f}], the limit is {limit.text()}",
                        )
                    )
        return found

    def _budget(self, measurements: Sequence[Measurement]) -> list[Breach]:
        found = []
        for name, share in self.budget.items():
            longest: dict[tuple[str, tuple[str, ...]], Measurement] = {}
            for one in measurements:
                if one.mode == "sequence" and _meant(name, one) and one.unit == FRACTION and one.edits > 1:
                    key = (one.method, one.edit_ids[:1])
                    if key not in longest or longest[key].edits < one.edits:
                        longest[key] = one
            if not longest:
                found.append(Breach("missing", f"no sequence was measured that the budget of {name} speaks of"))
            for one in longest.values():
                lost = sum(1 - value.value for value in one.valid if value.value is not None)
                granted = floor(share * one.n + 1e-9)
                if lost > granted:
                    text = f"{_place(one)}: {lost:g} of {one.n} lost at its end, the budget is {granted}"
                    found.append(Breach("budget", text))
        return found

    def _blind(self, verdicts: Sequence[Verdict]) -> list[Breach]:
        if self.must_see is None:
            return []
        return [
            Breach(
                "blind",
                f"{verdict.label}: {verdict.title} [{verdict.method}] cannot turn red for a drop of {self.must_see:g}: "
                + (
                    "no number of losses would do"
                    if verdict.smallest_drop is None
                    else f"the smallest that {verdict.cases} cases can show is {verdict.smallest_drop:.3f}"
                ),
            )
            for verdict in verdicts
            if verdict.p_value is not None
            and verdict.unit == FRACTION
            and (verdict.smallest_drop is None or verdict.smallest_drop > self.must_see + 1e-9)
        ]


def _method(name: str) -> str:
    """The method of a measurement, whatever has happened to the weights since: "rome after int8" is ROME's."""
    return name.partition(" after ")[0]


def _fate(measurement: Measurement) -> str:
    """What has happened to the weights of a measured model; nothing is ""."""
    return measurement.method.partition(" after ")[2]


def _without_options(fate: str) -> str:
    return re.sub(r"\([^)]*\)", "", fate)


def _before(plain: Sequence[Measurement], after: Measurement) -> Measurement | None:
    """The measurement that asked the same of the same edits before anything happened to the weights."""

    def question(one: Measurement) -> tuple[Any, ...]:
        return _method(one.method), one.name, one.kind, one.mode, one.edit_ids, one.protocol

    probes = {value.probe for value in after.values}
    alike = [one for one in plain if question(one) == question(after)]
    best = max(alike, key=lambda one: len(probes & {value.probe for value in one.values}), default=None)
    return best if best is not None and any(value.probe in probes for value in best.valid) else None


def _lost(before: Measurement, after: Measurement, share: float) -> Breach | None:
    """The breach where more was lost than the share; what has no value any more is lost."""
    left = {value.probe: value.value if value.valid else None for value in after.values}
    held = [(value.value or 0.0, left[value.probe] or 0.0) for value in before.valid if value.probe in left]
    lost = fsum(max(0.0, one - other) for one, other in held)
    granted = floor(share * len(held) + 1e-9)
    if lost <= granted + 1e-9:
        return None
    means = f"{fsum(one for one, _ in held) / len(held):.3f} to {fsum(other for _, other in held) / len(held):.3f}"
    return Breach(
        "survival", f"{_place(after)}: {lost:g} of {len(held)} lost ({means}) that held before, {granted} may be"
    )


def _meant(pattern: str, measurement: Measurement) -> bool:
    """Whether a name ("locality", any kind of it; "locality/other_relation"; "locality/*") means a measurement."""
    return pattern == measurement.name or fnmatchcase(measurement.title, pattern)


def _place(measurement: Measurement) -> str:
    edits = f"{measurement.edits} edit{'' if measurement.edits == 1 else 's'}"
    return f"{measurement.title} [{measurement.method}, {measurement.mode}, {edits}]"


def read_policy(table: Mapping[str, Any], source: str) -> Policy:
    """From a table to a policy.

    Args:
        table: as TOML has it, with "-" or "_" in its keys.
        source: where it stands, for messages.

    Raises: ConfigurationError: a key is unknown, or a value cannot be used.
    """
    given = {key.replace("_", "-"): value for key, value in table.items()}
    for key in given:
        if key not in KEYS:
            raise ConfigurationError(f"{source} has no key {key!r}.{closest(key, KEYS)}")
    required, report_only = (_names(given.get(key, []), f"{source} {key}") for key in ("required", "report-only"))
    if both := sorted(set(required) & set(report_only)):
        raise ConfigurationError(f"{source}: {both[0]} is required and reported only; it can be one of the two.")
    limits = []
    for text in _names(given.get("limits", []), f"{source} limits"):
        limit = read_bound(text)
        if limit is None:
            raise ConfigurationError(f'{source} limits: a limit is like "locality>=0.9", not {text!r}.')
        limits.append(limit)
    losses = given.get("allowed-losses", 0)
    if isinstance(losses, bool) or not isinstance(losses, int) or losses < 0:
        raise ConfigurationError(f"{source} allowed-losses is a number of cases from 0 on, not {losses!r}.")
    sees = given.get("must-see")
    budget = given.get("budget", {})
    if not isinstance(budget, Mapping):
        raise ConfigurationError(f"{source} budget is a table from property to share, not {budget!r}.")
    survival = given.get("survival", {})
    return Policy(
        required=required,
        report_only=report_only,
        limits=tuple(limits),
        allowed_losses=losses,
        must_see=None if sees is None else _share(sees, f"{source} must-see"),
        budget={name: _share(share, f"{source} budget {name}") for name, share in budget.items()},
        survival=_survival(survival, f"{source} survival"),
    )


def _survival(table: Any, source: str) -> Survival:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{source} is a table of fates and shares, not {table!r}.")
    fates = _names(table.get("fates", []), f"{source} fates")
    shares = {name: _share(share, f"{source} {name}") for name, share in table.items() if name != "fates"}
    if bool(fates) != bool(shares):
        raise ConfigurationError(
            f'{source} names fates and, of at least one property, the share that may be lost: fates = ["int8"] and '
            "reliability = 0.05, for example."
        )
    return Survival(fates, shares)


def _names(value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ConfigurationError(f"{source} is a list of texts, not {value!r}.")
    return tuple(dict.fromkeys(each.strip() for each in value))


def _share(value: Any, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigurationError(f"{source} is a share from 0 to 1, not {value!r}.")
    return float(value)
