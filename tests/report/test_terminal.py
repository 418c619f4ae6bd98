"""The summary as text."""

from __future__ import annotations

from comparison.built import accepted, lost, measured

from editguard.comparison import judge, missing
from editguard.measurements import AnsweringCost, PhaseCost
from editguard.measurements.signals import Series, Signals
from editguard.report.terminal import (
    METHODS_ABREAST,
    drift_table,
    efficiency_table,
    measurement_table,
    open_questions,
    orphan_lines,
    power_table,
    regressions,
    verdict_counts,
)


def test_methods_stand_against_properties() -> None:
    lines = measurement_table(
        [
            measured([1.0, 1.0, 0.0], name="locality"),
            measured([1.0, 1.0, 1.0], excluded_probes=("x",)),
            measured([0.0, 1.0, 0.0], method="ft-l"),
            measured([1.0, 0.0, 0.0]),
            measured([None], name="portability"),
            measured([0.0], method="ft-l", mode="single"),
        ]
    )
    assert lines[0].split() == ["edits", "property", "cases", "rome", "ft-l"]
    first, second, third, *others = lines[2:]
    assert "1.00 [0.44, 1.00] of 3 (1 excluded)" in first, "cases differ between the methods, so each says how many"
    assert "0.33 [0.06, 0.79] of 3" in first
    assert second.split()[:2] == ["reliability", "3"], "what was measured twice has a row of its own"
    assert third.split()[:2] == ["locality", "3"]
    assert any("portability  0 (1 invalid)" in line for line in others)
    assert any(line.startswith("1 (single)") for line in others)


def test_many_methods_continue_in_a_further_table() -> None:
    lines = measurement_table([measured([1.0], method=f"m{number}") for number in range(METHODS_ABREAST + 1)])
    heads = [line for line in lines if line.startswith("edits")]
    assert len(heads) == 2
    assert heads[1].split()[-1] == f"m{METHODS_ABREAST}"


def test_an_empty_run_has_an_empty_summary() -> None:
    assert measurement_table([]) == efficiency_table([]) == regressions([]) == power_table([]) == []
    assert verdict_counts([]) == "0 baseline checks: none"
    assert orphan_lines([], "x") == []


def test_verdicts_are_counted_in_a_fixed_order() -> None:
    red = judge(accepted(lost(40, 12)[0]), lost(40, 12)[1])
    open_ = judge(accepted(lost(20, 2)[0]), lost(20, 2)[1])
    green = judge(accepted(measured([1.0])), measured([1.0]))
    new = missing(measured([1.0]), label="t", command="c")
    assert verdict_counts([new, open_, red, green, green]) == (
        "5 baseline checks: 2 held, 1 regressed, 1 undecided, 1 missing"
    )
    assert verdict_counts([green]) == "1 baseline check: 1 held"


def test_only_regressions_are_listed_with_their_cases_the_clearest_first() -> None:
    weak, strong = lost(40, 6), lost(60, 20)
    verdicts = [
        judge(accepted(weak[0], label="test_weak"), weak[1]),
        judge(accepted(strong[0], label="test_strong"), strong[1]),
        judge(accepted(measured([1.0]), label="test_green"), measured([1.0])),
    ]
    lines = regressions(verdicts)
    assert lines[0] == "test_strong"
    assert lines.index("test_weak") > 5
    assert not any("test_green" in line for line in lines)
    assert any("'The capital of S0 is'" in line for line in lines)


def test_open_questions_say_what_would_decide_them() -> None:
    before, now = lost(20, 2)
    lines = open_questions(
        [judge(accepted(before, label="test_open"), now), missing(now, label="test_new", command="do it")]
    )
    assert lines[0].startswith("test_open: reliability")
    assert "5 lost cases" in lines[1]
    assert "294 cases like these would settle it" in lines[2]
    assert "do it" in lines[3]


def test_what_so_many_cases_can_show_stands_in_a_table() -> None:
    small, large = lost(3, 0), lost(100, 0)
    lines = power_table([judge(accepted(one), other) for one, other in (small, large)])
    assert "none is enough" in lines[2]
    assert lines[3].split()[-4:] == ["0.035", "5", "0.050", "0.072"]
    assert "noise floor" not in lines[0]


def test_preparation_and_edits_have_columns_of_their_own_and_each_number_at_once_a_line() -> None:
    costs = [
        PhaseCost(method="rome", phase="prepare", seconds=12.34, host_peak_bytes=2**30, host_phase_peak_bytes=2**29),
        PhaseCost(method="rome", phase="edit", edits=1, seconds=3.0),
        PhaseCost(method="rome", phase="edit", edits=1, seconds=0.5),
        PhaseCost(method="rome", phase="edit", edits=10, seconds=2.0),
        PhaseCost(method="rome", phase="edit", edits=10, seconds=4.0),
    ]
    passes = [AnsweringCost(prompts=2, edited_seconds=0.5, unedited_seconds=0.25, tokens=100)]
    lines = efficiency_table(costs, {"rome": passes})
    assert lines[2].split() == ["rome", "12.3", "1", "1", "3.00", "0.50", "0.0", "x", "2.00", "5.000", "1.00"]
    assert lines[3].split() == ["10", "2", "0.30", "0.25", "to", "0.35"]
    assert lines[4] == ""
    assert lines[5].split() == ["method", "phase", "host", "GiB"]
    assert [line.split() for line in lines[7:]] == [["rome", "prepare", "0.50"], ["rome", "edit"]]


def test_memory_and_energy_of_a_card_have_columns_where_they_are_known() -> None:
    card = {"device_peak_bytes": 2**30, "device_reserved_bytes": 2**31}
    costs = [
        PhaseCost(method="rome", phase="edit", edits=1, seconds=1.0, joules=40.4, **card),
        PhaseCost(method="ike", phase="prepare", seconds=1.0),
        PhaseCost(method="ike", phase="evaluate", seconds=1.0),
    ]
    lines = efficiency_table(costs)
    assert lines[3].split() == ["ike", "1.0", "1.0"]
    assert " ".join(lines[5].split()) == "method phase device GiB reserved GiB J"
    assert [line.split() for line in lines[7:]] == [
        ["rome", "edit", "1.00", "2.00", "40"],
        ["ike", "prepare"],
        ["ike", "evaluate"],
    ]
    assert len(efficiency_table([PhaseCost(method="rome", phase="edit", edits=1)])) == 3


def test_orphans_come_with_the_command_that_removes_them() -> None:
    lines = orphan_lines([accepted(measured([1.0]), label="test_gone")], "pytest --editguard-baseline=prune")
    assert "pytest --editguard-baseline=prune" in lines[0]
    assert lines[1] == "  test_gone: reliability [rome]"


def series(method: str, edits: list[int], losses: list[float | None] | None = None) -> Series:
    values = losses if losses is not None else [1.0 + n / 100 for n in edits]
    return Series(
        method,
        tuple(
            Signals(edits=n, log_perplexity=loss, entropy=3.0, weights={"w": n / 10})
            for n, loss in zip(edits, values, strict=True)
        ),
    )


def test_drift_is_shown_where_every_method_was_read() -> None:
    """A method that was read at checkpoints alone has a value in each column."""
    sparse = [0, 1, 10, 30, 60]
    lines = drift_table([series("rome", list(range(61))), series("ike", sparse)])
    assert lines[1].split()[:6] == ["method", "after", "edit", "(of", "60)", "0"]
    assert [int(word) for word in lines[1].split()[5:-2]] == sparse
    assert "1.600" in lines[3]
    assert not any(" - " in line for line in lines[3:])
    alone = drift_table([series("rome", list(range(61)))])
    assert [int(word) for word in alone[1].split()[5:-2]] == [0, 12, 24, 36, 48, 60]


def test_sequences_of_two_lengths_have_two_tables_and_no_number_is_a_dash() -> None:
    lines = drift_table([series("rome", [0, 1, 2], [1.0, None, 2.0]), series("rome", [0, 1])])
    assert sum("after edit (of" in line for line in lines) == 2
    assert lines[3].split()[-3:] == ["1.000", "-", "2.000"]
    assert drift_table([]) == []


def test_a_signal_that_gets_worse_says_from_which_edit_on() -> None:
    lines = drift_table([series("rome", list(range(40)), [1.0 + max(0, n - 12) for n in range(40)])])
    assert lines[3].endswith("from edit 13")
    assert not lines[4].endswith("from edit 13")
