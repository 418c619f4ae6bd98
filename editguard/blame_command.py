"""`editguard blame`: which edits make a test fail. pytest runs the test, and the plugin does the rest."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Final

from editguard.errors import ConfigurationError

NOTHING: Final = 1
"""Exit status where no edit is named."""
SECONDS: Final = 600


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "blame",
        help="find the edits that make a test of a sequence or a batch fail",
        description="Runs a test with pytest; when it fails, asks it again with parts of its edits in force, until it "
        "is known with which of them alone it fails. A known failure is looked into like any other. Exit status: 0, "
        "1 where no edit is named (the test passes, or fails without edits too), 2 for a mistake. All other options "
        "are pytest's: --editguard-methods=rome, for example.",
    )
    parser.add_argument("test", metavar="TEST_ID", help='as pytest prints it: "suites/test_x.py::test_y[rome-60]"')
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, metavar="N", help="for the search (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="what was found as JSON; pytest prints to stderr")


def run(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the test, print what was found; returns the exit status.

    Args:
        options: of the command.
        others: options for pytest.

    Raises: ConfigurationError: the time is no positive number, or pytest could not run the test.
    """
    from editguard.pytest_plugin.one_test import findings_of

    if options.seconds < 1:
        raise ConfigurationError(f"--seconds must be at least 1; it is {options.seconds}.")
    arguments = [f"--editguard-blame={options.seconds}", "--tb=short", *others]
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        findings = findings_of(options.test, arguments)
    if options.json:
        print(json.dumps(findings, indent=2, ensure_ascii=False))
    elif not findings:
        print("no edit to blame: no test of several edits failed by an assertion.")
    return 0 if any(not finding["reason"] for finding in findings) else NOTHING
