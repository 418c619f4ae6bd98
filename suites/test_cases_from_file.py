"""Cases kept in a file: one JSON object per line, so that people who do not write Python can add edits.

The path is relative to this file. A line that is no case stops the collection with the file, the line and the field.
"""

import pytest

from editguard import load_cases

CASES = load_cases("cases/relocations.jsonl", base=__file__)

pytestmark = [pytest.mark.edit(CASES), pytest.mark.must_hold(CASES[0])]


def test_reliability(edited, baseline):
    """The first case of the file must hold: it fails at its first flip, whatever the statistics say."""
    baseline.check(edited.reliability())


def test_generalization(edited, baseline):
    baseline.check(edited.generalization())


def test_locality(edited, baseline):
    baseline.check(edited.locality())
