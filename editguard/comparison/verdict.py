"""The verdict of a check: held, regressed or undecided; never a guess.

The question is one of non-inferiority: is the model not worse by the minimum effect? Of the present values against the
accepted ones, over the same cases:

- *held*: yes. The upper end of the drop's 90 % interval (a one-sided 95 % limit) lies below the minimum effect, which
  makes "not worse" a finding and not a lack of evidence. Or no case was lost: that says it of these cases, for
  evaluation is deterministic, and of cases like them only as far as the limit, which the reason gives.
- *regressed*: no. The model got worse, significantly at the level that the run's checks share and by at least the
  minimum effect; or a case that must hold was lost; or a case has no finite score any more.
- *undecided*: neither. The flips are real; what so few cases leave open is whether cases like these got worse.

With a level shared by k checks, "significant" is p <= alpha / k at once, Holm's first step. `upgrade` does the
further steps over all checks of a run when all are known; it only ever turns undecided into regressed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import Any, Final, Literal, Self

from editguard.comparison.check import CheckRecord, tidy
from editguard.comparison.environment import Environment
from editguard.comparison.explain import explain_declaration, explain_environment
from editguard.comparison.planning import cases_to_settle, flips_needed, minimum_detectable_effect
from editguard.comparison.statistics import PairedComparison, compare_pairs, holm
from editguard.measurements.intervals import Interval
from editguard.measurements.noise import NoiseFloor
from editguard.measurements.record import FRACTION, CaseValue, Measurement, named

Kind = Literal["held", "regressed", "undecided", "missing", "not comparable"]

ALPHA: Final = 0.05
MINIMUM_EFFECT: Final = 0.05
SHOWN_CASES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A case whose value changed; graded values are shown as such, others by the answers."""

    probe: str
    prompt: str
    expected: str
    accepted_answer: str
    present_answer: str
    accepted_outcome: str
    present_outcome: str
    must_hold: bool = False
    accepted_value: float | None = None
    present_value: float | None = None

    def __str__(self) -> str:
        mark = "must hold: " if self.must_hold else ""
        values = (self.accepted_value, self.present_value)
        if not self.expected or any(value not in (None, 0.0, 1.0) for value in values):
            before, now = ("no value" if value is None else f"{value:.3g}" for value in values)
            return f"{mark}{self.prompt!r}: accepted run {before}, now {now}"
        return (
            f"{mark}{self.prompt!r}: wanted {self.expected!r}, accepted run {self.accepted_answer!r} "
            f"({self.accepted_outcome}), now {self.present_answer!r} ({self.present_outcome})"
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one check. Plain data that crosses processes as JSON.

    Attributes:
        kind: the verdict.
        check: the check's content id; `label` the test's name.
        method, mode, name (the property), probe_kind, edits, cases, unit: what was measured.
        accepted, present: means; None without.
        accepted_interval, present_interval: 95 %.
        drop: accepted minus present, or the other way round where lower is better, with `interval` (two-sided 90 %);
            positive when worse.
        p_value: one-sided, of `test`; None where nothing was compared.
        alpha, checks, minimum_effect: what the verdict was reached with.
        lost, gained: the cases that flipped.
        flips_needed: so many losses (and no gain) would have been enough; None when no number is.
        smallest_drop: the drop that these make, the smallest that so many cases could show; None likewise.
        detectable: the true drop that a run finds four times in five, at the seen share of flips; None where none is.
        cases_needed: of an undecided check, so many cases would tell "not worse" from "worse by the minimum effect",
            at the seen share of flips; None where no number does.
        edits_needed: over so many edits, where these are what is counted.
        noise: what A/A comparisons found; None where none were made.
        reason: one sentence.
        details: further lines, such as how the environment differs.
        accepted_by: who, when and why.
    """

    kind: Kind
    check: str
    label: str
    method: str
    mode: str
    name: str
    probe_kind: str | None
    edits: int
    cases: int
    reason: str
    unit: str = FRACTION
    accepted: float | None = None
    present: float | None = None
    accepted_interval: Interval | None = None
    present_interval: Interval | None = None
    drop: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    test: str = ""
    alpha: float = ALPHA
    checks: int = 1
    minimum_effect: float = MINIMUM_EFFECT
    lost: tuple[Flip, ...] = ()
    gained: tuple[Flip, ...] = ()
    flips_needed: int | None = None
    smallest_drop: float | None = None
    detectable: float | None = None
    cases_needed: int | None = None
    edits_needed: int | None = None
    noise: NoiseFloor | None = None
    details: tuple[str, ...] = ()
    accepted_by: str = ""

    @property
    def title(self) -> str:
        """Property and kind of probe, with the unit where that is no share of cases."""
        return named(self.name if self.probe_kind is None else f"{self.name}/{self.probe_kind}", self.unit)

    @property
    def lines(self) -> list[str]:
        """The verdict for a person; the first line says it all."""
        edits = f"{self.edits} edit{'' if self.edits == 1 else 's'}"
        head = f"{self.title} [{self.method}, {self.mode}, {edits}] {self.kind}: {self.reason}"
        lines = [head]
        if self.accepted is not None and self.present is not None:
            lines.append(
                f"  accepted {_mean(self.accepted, self.accepted_interval)}, "
                f"now {_mean(self.present, self.present_interval)}, {self.cases} cases"
            )
        if self.drop is not None and self.interval is not None and self.p_value is not None:
            low, high = self.interval
            lines.append(
                f"  drop {self.drop:+.3f} [{low:+.3f}, {high:+.3f}], p = {self.p_value:.3g} ({self.test}, one-sided; "
                f"level {self.alpha:g} shared by {self.checks} checks, smallest drop that counts "
                f"{self.minimum_effect:g})"
            )
            lines.append(f"  {self.power}")
            lines += [f"  {line}" for line in (self.settling, self.floor, self.doubt) if line]
        for title, flips in (("lost", self.lost), ("gained", self.gained)):
            if flips:
                lines.append(f"  {title} {len(flips)}:")
                lines += [f"    {flip}" for flip in flips[:SHOWN_CASES]]
                if len(flips) > SHOWN_CASES:
                    lines.append(f"    and {len(flips) - SHOWN_CASES} more")
        lines += [f"  {line}" for line in self.details]
        if self.accepted_by:
            lines.append(f"  accepted by {self.accepted_by}")
        return lines

    @property
    def power(self) -> str:
        """What so many cases could show, in words."""
        if self.flips_needed is None:
            return f"{self.cases} cases are too few: even if all were lost, this check could not turn red by numbers"
        return (
            f"{self.flips_needed} lost cases and none gained would be enough to turn this check red "
            f"(smallest drop it can show: {self.smallest_drop or 0:.3f})"
        )

    @property
    def limit(self) -> float | None:
        """By how much the model may be worse at most: the drop's one-sided 95 % limit."""
        return None if self.interval is None else self.interval[1]

    @property
    def settling(self) -> str:
        """How many cases would settle an undecided check, in words; "" for others."""
        if self.kind != "undecided" or self.p_value is None:
            return ""
        if self.cases_needed is None:
            return "no number of cases settles whether a drop is exactly 0: set a minimum effect"
        edits = "" if self.edits_needed is None else f" ({self.edits_needed} edits)"
        return f"about {self.cases_needed} cases{edits} like these would settle it, if as many of them flip"

    @property
    def floor(self) -> str:
        """The noise floor beside the limit, in words; "" where it was not measured."""
        if self.noise is None or self.limit is None:
            return ""
        return f"{self.noise}; the drop is at most {self.limit:.3g}"

    @property
    def doubt(self) -> str:
        """What the noise floor speaks against; "" where it does not."""
        if self.noise is None or self.noise.difference <= self.minimum_effect:
            return ""
        return (
            f"the minimum effect {self.minimum_effect:g} lies below the noise floor {self.noise.difference:.3g}: "
            "asking the same model again moves this check by more than the drop that counts"
        )

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal verdict."""
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        record = {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}
        return {
            **record,
            "lost": [asdict(flip) for flip in self.lost],
            "gained": [asdict(flip) for flip in self.gained],
            "noise": None if self.noise is None else self.noise.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: TypeError: a field is missing or unknown."""
        pairs = ("accepted_interval", "present_interval", "interval", "details")
        read: dict[str, Any] = {
            name: tuple(value) if name in pairs and value is not None else value for name, value in record.items()
        }
        for name in ("lost", "gained"):
            read[name] = tuple(Flip(**flip) for flip in record[name])
        if record.get("noise") is not None:
            read["noise"] = NoiseFloor.from_json(record["noise"])
        return cls(**read)


def judge(
    accepted: CheckRecord,
    present: Measurement,
    *,
    alpha: float = ALPHA,
    checks: int = 1,
    minimum_effect: float = MINIMUM_EFFECT,
    must_hold: bool | Collection[str] = False,
    details: Sequence[str] = (),
) -> Verdict:
    """Compare a measurement with what was accepted for the same check.

    Args:
        accepted: the check of the baseline.
        present: the measurement; cases marked in it must hold too.
        alpha: level of the whole run.
        checks: how many checks the run has, all of them, whatever becomes of them.
        minimum_effect: the smallest drop that counts as worse, unit as the measurement's.
        must_hold: True, or names of the cases (prompts, kinds, probe ids, ids of requests) whose first flip is a
            regression.
        details: further lines for a verdict that is not "held", such as how environment or settings have moved.

    Returns: held, regressed or undecided; "not comparable" when both do not hold the same cases.
    """
    present = present.marked(must_hold, strict=False)
    base = _about(present, accepted.label)
    base = replace(
        base,
        alpha=alpha,
        checks=checks,
        minimum_effect=minimum_effect,
        accepted_by=_acceptance(accepted),
    )
    if set(accepted.values) != {case.probe for case in present.values}:
        fresh = CheckRecord.of(present, label=accepted.label, accepted=accepted.accepted)
        return replace(
            base,
            kind="not comparable",
            reason="the accepted run and this one do not hold the same cases",
            details=tuple(explain_declaration(accepted, fresh)),
        )
    broken = [case for case in present.values if not case.valid and accepted.values[case.probe].value is not None]
    paired = [case for case in present.valid if accepted.values[case.probe].value is not None]
    if not paired and not broken:
        return replace(base, kind="undecided", reason="no case has a value in both runs")
    if broken:
        lost = tuple(_flip(case, accepted) for case in broken)
        return replace(
            base,
            kind="regressed",
            reason=f"{len(broken)} of {len(present.values)} cases have no finite score any more",
            lost=lost,
        )
    before = [accepted.values[case.probe].value or 0.0 for case in paired]
    now = [tidy(case.value) or 0.0 for case in paired]
    sign = -1.0 if present.lower_is_better else 1.0
    compared = compare_pairs(
        *((now, before) if present.lower_is_better else (before, now)),
        [case.cluster for case in paired],
    )
    lost = tuple(_flip(case, accepted) for case in paired if sign * _change(case, accepted) < 0)
    gained = tuple(_flip(case, accepted) for case in paired if sign * _change(case, accepted) > 0)
    needed = flips_needed(
        compared.units, alpha=alpha, checks=checks, minimum_effect=minimum_effect, cases=compared.cases
    )
    kind, reason = _decide(compared, lost, base)
    detectable, settled = _planned(compared, base)
    by_edits = compared.units < compared.cases and compared.units > 1
    moved = () if kind == "held" else tuple(details)
    return replace(
        base,
        kind=kind,
        reason=reason,
        cases=compared.cases,
        accepted=accepted.mean,
        present=present.mean,
        accepted_interval=accepted.interval,
        present_interval=present.interval,
        drop=compared.drop,
        interval=compared.interval,
        p_value=compared.p_value,
        test=compared.test,
        lost=tuple(sorted(lost, key=lambda flip: not flip.must_hold)),
        gained=gained,
        details=moved,
        flips_needed=needed,
        smallest_drop=needed / compared.cases if needed is not None else None,
        detectable=detectable,
        cases_needed=settled if kind == "undecided" else None,
        edits_needed=(
            ceil(settled * compared.units / compared.cases)
            if kind == "undecided" and settled is not None and by_edits
            else None
        ),
    )


def missing(present: Measurement, *, label: str, command: str, known: Sequence[CheckRecord] = ()) -> Verdict:
    """No value was accepted for this check.

    Args:
        present: the measurement.
        label: the test's name.
        command: how to record one.
        known: accepted checks of the same test's name, to say what has changed since.
    """
    base = _about(present, label)
    fresh = CheckRecord.of(present, label=label, accepted=known[0].accepted) if known else None
    details: list[str] = []
    if fresh is not None:
        details = ["a baseline of the same test exists; since then changed:", *explain_declaration(known[0], fresh)]
    return replace(
        base,
        kind="missing",
        reason=f"no baseline yet; record one with `{command}`",
        present=present.mean if present.n else None,
        details=tuple(details),
    )


def not_comparable(
    present: Measurement, *, label: str, command: str, here: Environment, recorded: Sequence[Environment]
) -> Verdict:
    """Values were accepted for this check, but only in environments of other classes.

    Args:
        present: the measurement.
        label: the test's name.
        command: how to record a baseline for this class.
        here: the present environment.
        recorded: those that have the check; not empty.
    """
    classes = ", ".join(environment.class_id for environment in recorded)
    return replace(
        _about(present, label),
        kind="not comparable",
        reason=f"recorded for {classes}, this is {here.class_id}; record a baseline for it with `{command}`",
        details=tuple(explain_environment(recorded[0], here)),
        present=present.mean if present.n else None,
    )


def upgrade(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Apply Holm's correction over a whole run: undecided checks that it finds worse become regressed.

    The family is every check with a p-value, held ones too. The verdicts come back in their order.
    """
    family = [position for position, verdict in enumerate(verdicts) if verdict.p_value is not None]
    adjusted = holm([verdicts[position].p_value or 0.0 for position in family])
    final = list(verdicts)
    for position, p_value in zip(family, adjusted, strict=True):
        verdict = verdicts[position]
        large = verdict.drop is not None and verdict.drop >= verdict.minimum_effect
        if verdict.kind == "undecided" and large and p_value <= verdict.alpha:
            reason = f"worse, p = {p_value:.3g} after Holm's correction over {len(family)} checks"
            final[position] = replace(verdict, kind="regressed", reason=reason)
    return final


def _decide(compared: PairedComparison, lost: Sequence[Flip], base: Verdict) -> tuple[Kind, str]:
    sacred = sum(flip.must_hold for flip in lost)
    if sacred:
        return "regressed", f"{sacred} case{'' if sacred == 1 else 's'} that must hold flipped"
    limit = compared.interval[1]
    if not lost:
        same = "every case as accepted" if compared.gains == 0 else f"no case lost, {compared.gains} gained"
        if limit < base.minimum_effect:
            return "held", same
        return "held", f"{same}; {compared.cases} cases do not rule out a drop of {limit:.3f} among cases like these"
    if compared.p_value <= base.alpha / max(1, base.checks) and compared.drop >= base.minimum_effect:
        return "regressed", f"worse by {compared.drop:.3f}, p = {compared.p_value:.3g}"
    if limit < base.minimum_effect:
        return "held", f"not worse by {base.minimum_effect:g}: the drop is at most {limit:.3f} with 95 % confidence"
    return "undecided", f"{len(lost)} lost, {compared.gains} gained of {compared.cases} cases prove nothing"


def _planned(compared: PairedComparison, base: Verdict) -> tuple[float | None, int | None]:
    """The drop that the check finds four times in five, and the cases that would settle it."""
    alpha = base.alpha / max(1, base.checks)
    detectable = minimum_detectable_effect(
        compared.effective, compared.square, alpha=alpha, minimum_effect=base.minimum_effect, graded=compared.graded
    )
    settled = cases_to_settle(base.minimum_effect, compared.square, alpha=alpha, graded=compared.graded)
    return detectable, None if settled is None else ceil(settled * compared.cases / compared.effective)


def _about(present: Measurement, label: str) -> Verdict:
    """A verdict that only says what was measured."""
    return Verdict(
        kind="undecided",
        check=present.id,
        label=label,
        method=present.method,
        mode=present.mode,
        name=present.name,
        probe_kind=present.kind,
        edits=present.edits,
        cases=present.n,
        unit=present.unit,
        reason="",
        present_interval=present.interval if present.n else None,
    )


def _change(case: CaseValue, accepted: CheckRecord) -> float:
    return (tidy(case.value) or 0.0) - (accepted.values[case.probe].value or 0.0)


def _flip(case: CaseValue, accepted: CheckRecord) -> Flip:
    before = accepted.values[case.probe]
    return Flip(
        probe=case.probe,
        prompt=case.prompt,
        expected=case.expected[0] if case.expected else "",
        accepted_answer=before.answer,
        present_answer=case.answer,
        accepted_outcome=before.outcome,
        present_outcome=case.outcome,
        must_hold=case.must_hold,
        accepted_value=before.value,
        present_value=case.value,
    )


def _acceptance(check: CheckRecord) -> str:
    accepted = check.accepted
    return f"{accepted.by} on {accepted.on}" + (f": {accepted.why}" if accepted.why else "")


def _mean(mean: float, interval: Interval | None) -> str:
    return f"{mean:.3f}" if interval is None else f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
