"""How often the gate is wrong, by simulation: whole runs through `judge` and `upgrade`.

Three questions, each over several designs (checks a run, edits a check, probes an edit, correlation within an edit):

- *alarms*: nothing has changed but cases flip, down and up alike. In how many runs is any check called regressed?
- *held*: the model is worse by exactly the minimum effect. How often is a check that lost a case called held?
- *power*: the model is worse by 5 points. How often is a check called regressed?

    python benchmarks/gate_calibration.py
    python benchmarks/gate_calibration.py --questions held --runs 2000

A case of an edit copies what happens to the edit with probability sqrt(correlation), else has its own fate, so that two
cases of an edit have just that correlation.

What cannot change a count is not judged: a run in which no check's mean falls by the minimum effect has no regression
(the first runs of each design are judged nevertheless, and must agree), and of binary values a pattern that was judged
before, for verdicts depend on how many losses and gains each edit has, in any order. A design ends early when it has
judged `--work` values; the table says after how many runs.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from editguard.comparison import Acceptance, AcceptedValue, CheckRecord, Verdict, judge, upgrade
from editguard.comparison.verdict import ALPHA, MINIMUM_EFFECT
from editguard.measurements import CaseValue, Measurement

Values = NDArray[np.float64]
Shape = Literal["binary", "noise", "rare"]
RIGHT_IN_BOTH: Final = 0.9
"""Of the binary cases that do not flip, the share that is right."""
NOISE: Final = 0.1
"""Standard deviation of the change of a graded case."""
LEVEL: Final = 0.05
"""Of the one-sided limit on which "held" stands."""
ALWAYS_JUDGED: Final = 20
"""So many runs of a design are judged whatever they are."""


@dataclass(frozen=True)
class Design:
    """Checks of a run, edits of a check, probes of an edit, the correlation of two probes of an edit; and what changes.

    Attributes:
        shape: "binary": cases flip. "noise": graded values change by normal noise. "rare": a graded value changes by
            little, or by 1.
        drop: true mean drop.
        discordance: share of binary cases that flip either way.
        minimum_effect: what the gate is asked for.
    """

    checks: int
    edits: int
    probes: int
    correlation: float
    shape: Shape = "binary"
    drop: float = 0.0
    discordance: float = 0.2
    minimum_effect: float = MINIMUM_EFFECT

    @property
    def cases(self) -> int:
        """Cases of a check."""
        return self.edits * self.probes


def draw(design: Design, runs: int, generator: np.random.Generator) -> tuple[Values, Values]:
    """Values before and now, each (runs, checks, edits, probes)."""
    shape = (runs, design.checks, design.edits, design.probes)
    own, common = _changes(design, shape, generator), _changes(design, (*shape[:3], 1), generator)
    copied = generator.random(shape) < sqrt(design.correlation)
    change = np.where(copied, common, own)
    if design.shape != "binary":
        before = generator.uniform(0.3, 0.7, shape)
        return before, before + change
    before = (generator.random(shape) < RIGHT_IN_BOTH).astype(float)
    before[change != 0] = change[change != 0] < 0
    return before, before + change


def _changes(design: Design, shape: tuple[int, ...], generator: np.random.Generator) -> Values:
    if design.shape == "noise":
        return generator.normal(-design.drop, NOISE, shape)
    if design.shape == "rare":
        return generator.normal(0.0, NOISE / 10, shape) - (generator.random(shape) < design.drop)
    fate = generator.random(shape)
    losses = (design.discordance + design.drop) / 2
    return np.where(fate < losses, -1.0, np.where(fate < design.discordance, 1.0, 0.0))


class Gate:
    """The real gate over simulated values; patterns that come again are judged once."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.judged = 0
        self._known: dict[Any, Verdict] = {}
        names = [(f"edit{edit}", f"probe{edit}-{probe}") for edit, probe in _places(design)]
        self._cases = [[_case(edit, probe, value) for value in (0.0, 1.0)] for edit, probe in names]
        self._accepted = [[AcceptedValue.of(case) for case in pair] for pair in self._cases]
        edits = tuple(dict.fromkeys(edit for edit, _ in names))
        self._measurement = Measurement(
            name="reliability", protocol="decode_match", values=(), method="rome", mode="batch", edit_ids=edits
        )
        self._record = CheckRecord.of(self._measurement, label="test_it", accepted=Acceptance("nobody", "", ""))

    def verdicts(self, before: Values, now: Values) -> list[Verdict]:
        """The final verdicts of one run; before and now: (checks, edits, probes)."""
        return upgrade([self._judged(*pair) for pair in zip(before, now, strict=True)])

    def _judged(self, before: Values, now: Values) -> Verdict:
        if self.design.shape != "binary":
            return self._judge(before.ravel().tolist(), now.ravel().tolist())
        change = now - before
        losses, gains = (change < 0).sum(1).tolist(), (change > 0).sum(1).tolist()
        key = tuple(sorted(zip(losses, gains, strict=True)))
        if key not in self._known:
            self._known[key] = self._judge(before.ravel().tolist(), now.ravel().tolist())
        return self._known[key]

    def _judge(self, before: Sequence[float], now: Sequence[float]) -> Verdict:
        self.judged += self.design.cases
        measurement = replace(self._measurement, values=tuple(map(_with_value, self._cases, now)))
        values = {
            pair[0].probe: known[int(value)] if value in (0.0, 1.0) else replace(known[0], value=value)
            for pair, known, value in zip(self._cases, self._accepted, before, strict=True)
        }
        return judge(
            replace(self._record, values=values),
            measurement,
            checks=self.design.checks,
            minimum_effect=self.design.minimum_effect,
        )


def _places(design: Design) -> Iterator[tuple[int, int]]:
    return product(range(design.edits), range(design.probes))


def _case(edit: str, probe: str, value: float) -> CaseValue:
    outcome = "exact" if value else "other"
    return CaseValue(
        probe=probe,
        edit=edit,
        kind="request",
        prompt=probe,
        expected=("yes",),
        answer="yes" if value else "no",
        outcome=outcome,
        value=value,
    )


def _with_value(pair: Sequence[CaseValue], value: float) -> CaseValue:
    return pair[int(value)] if value in (0.0, 1.0) else replace(pair[0], value=value)


@dataclass(frozen=True)
class Found:
    """What became of the simulated runs.

    Attributes:
        runs, checks: how many.
        alarms: runs with any regressed check.
        regressed: regressed checks.
        held: checks that are called held though a case was lost: by the limit on the drop.
        unlost: checks that are called held because no case was lost.
    """

    runs: int
    checks: int
    alarms: int
    regressed: int
    held: int
    unlost: int
    seconds: float


def simulate(design: Design, question: str, *, runs: int, work: int, seed: int = 0) -> Found:
    """Simulate whole runs of the gate and count their verdicts, until `runs` are done or `work` values judged."""
    start = time.perf_counter()
    generator = np.random.default_rng(seed)
    gate = Gate(design)
    counts: Counter[str] = Counter()
    block = max(1, min(runs, 500_000 // (design.checks * design.cases)))
    while counts["runs"] < runs and gate.judged < work:
        before, now = draw(design, block, generator)
        fallen = ((before - now).mean(axis=(2, 3)) >= design.minimum_effect - 1e-9).any(axis=1)
        for pair, may_alarm in zip(zip(before, now, strict=True), fallen.tolist(), strict=True):
            if counts["runs"] == runs or gate.judged >= work:
                break
            counts["runs"] += 1
            if question != "held" and not may_alarm and counts["runs"] > ALWAYS_JUDGED:
                continue
            verdicts = gate.verdicts(*pair)
            regressed = sum(verdict.kind == "regressed" for verdict in verdicts)
            assert may_alarm or not regressed
            counts["alarms"] += regressed > 0
            counts["regressed"] += regressed
            counts["held"] += sum(verdict.kind == "held" and bool(verdict.lost) for verdict in verdicts)
            counts["unlost"] += sum(verdict.kind == "held" and not verdict.lost for verdict in verdicts)
    return Found(
        counts["runs"],
        counts["runs"] * design.checks,
        counts["alarms"],
        counts["regressed"],
        counts["held"],
        counts["unlost"],
        time.perf_counter() - start,
    )


def bound(level: float, runs: int) -> float:
    """The stated level and three standard errors of a share over so many runs."""
    return level + 3 * sqrt(level * (1 - level) / runs)


ALARMS: Final = (
    *(Design(checks, edits, 1, 0.0) for checks in (1, 5, 50) for edits in (10, 50, 200)),
    *(Design(1, edits, 5, correlation) for edits in (10, 50, 200) for correlation in (0.0, 0.5, 0.9)),
    *(Design(1, 50, 5, correlation, minimum_effect=0.0) for correlation in (0.0, 0.9)),
    Design(5, 50, 5, 0.5),
    Design(50, 10, 5, 0.5),
    *(Design(1, edits, 1, 0.0, "noise", minimum_effect=least) for edits in (10, 50) for least in (MINIMUM_EFFECT, 0.0)),
    Design(1, 10, 5, 0.9, "noise", minimum_effect=0.0),
    Design(1, 50, 5, 0.9, "noise", minimum_effect=0.0),
    Design(5, 10, 5, 0.5, "noise", minimum_effect=0.0),
    *(Design(1, 1, 20, correlation) for correlation in (0.0, 0.5)),
)
HELD: Final = (
    *(
        Design(1, edits, 1, 0.0, drop=MINIMUM_EFFECT, discordance=share)
        for edits in (50, 100, 200)
        for share in (0.05, 0.1)
    ),
    *(
        Design(1, edits, 5, correlation, drop=MINIMUM_EFFECT, discordance=0.1)
        for edits in (10, 50, 200)
        for correlation in (0.0, 0.5, 0.9)
    ),
    *(Design(1, 10, 20, correlation, drop=MINIMUM_EFFECT, discordance=0.1) for correlation in (0.0, 0.5, 0.9)),
    *(
        Design(1, edits, probes, correlation, shape, drop=MINIMUM_EFFECT)
        for shape in ("noise", "rare")
        for edits, probes, correlation in ((10, 1, 0.0), (10, 5, 0.9), (50, 1, 0.0), (50, 5, 0.9), (200, 5, 0.9))
    ),
)
POWER: Final = tuple(
    Design(checks, edits, probes, 0.5 if probes > 1 else 0.0, drop=0.05, discordance=0.1, minimum_effect=least)
    for least in (MINIMUM_EFFECT, 0.02)
    for checks, edits, probes in (
        (1, 50, 1),
        (1, 200, 1),
        (5, 200, 1),
        (50, 200, 1),
        (1, 500, 1),
        (50, 500, 1),
        (1, 50, 5),
        (1, 200, 5),
    )
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", nargs="+", choices=("alarms", "held", "power"), default=["alarms", "held", "power"]
    )
    parser.add_argument("--runs", type=int, default=10_000, help="most simulated runs of a design")
    parser.add_argument("--work", type=int, default=400_000, help="values of a design after which it ends")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    columns = ["checks", "edits", "probes", "corr.", "values", "runs"]
    for question in options.questions:
        rows: list[list[object]] = []
        for design in {"alarms": ALARMS, "held": HELD, "power": POWER}[question]:
            found = simulate(design, question, runs=options.runs, work=options.work, seed=options.seed)
            about = [design.checks, design.edits, design.probes, f"{design.correlation:g}", design.shape, found.runs]
            least = f"{design.minimum_effect:g}"
            if question == "alarms":
                share, limit = found.alarms / found.runs, bound(ALPHA, found.runs)
                told = [least, f"{share:.4f}", f"{limit:.4f}", _judged(share, limit)]
                rows.append([*about, *told, f"{found.seconds:.0f}"])
            elif question == "held":
                share, limit = found.held / found.checks, bound(LEVEL, found.checks)
                flips = f"{design.discordance:g}" if design.shape == "binary" else ""
                none = f"{found.unlost / found.checks:.4f}"
                told = [flips, f"{share:.4f}", f"{limit:.4f}", _judged(share, limit), none]
                rows.append([*about, *told, f"{found.seconds:.0f}"])
            else:
                share = found.regressed / found.checks
                rows.append([*about, least, f"{share:.3f}", f"{found.seconds:.0f}"])
        titles = {
            "alarms": ["minimum effect", "any regressed", "at most", "", "s"],
            "held": ["flips", "held", "at most", "", "none lost", "s"],
            "power": ["minimum effect", "regressed", "s"],
        }
        print(f"\n{question}")
        print(tabulate(rows, headers=[*columns, *titles[question]], disable_numparse=True), flush=True)


def _judged(share: float, limit: float) -> str:
    return "" if share <= limit else "MORE"


if __name__ == "__main__":
    main()
