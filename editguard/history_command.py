"""`editguard history`: how each check went over the runs, since when it is what it is, and exports."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Final

from editguard.errors import ConfigurationError, closest
from editguard.storage import HISTORY_FILE

if TYPE_CHECKING:
    from editguard.history import RunCheck, RunRecord

_ENDLESS: Final = 10_000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "history",
        help="show how each check went over the runs, and since when",
        description="Reads the database to which pytest adds every run with tests of edits (--editguard-history), and "
        "shows the trend of each check, its latest value and verdict, and the run and commit since which they are so.",
    )
    parser.add_argument(
        "view", nargs="?", choices=("checks", "runs"), default="checks", help="what to show (default: %(default)s)"
    )
    parser.add_argument("--database", type=Path, default=HISTORY_FILE, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--check", metavar="PATTERN", help='part of a test\'s id, property or check id; "*" and "?" stand for others'
    )
    parser.add_argument("--method", metavar="NAME", help="checks of this editing method alone")
    parser.add_argument("--last", type=int, metavar="N", help="look at the latest N runs alone")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write all columns to a .csv or .parquet file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> str:
    """Read the history and return what to print.

    Raises: HistoryUnreadable: the database is missing or cannot be read. ConfigurationError: a wrong option, or
        nothing fits them.
    """
    if options.last is not None and options.last < 1:
        raise ConfigurationError("--last is a number of runs from 1 on.")
    from editguard.history import RunHistory, series_of
    from editguard.report import history_table
    from editguard.report.history_export import writer_for

    write = None if options.export is None else writer_for(options.export)
    runs = _chosen(RunHistory(options.database).runs(options.last), options)
    checks = options.view == "checks"
    if write is not None:
        write(options.export, runs, checks)
        print(f"wrote {options.export}", file=sys.stderr)
    if options.json:
        found = history_table.checks_json(series_of(runs)) if checks else history_table.runs_json(runs)
        return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    columns = get_terminal_size((_ENDLESS, 24)).columns
    width = columns if columns < _ENDLESS else None
    if not checks:
        return history_table.runs_text(runs, width)
    return history_table.checks_text(series_of(runs), history_table.levels_for(sys.stdout.encoding), width)


def _chosen(runs: Sequence[RunRecord], options: argparse.Namespace) -> list[RunRecord]:
    """The runs with the checks that were asked for; where checks were chosen, runs that have some.

    Raises: ConfigurationError: no run has one.
    """
    if options.check is None and options.method is None:
        return list(runs)
    methods = {check.method for run in runs for check in run.checks}
    if options.method is not None and options.method not in methods:
        known = ", ".join(sorted(methods)) or "none"
        raise ConfigurationError(
            f"--method: {options.database} has no check of {options.method!r}; it has {known}."
            f"{closest(options.method, methods)}"
        )
    pattern = None if options.check is None else _pattern(options.check)
    chosen = [
        replace(run, checks=tuple(check for check in run.checks if _fits(check, pattern, options.method)))
        for run in runs
    ]
    chosen = [run for run in chosen if run.checks]
    if not chosen:
        of = "" if options.method is None else f" of {options.method}"
        raise ConfigurationError(f"--check: no check{of} in {options.database} fits {options.check!r}.")
    return chosen


def _pattern(text: str) -> re.Pattern[str]:
    """Where "*" stands for any letters and "?" for one; brackets, as tests' ids have them, for themselves."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(letter, re.escape(letter)) for letter in text), re.IGNORECASE)


def _fits(check: RunCheck, pattern: re.Pattern[str] | None, method: str | None) -> bool:
    if method is not None and check.method != method:
        return False
    return pattern is None or any(pattern.search(text) for text in (check.node_id, check.title, check.check))
