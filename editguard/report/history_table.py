"""The history for a terminal: a trend of each check, what it is now and since when; and a list of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from editguard.history import RunCheck, RunRecord, Series
from editguard.history.run import plain
from editguard.measurements.record import FRACTION
from editguard.report.terminal import KINDS
from editguard.study.fitting import tables_within

BLOCKS: Final = "▁▂▃▄▅▆▇█"
DIGITS: Final = "12345678"
"""What stands for the blocks where the terminal cannot write them."""
LEAST_SPAN: Final = 0.1
"""Of a trend of shares: changes of less than a hundredth fill no trend."""
NEWEST: Final = 24
"""Runs in a trend at most."""
_WHICH: Final = (
    *("suite", "label", "node_id", "file", "line", "environment", "check_id"),
    *("method", "mode", "property", "kind", "unit", "lower_is_better", "edits"),
)
_WHEN: Final = ("began", "commit_id", "branch", "dirty", "exit_status", "complete")
_NO_VALUE: Final = {BLOCKS: "·", DIGITS: "."}


def levels_for(encoding: str | None) -> str:
    """The signs of a trend that an output of this encoding can write, the lowest first."""
    try:
        (BLOCKS + _NO_VALUE[BLOCKS]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return DIGITS
    return BLOCKS


def sparkline(values: Sequence[float | None], levels: str = BLOCKS, *, least_span: float = 0.0) -> str:
    """One sign for each value, from the lowest to the highest of them.

    Args:
        values: None draws a dot.
        levels: the signs, the lowest first.
        least_span: the distance between the lowest and the highest sign at least; values that span less stand in the
            middle of it.
    """
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    missing = max(0.0, least_span - (high - low))
    low, high = low - missing / 2, high + missing / 2
    signs = []
    for value in values:
        if value is None:
            signs.append(_NO_VALUE[levels])
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        signs.append(levels[min(int(share * len(levels)), len(levels) - 1)])
    return "".join(signs)


def checks_text(series: Sequence[Series], levels: str = BLOCKS, width: int | None = None) -> str:
    """A table for each suite, model and environment class.

    Args:
        levels: the signs of the trends.
        width: in characters, to which tables are broken; None for as much as wanted.
    """
    groups: dict[str, list[Series]] = {}
    for one in series:
        groups.setdefault(_heading(one), []).append(one)
    lines: list[str] = []
    for heading, members in groups.items():
        rows = [_row(one, levels) for one in members]
        titles = ["test", "property", "runs", "trend", "latest", "verdict", "so since", "regressed since"]
        filled = [at for at in range(len(titles)) if any(row[at] for row in rows)]
        shown = [[row[at] for at in filled] for row in rows]
        lines += ["", heading, *tables_within(shown, [titles[at] for at in filled], "simple", 2, width)]
    legend = 'so since: the run from which on the mean has been what it is now; "+": with uncommitted changes'
    return "\n".join([*lines[1:], "", legend])


def runs_text(runs: Sequence[RunRecord], width: int | None = None) -> str:
    """A line for each run, the latest first; see `checks_text`."""
    rows = [
        [
            run.id[:8],
            run.title,
            run.branch or "",
            run.model,
            ", ".join(run.methods),
            str(run.workers),
            str(len(run.checks)),
            _verdicts(run),
            str(run.exit_status) + ("" if run.complete else " (in part)"),
        ]
        for run in reversed(runs)
    ]
    titles = [
        "run",
        "began (UTC), commit",
        "branch",
        "model",
        "methods",
        "workers",
        "checks",
        "verdicts",
        "exit status",
    ]
    return "\n".join(tables_within(rows, titles, "simple", 2, width))


def checks_json(series: Sequence[Series]) -> list[dict[str, Any]]:
    """The same as plain data: each check with all its runs."""
    return [
        {
            "model": one.runs[-1].model,
            **{name: value for name, value in plain(one.latest).items() if name in _WHICH},
            "changed": None if one.changed is None else one.runs[one.changed].id,
            "regressed": None if one.regressed is None else one.runs[one.regressed].id,
            "runs": [
                {
                    "run": run.id,
                    **{name: value for name, value in plain(run).items() if name in _WHEN},
                    **{name: value for name, value in plain(check).items() if name not in _WHICH},
                }
                for run, check in zip(one.runs, one.checks, strict=True)
            ],
        }
        for one in series
    ]


def runs_json(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The runs as plain data, the oldest first."""
    return [
        {
            **plain(run),
            "methods": list(run.methods),
            "environments": dict(run.environments),
            "checks": len(run.checks),
            "verdicts": dict(Counter(check.verdict for check in run.checks if check.verdict is not None)),
        }
        for run in runs
    ]


def _heading(series: Series) -> str:
    check, run = series.latest, series.runs[-1]
    place = f", {check.environment}" if check.environment else ""
    return f"{check.node_id.partition('::')[0] or check.suite}: {run.model}{place}"


def _row(series: Series, levels: str) -> list[str]:
    check = series.latest
    span = LEAST_SPAN if check.unit == FRACTION else 0.0
    return [
        check.label,
        check.title,
        str(len(series.runs)),
        sparkline(series.means[-NEWEST:], levels, least_span=span),
        _value(check),
        check.verdict or "",
        _since(series),
        "" if series.regressed is None else series.runs[series.regressed].title,
    ]


def _value(check: RunCheck) -> str:
    if check.mean is None or check.interval is None:
        return "-"
    return f"{check.mean:.3f} [{check.interval[0]:.3f}, {check.interval[1]:.3f}]"


def _since(series: Series) -> str:
    if series.changed is None:
        return ""
    before = series.means[series.changed - 1]
    was = "no value" if before is None else f"{before:.3f}"
    return f"{series.runs[series.changed].title} (was {was})"


def _verdicts(run: RunRecord) -> str:
    counts = Counter(check.verdict for check in run.checks)
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
