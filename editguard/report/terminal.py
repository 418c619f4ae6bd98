"""The summary at the end of a run, as lines of text; made from records alone, so that any process can print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from editguard.comparison.check import CheckRecord
from editguard.comparison.verdict import Kind, Verdict
from editguard.edits import PROPERTIES
from editguard.measurements.efficiency import EfficiencySummary, PhaseCost, summarise
from editguard.measurements.record import Measurement, named

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
METHODS_ABREAST: Final = 4
_GIGA: Final = 2**30


def measurement_table(measurements: Sequence[Measurement]) -> list[str]:
    """What was edited and which property, against methods: pass rate with 95 % interval, and the number of cases.

    More methods than fit a screen continue in a further table.
    """
    methods = list(dict.fromkeys(one.method for one in measurements))
    lines: list[str] = []
    for start in range(0, len(methods), METHODS_ABREAST):
        abreast = methods[start : start + METHODS_ABREAST]
        part = _part_of_table([one for one in measurements if one.method in abreast], abreast)
        lines += ["", *part] if lines else part
    return lines


def _part_of_table(measurements: Sequence[Measurement], methods: Sequence[str]) -> list[str]:
    groups: dict[tuple[str, ...], list[tuple[str, dict[str, Measurement]]]] = {}
    for one in measurements:
        rows = groups.setdefault((one.mode, str(one.edits), *one.edit_ids), [])
        name = named(one.title, one.unit)
        free = (row for title, row in rows if title == name and one.method not in row)
        row = next(free, None)
        if row is None:
            rows.append((name, row := {}))
        row[one.method] = one
    table: list[list[str]] = []
    for (mode, edits, *_), rows in groups.items():
        for number, (title, found) in enumerate(sorted(rows, key=lambda row: _property_order(row[0]))):
            cases = {_cases(one) for one in found.values()}
            shared = cases.pop() if len(cases) == 1 else ""
            cells = [_cell(found[method], with_cases=not shared) if method in found else "" for method in methods]
            table.append([f"{edits} ({mode})" if number == 0 else "", title, shared, *cells])
    return _table(table, ["edits", "property", "cases", *methods])


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


def _property_order(title: str) -> tuple[int, str, str]:
    """By the survey's order; of one property, what real decoding decides comes first."""
    word, _, rest = title.partition("/")[0].partition(" ")
    place = list(PROPERTIES).index(word) if word in PROPERTIES else len(PROPERTIES)
    return (place, rest, title)


def _cases(one: Measurement) -> str:
    notes = [f"{one.excluded} excluded"] if one.excluded else []
    notes += [f"{one.superseded} superseded"] if one.superseded else []
    notes += [f"{one.invalid} invalid"] if one.invalid else []
    return f"{one.n} ({', '.join(notes)})" if notes else str(one.n)


def _cell(one: Measurement, *, with_cases: bool) -> str:
    low, high = one.interval
    value = f"{one.mean:.2f} [{low:.2f}, {high:.2f}]" if one.n else "-"
    return f"{value} of {_cases(one)}" if with_cases else value


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
