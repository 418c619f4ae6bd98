"""Charts and heat maps of sequences: every point where it belongs, every state of every edit as it was measured."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.built_run import EDITS, case, measurement, series

from editguard.measurements import Measurement
from editguard.measurements.drift import curve
from editguard.measurements.signals import SIGNALS
from editguard.report.drift_panels import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, looks, property_panels, signal_panels
from editguard.report.palette import COLOURS, ON_DARK, heat
from editguard.report.retention_map import MOST_COLUMNS, MOST_EDITS, RetentionMap, retention_maps
from editguard.report.sequences import Grown, grown_sequences


def sequence(*measurements: Measurement) -> Grown:
    [found] = grown_sequences(measurements)
    return found


def test_measurements_of_one_growing_sequence_belong_together_and_others_do_not() -> None:
    ours = [measurement("rome", count) for count in (1, 10, 30)] + [measurement("memit", 10)]
    other = [measurement("rome", count, values=(case("x"),)) for count in (1, 3)]
    other = [Measurement(**{**vars_of(one), "edit_ids": ("x", "y", "z")[: one.edits]}) for one in other]
    alone = measurement("rome", 30, mode="batch")
    found = grown_sequences([*ours, *other, alone, curve(ours[:3])])
    assert [(each.checkpoints, each.methods) for each in found] == [
        ([1, 10, 30], ["rome", "memit"]),
        ([1, 3], ["rome"]),
    ]
    assert found[0].measurements == ours
    assert grown_sequences([measurement("rome", 10)]) == []


def vars_of(one: Measurement) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6, unique=True).map(sorted),
    lost=st.sets(st.integers(1, 30)),
)
def test_points_rise_with_the_mean_and_lie_within_the_axes(counts: list[int], lost: set[int]) -> None:
    parts = [measurement("rome", count, sorted(lost)) for count in counts]
    [panel] = property_panels(sequence(*parts))
    [line] = panel.lines
    assert [mark.x for mark in line.marks] == sorted(mark.x for mark in line.marks)
    for one, mark in zip(parts, line.marks, strict=True):
        assert mark.y == pytest.approx(TOP + (1 - one.mean) * (HEIGHT - TOP - BOTTOM), abs=0.06)
        assert mark.high is not None
        assert mark.low is not None
        assert TOP - 0.06 <= mark.high <= mark.y + 0.06
        assert mark.y - 0.06 <= mark.low <= HEIGHT - BOTTOM + 0.06
        assert LEFT <= mark.x <= WIDTH - RIGHT
        assert f"after {one.edits}: {one.mean:.2f}" in panel.told
    assert panel.across[0][1] == str(counts[0])
    assert panel.across[-1][1] == str(counts[-1])


def test_every_kind_of_value_has_an_axis_that_holds_it() -> None:
    parts = [
        measurement("rome", count, unit="nats", values=tuple(case(edit, value=4.3 + count) for edit in EDITS[:count]))
        for count in (1, 10)
    ]
    [panel] = property_panels(sequence(*parts))
    assert panel.title == "reliability (nats)"
    levels = [float(text) for _, text in panel.up]
    assert levels[0] <= 5.3 < 14.3 <= levels[-1]
    assert all(before < after for before, after in pairwise(levels))
    assert [y for y, _ in panel.up] == sorted((y for y, _ in panel.up), reverse=True)


def test_the_onset_of_a_signal_is_marked_at_its_edit_and_told() -> None:
    [(length, panels)] = signal_panels([series("rome", worse_from=12), series("memit")])
    assert length == 30
    perplexity, _, weights = panels
    rome, memit = perplexity.lines
    begins = series("rome", worse_from=12).onset(SIGNALS[0])
    assert begins is not None
    assert rome.worse_from == begins.after + 1 == 13
    assert rome.onset == rome.marks[rome.worse_from]
    assert f"gets worse from edit {rome.worse_from}" in perplexity.told
    assert memit.onset is None
    assert all(line.onset is None for line in weights.lines)
    assert len(rome.marks) == 31
    assert sum(mark.shown for mark in rome.marks) <= 10


def test_a_signal_without_finite_values_is_left_out() -> None:
    broken = series("rome")
    points = tuple(
        type(point)(edits=point.edits, log_perplexity=None, entropy=None, weights={"w": float("inf")})
        for point in broken.points
    )
    assert signal_panels([type(broken)("rome", points)]) == []


def test_no_two_methods_look_alike_and_neighbours_differ_in_dash_and_marker_too() -> None:
    found = list(looks([f"m{number}" for number in range(49)]).values())
    assert len(set(found)) == 49
    for before, after in pairwise(found):
        assert before.colour != after.colour
        assert before.dash != after.dash
        assert before.marker != after.marker


# ---- retention


def maps_of(*measurements: Measurement) -> list[RetentionMap]:
    return retention_maps(sequence(*measurements), {edit: f"about {edit}" for edit in EDITS})


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4, unique=True).map(sorted),
    lost=st.lists(st.sets(st.integers(1, 30)), min_size=4, max_size=4),
)
def test_a_cell_is_the_share_of_its_edits_that_hold(counts: list[int], lost: list[set[int]]) -> None:
    parts = [measurement("rome", count, sorted(gone)) for count, gone in zip(counts, lost, strict=False)]
    [found] = maps_of(*parts)
    width = -(-counts[-1] // MOST_COLUMNS)
    assert len(found.columns) == -(-counts[-1] // width) <= MOST_COLUMNS
    for count, gone, cells in zip(counts, lost, found.rows, strict=False):
        for place, cell in enumerate(cells):
            edits = [edit for edit in range(place * width + 1, (place + 1) * width + 1) if edit <= count]
            held = [edit not in gone for edit in edits]
            if not edits:
                assert (cell.text, cell.ground) == ("", "")
            else:
                assert cell.ground == heat(sum(held) / len(held))[0]
                single = {True: ("✓", "holds"), False: ("✗", "lost")}
                several = (f"{sum(held) / len(held):.2f}", f"{sum(held)} of {len(held)} hold")
                last = len(range(place * width, min((place + 1) * width, counts[-1])))
                assert (cell.text, cell.told) == (single[held[0]] if last == 1 else several)
    ever = {edit for count, gone in zip(counts, lost, strict=False) for edit in gone if edit <= count}
    assert [edit.number for edit in found.lost] == sorted(ever)
    assert (
        f"{counts[-1] - len({e for e in lost[len(counts) - 1] if e <= counts[-1]})} of {counts[-1]} hold" in found.told
    )


def test_superseded_edits_and_ones_that_were_not_asked_are_not_lost() -> None:
    whole = measurement("rome", 5, (2,))
    fewer = measurement("rome", 10, (2, 4), superseded_edits=EDITS[:1])
    fewer = Measurement(**{**vars_of(fewer), "values": fewer.values[1:9]})  # type: ignore[arg-type]
    [found] = maps_of(whole, fewer)
    assert [cell.told for cell in found.rows[1]][:4] == ["superseded", "lost", "holds", "lost"]
    assert (found.rows[1][9].told, found.rows[1][0].ground) == ("not asked", "")
    assert [(edit.number, edit.text, edit.states) for edit in found.lost] == [
        (2, "about edit002", ("lost", "lost")),
        (4, "about edit004", ("holds", "lost")),
    ]
    assert found.told == "4 of 5 hold after 5; 6 of 8 hold (1 superseded, 1 not asked) after 10"


def test_superseded_edits_are_left_out_of_the_share_of_their_column() -> None:
    last = measurement("rome", 30, (4,), superseded_edits=(EDITS[0], EDITS[2]))
    standing = tuple(value for value in last.values if value.edit not in last.superseded_edits)
    last = Measurement(**{**vars_of(last), "values": standing})  # type: ignore[arg-type]
    [found] = maps_of(measurement("rome", 1), last)
    assert [(cell.text, cell.told) for cell in found.rows[1][:3]] == [
        ("1.00", "1 of 1 hold (1 superseded)"),
        ("0.00", "0 of 1 hold (1 superseded)"),
        ("1.00", "2 of 2 hold"),
    ]


def test_of_many_lost_edits_the_first_are_named_and_the_rest_is_counted() -> None:
    edits = tuple(f"e{number}" for number in range(MOST_EDITS + 50))
    parts = [
        Measurement(
            name="reliability",
            protocol="decode_match",
            method="rome",
            mode="sequence",
            edit_ids=edits[:count],
            values=tuple(case(edit, right=False) for edit in edits[:count]),
        )
        for count in (1, len(edits))
    ]
    [found] = maps_of(*parts)
    assert (len(found.lost), found.more_lost) == (MOST_EDITS, 50)


# ---- colours


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@settings(deadline=None)
@given(share=st.floats(0, 1))
def test_what_stands_on_a_colour_can_be_read(share: float) -> None:
    assert contrast(*heat(share)) >= 4.5


def test_more_is_lighter() -> None:
    steps = [luminance(heat(number / 8)[0]) for number in range(9)]
    assert steps == sorted(set(steps))


def test_text_lines_and_marks_stand_out_in_both_schemes() -> None:
    style = (files("editguard.report") / "templates" / "run.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in style.split("}")[:2])
    assert light.keys() == dark.keys()
    for scheme, colours in ((light, COLOURS), (dark, ON_DARK)):
        for name in ("ink", "muted", "link", "failed", "passed", "open"):
            assert contrast(scheme[name], scheme["ground"]) >= 4.5
            assert contrast(scheme[name], scheme["card"]) >= 4.5
        assert contrast(scheme["focus"], scheme["ground"]) >= 3
        assert all(contrast(colour, scheme["ground"]) >= 2 for colour in colours)
        assert all(one != other for one, other in combinations(colours, 2))
