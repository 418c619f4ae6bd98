"""What blaming has found, as data and in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from editguard.blame import Finding, LostProbe, NamedEdit, NearPair
from editguard.blame.finding import SHOWN

EDITS = tuple(NamedEdit(number=n, request=f"r{n}", text=f"The capital of S{n} is", target="Ona") for n in range(1, 12))
PROBE = LostProbe(
    property="locality", kind="near", prompt="Who?", expected="old", before="old", after="new", number=4, own=False
)
PAIR = NearPair(edit=4, prompt="Who?", token="?", layer=2, similarity=0.875)
FOUND = Finding(
    test="suites/test_x.py::test_y[rome-60]",
    method="rome",
    edits=60,
    first=EDITS[1],
    blamed=EDITS[:2],
    minimal=True,
    recorded=True,
    confirmed="same",
    lost=(PROBE,),
    lost_from_scratch=1,
    near=(PAIR,),
    tried=9,
    seconds=1.25,
)


@pytest.mark.parametrize("found", [FOUND, Finding(test="t", method="rome", edits=2, reason="it holds")])
def test_a_finding_survives_json(found: Finding) -> None:
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_first_line_says_it_all() -> None:
    assert FOUND.lines[0].startswith("2 of 60 edits are to blame together")
    assert replace(FOUND, blamed=EDITS[:1]).lines[0] == "1 of 60 edits is to blame: it alone makes the check fail"
    assert Finding(test="t", method="m", edits=2, reason="it holds").lines == ["no edit is named: it holds"]


def test_one_probe_fails_and_two_fail() -> None:
    assert "  with them 1 probe fails:" in FOUND.lines
    assert "  with them 2 probes fail:" in replace(FOUND, lost=(PROBE, PROBE)).lines


def test_the_edit_at_which_it_begins_to_fail_is_named_where_it_is_none_of_the_blamed() -> None:
    assert not any("begins to fail" in line for line in FOUND.lines)
    assert any("begins to fail with edit 3" in line for line in replace(FOUND, first=EDITS[2]).lines)


@pytest.mark.parametrize(
    ("confirmed", "words"),
    [
        ("same", "the same probes"),
        ("other", "7 lost instead of 1"),
        ("no", "they do not (7 probes lost)"),
        ("not tried", "not confirmed"),
    ],
)
def test_every_outcome_of_the_confirmation_is_told(confirmed: str, words: str) -> None:
    lines = replace(FOUND, confirmed=confirmed, lost_from_scratch=7).lines  # type: ignore[arg-type]
    assert sum(words in line for line in lines) == 1


def test_long_lists_are_cut_and_counted_and_time_that_was_over_is_told() -> None:
    lines = replace(FOUND, blamed=EDITS, lost=(PROBE,) * 20, minimal=False).lines
    assert sum(line.startswith("  edit ") for line in lines) == SHOWN
    assert sum(line.strip() == "and 3 more" for line in lines) == 1
    assert sum(line.strip() == "and 12 more" for line in lines) == 1
    assert any("the time was over" in line for line in lines)
    assert "0.88  edit 4 and 'Who?' at '?', layer 2" in "\n".join(lines)
