"""The summary at the end of a run, as lines of text; made from records alone, so that any process can print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import Any, Final, get_args

from editguard.blame.finding import Finding
from editguard.comparison.check import CheckRecord
from editguard.comparison.verdict import Kind, Verdict
from editguard.edits import PROPERTIES
from editguard.measurements.efficiency import Applications, EfficiencySummary, PhaseCost, PhaseTotal, summarise
from editguard.measurements.inference import AnsweringCost
from editguard.measurements.record import Measurement, named
from editguard.measurements.signals import SIGNALS, Series

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
METHODS_ABREAST: Final = 4
FINDING_EDITS: Final = 3
DRIFT_COLUMNS: Final = 5
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
    rows, titles = measurement_rows(measurements, methods)
    return _table(rows, titles)


def measurement_rows(
    measurements: Sequence[Measurement], methods: Sequence[str]
) -> tuple[list[list[str]], tuple[str, ...]]:
    """Rows and column titles of the table of measurements, with these methods abreast."""
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
        for number, (title, found) in enumerate(sorted(rows, key=lambda row: property_order(row[0]))):
            cases = {_cases(one) for one in found.values()}
            shared = cases.pop() if len(cases) == 1 else ""
            cells = [_cell(found[method], with_cases=not shared) if method in found else "" for method in methods]
            table.append([f"{edits} ({mode})" if number == 0 else "", title, shared, *cells])
    return table, ("edits", "property", "cases", *methods)


def drift_table(sequences: Sequence[Series]) -> list[str]:
    """What was read after every edit of sequences: at some of them, and where a signal begins to get worse."""
    lines: list[str] = []
    for rows, titles in drift_rows(sequences):
        lines += ["", *_table(rows, titles)]
    return lines


def drift_rows(sequences: Sequence[Series]) -> Iterator[tuple[list[list[str]], tuple[str, ...]]]:
    """Rows and column titles of a table for the sequences of each length."""
    by_length: dict[int, list[Series]] = {}
    for series in sequences:
        by_length.setdefault(series.points[-1].edits, []).append(series)
    for length, alike in by_length.items():
        read = sorted(set.intersection(*({point.edits for point in series.points} for series in alike)))
        shown = sorted({read[round(step * (len(read) - 1) / DRIFT_COLUMNS)] for step in range(DRIFT_COLUMNS + 1)})
        rows = []
        for series in alike:
            for signal in SIGNALS:
                values = dict(zip((point.edits for point in series.points), series.values(signal), strict=True))
                onset = series.onset(signal)
                worse = "" if onset is None else f"from edit {onset.after + 1}"
                cells = ["-" if (value := values.get(edits)) is None else f"{value:.3f}" for edits in shown]
                rows.append([series.method if signal == SIGNALS[0] else "", signal, *cells, worse])
        yield rows, ("method", f"after edit (of {length})", *map(str, shown), "gets worse")


def verdict_counts(verdicts: Iterable[Verdict]) -> str:
    """One line: how many checks held, regressed and so on; kinds that did not occur are left out."""
    counts = Counter(verdict.kind for verdict in verdicts)
    total = sum(counts.values())
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{total} baseline check{'' if total == 1 else 's'}: {found or 'none'}"


def regressions(verdicts: Iterable[Verdict]) -> list[str]:
    """Every regression with the cases that flipped, the strongest evidence first."""
    return _in_full(verdicts, "regressed")


def findings(found: Iterable[Finding]) -> list[str]:
    """Of each failed test whose edits were looked through, which are to blame; the whole stands with the failure."""
    lines = []
    for finding in found:
        lines.append(f"{finding.test}: {finding.lines[0]}")
        lines += [f"  {edit}" for edit in finding.blamed[:FINDING_EDITS]]
        if len(finding.blamed) > FINDING_EDITS:
            lines.append(f"  and {len(finding.blamed) - FINDING_EDITS} more")
    return lines


def open_questions(verdicts: Iterable[Verdict]) -> list[str]:
    """Checks without a clear verdict: a line each, and what would have decided them."""
    lines = []
    for verdict in verdicts:
        if verdict.kind in ("undecided", "missing", "not comparable"):
            lines.append(f"{verdict.label}: {verdict.lines[0]}")
            if verdict.kind == "undecided":
                lines += [f"  {line}" for line in (verdict.power, verdict.settling) if line]
    return lines


def power_table(verdicts: Sequence[Verdict]) -> list[str]:
    """For each compared check by how much it may be worse at most, and what so many cases can find.

    Columns: the one-sided 95 % limit on the drop; the losses that would turn the check red, and the drop that they
    make; the true drop that is found four times in five; of an undecided check the cases that would settle it; the
    noise floor, where it was measured.
    """
    compared = [verdict for verdict in verdicts if verdict.p_value is not None]
    measured = any(verdict.noise is not None for verdict in compared)
    rows = [
        [
            verdict.method,
            f"{verdict.edits} ({verdict.mode})",
            verdict.title,
            verdict.kind,
            str(verdict.cases),
            "" if verdict.limit is None else f"{verdict.limit:.3f}",
            "none is enough" if verdict.flips_needed is None else str(verdict.flips_needed),
            "" if verdict.smallest_drop is None else f"{verdict.smallest_drop:.3f}",
            "none" if verdict.detectable is None else f"{verdict.detectable:.3f}",
            _settled_by(verdict),
            *([_floor(verdict)] if measured else []),
        ]
        for verdict in compared
    ]
    titles = ["method", "edits", "check", "verdict", "cases", "worse at most", "losses needed", "smallest drop"]
    return _table(rows, [*titles, "finds", "to settle", *(["noise floor"] if measured else [])])


def noise_lines(verdicts: Sequence[Verdict]) -> tuple[list[str], list[str]]:
    """What A/A comparisons found: a line on all of them, and a line for each check that they speak against."""
    measured = [(verdict, verdict.noise) for verdict in verdicts if verdict.noise is not None]
    if not measured:
        return [], []
    flipped = sum(noise.flips > 0 for _, noise in measured)
    largest = max(noise.difference for _, noise in measured)
    cases = sum(noise.cases for _, noise in measured)
    total = (
        f"A/A comparisons of {len(measured)} check{'' if len(measured) == 1 else 's'} ({cases} cases): cases flipped "
        f"in {flipped}, largest difference of a mean {largest:.3g}"
    )
    doubts = [f"{verdict.label}: {verdict.title} [{verdict.method}]: {verdict.doubt}" for verdict, _ in measured]
    return [total], [line for line, (verdict, _) in zip(doubts, measured, strict=True) if verdict.doubt]


def _settled_by(verdict: Verdict) -> str:
    if verdict.kind != "undecided" or verdict.cases_needed is None:
        return ""
    edits = "" if verdict.edits_needed is None else f" ({verdict.edits_needed} edits)"
    return f"{verdict.cases_needed}{edits}"


def _floor(verdict: Verdict) -> str:
    return "" if verdict.noise is None else f"{verdict.noise.difference:.3g} ({verdict.noise.flips} flips)"


def orphan_lines(orphans: Sequence[CheckRecord], command: str) -> list[str]:
    """Baselines that no test of a complete run asked for, and how to remove them."""
    if not orphans:
        return []
    head = f"{len(orphans)} baseline{'' if len(orphans) == 1 else 's'} without a test; remove with `{command}`:"
    return [head, *(f"  {check.label}: {check.title} [{check.method}]" for check in orphans)]


def efficiency_table(
    costs: Sequence[PhaseCost] | Sequence[EfficiencySummary],
    answering: Mapping[str, Sequence[AnsweringCost]] = MappingProxyType({}),
) -> list[str]:
    """Seconds per method: preparation, the first edit and the others, by how many were applied at once; below, memory
    and energy of each phase.

    answering: of each method the passes that were timed.
    """
    summaries = [one for one in costs if isinstance(one, EfficiencySummary)]
    summaries += summarise([one for one in costs if isinstance(one, PhaseCost)])
    rows = [
        [
            *([one.method, f"{one.preparation_seconds:.1f}"] if first else ["", ""]),
            "" if batch is None else str(batch.edits),
            "" if batch is None else str(batch.times),
            _seconds(one.first_seconds) if first else "",
            "" if batch is None else _seconds(batch.median_seconds),
            "" if batch is None or batch.quartiles is None else " to ".join(map(_seconds, batch.quartiles)),
            *([f"{one.evaluation_seconds:.1f}", *_passes(answering.get(one.method, ()))] if first else [""] * 3),
            _memory(one.host_peak_bytes or None) if first else "",
        ]
        for one in summaries
        for first, batch in _with_first(one.applications)
    ]
    times = ["prepare s", "at once", "times", "first s", "median s", "quartiles s", "evaluate s"]
    table = _table(rows, ["method", *times, "a pass", "ms more a token", "host GiB"])
    return [*table, *(["", *below] if (below := _phases(summaries)) else [])]


def _with_first(batches: Sequence[Applications]) -> Iterator[tuple[bool, Applications | None]]:
    """Each of a method's batches, and whether it is the first; a method without any has one empty line."""
    yield from ((at == 0, batch) for at, batch in enumerate(batches or [None]))


def _passes(costs: Sequence[AnsweringCost]) -> list[str]:
    """How many times as long a pass takes with the edits, and what they add to a token of the question."""
    added = [each.overhead_per_token for each in costs if each.overhead_per_token is not None]
    return [
        f"x {median(each.ratio for each in costs):.2f}" if costs else "",
        f"{median(added) * 1000:.3f}" if added else "",
    ]


def _phases(summaries: Sequence[EfficiencySummary]) -> list[str]:
    """Peaks and energy of preparing, editing and evaluating; columns that nothing is known for are left out."""
    columns: dict[str, Callable[[PhaseTotal], str]] = {
        "host GiB": lambda total: _memory(total.host_peak_bytes),
        "device GiB": lambda total: _memory(total.device_peak_bytes),
        "reserved GiB": lambda total: _memory(total.device_reserved_bytes),
        "J": lambda total: "" if total.joules is None else f"{total.joules:.0f}",
    }
    totals = [(one.method, name, total) for one in summaries for name, total in one.phases.items()]
    shown = [name for name, cell in columns.items() if any(cell(total) for _, _, total in totals)]
    rows = [[method, name, *(columns[each](total) for each in shown)] for method, name, total in totals]
    return _table(rows, ["method", "phase", *shown]) if shown else []


def _in_full(verdicts: Iterable[Verdict], kind: Kind) -> list[str]:
    chosen = [verdict for verdict in verdicts if verdict.kind == kind]
    chosen.sort(key=lambda verdict: verdict.p_value if verdict.p_value is not None else 0.0)
    return [line for verdict in chosen for line in (verdict.label, *(f"  {line}" for line in verdict.lines))]


def property_order(title: str) -> tuple[int, str, str]:
    """Key of a property's title: by the survey's order; of one property, what real decoding decides comes first."""
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
