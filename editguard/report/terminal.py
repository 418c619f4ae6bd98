"""The summary at the end of a run, as lines of text; made from records alone, so that any process can print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from editguard.comparison.check import CheckRecord
from editguard.comparison.verdict import Kind, Verdict
from editguard.edits import PROPERTIES
from editguard.measurements.efficiency import EfficiencySummary, PhaseCost, summarise
from editguard.measurements.record import Measurement

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_GIGA: Final = 2**30


def measurement_table(measurements: Sequence[Measurement]) -> list[str]:
    """Methods and what they edited against properties: pass rate, 95 % interval, number of cases.

    Measurements of the same method, mode, number of edits and property come one below the other.
    """
    titles = sorted({one.title for one in measurements}, key=_property_order)
    rows: dict[tuple[str, str, int], dict[str, list[Measurement]]] = {}
    for one in measurements:
        row = rows.setdefault((one.method, one.mode, one.edits), {})
        row.setdefault(one.title, []).append(one)
    table: list[list[str]] = []
    for (method, mode, edits), row in rows.items():
        for line in range(max(len(found) for found in row.values())):
            cells = [_cell(row[title][line]) if line < len(row.get(title, ())) else "" for title in titles]
            table.append([method if line == 0 else "", f"{edits} ({mode})" if line == 0 else "", *cells])
    return _table(table, ["method", "edits", *titles])


def verdict_counts(verdicts: Iterable[Verdict]) -> str:
    """One line: how many checks held, regressed and so on; kinds that did not occur are left out."""
    counts = Counter(verdict.kind for verdict in verdicts)
    total = sum(counts.values())
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{total} baseline check{'' if total == 1 else 's'}: {found or 'none'}"


def regressions(verdicts: Iterable[Verdict]) -> list[str]:
    """Every regression with the cases that flipped, the strongest evidence first."""
    return _in_full(verdicts, "regressed")


def open_questions(verdicts: Iterable[Verdict]) -> list[str]:
    """Checks without a clear verdict: a line each, and what would have decided them."""
    lines = []
    for verdict in verdicts:
        if verdict.kind in ("undecided", "missing", "not comparable"):
            lines.append(f"{verdict.label}: {verdict.lines[0]}")
            if verdict.kind == "undecided":
                lines.append(f"  {verdict.power}")
    return lines


def power_table(verdicts: Sequence[Verdict]) -> list[str]:
    """For each compared check the losses that would turn it red, and the smallest drop it can show."""
    rows = [
        [
            verdict.method,
            f"{verdict.edits} ({verdict.mode})",
            verdict.title,
            verdict.kind,
            str(verdict.cases),
            "none is enough" if verdict.flips_needed is None else str(verdict.flips_needed),
            "" if verdict.smallest_drop is None else f"{verdict.smallest_drop:.3f}",
        ]
        for verdict in verdicts
        if verdict.p_value is not None
    ]
    return _table(rows, ["method", "edits", "check", "verdict", "cases", "losses needed", "smallest drop"])


def orphan_lines(orphans: Sequence[CheckRecord], command: str) -> list[str]:
    """Baselines that no test of a complete run asked for, and how to remove them."""
    if not orphans:
        return []
    head = f"{len(orphans)} baseline{'' if len(orphans) == 1 else 's'} without a test; remove with `{command}`:"
    return [head, *(f"  {check.label}: {check.title} [{check.method}]" for check in orphans)]


def efficiency_table(costs: Sequence[PhaseCost] | Sequence[EfficiencySummary]) -> list[str]:
    """Seconds and memory per method: preparation apart from the edits, the first edit apart from the others."""
    summaries = [one for one in costs if isinstance(one, EfficiencySummary)]
    summaries += summarise([one for one in costs if isinstance(one, PhaseCost)])
    rows = [
        [
            one.method,
            f"{one.preparation_seconds:.1f}",
            str(one.edits),
            _seconds(one.first_seconds),
            _seconds(one.median_seconds),
            "" if one.quartiles is None else f"{one.quartiles[0]:.2f} to {one.quartiles[1]:.2f}",
            f"{one.evaluation_seconds:.1f}",
            _memory(one.host_peak_bytes or None),
            _memory(one.device_peak_bytes),
        ]
        for one in summaries
    ]
    times = ["prepare s", "edits", "first s", "median s", "quartiles s", "evaluate s"]
    return _table(rows, ["method", *times, "host GiB", "device GiB"])


def _in_full(verdicts: Iterable[Verdict], kind: Kind) -> list[str]:
    chosen = [verdict for verdict in verdicts if verdict.kind == kind]
    chosen.sort(key=lambda verdict: verdict.p_value if verdict.p_value is not None else 0.0)
    return [line for verdict in chosen for line in (verdict.label, *(f"  {line}" for line in verdict.lines))]


def _property_order(title: str) -> tuple[int, str]:
    name = title.partition("/")[0]
    place = list(PROPERTIES).index(name) if name in PROPERTIES else len(PROPERTIES)
    return (place, title)


def _cell(one: Measurement) -> str:
    notes = [f"n={one.n}"]
    notes += [f"{one.excluded} excl."] if one.excluded else []
    notes += [f"{one.superseded} superseded"] if one.superseded else []
    notes += [f"{one.invalid} invalid"] if one.invalid else []
    if not one.n:
        return f"- ({', '.join(notes)})"
    low, high = one.interval
    return f"{one.mean:.2f} [{low:.2f}, {high:.2f}] {', '.join(notes)}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _memory(value: int | None) -> str:
    return "" if value is None else f"{value / _GIGA:.2f}"


def _table(rows: Sequence[Sequence[Any]], titles: Sequence[str]) -> list[str]:
    """Lines of a plain table; none without rows."""
    if not rows:
        return []
    from tabulate import tabulate

    return tabulate(rows, headers=titles, tablefmt="simple", disable_numparse=True).splitlines()
