"""From the files of a study to a choice: values, scales, limits, reasons."""

import json

import pytest
from study.results_files import cost, number, row, survey, write

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.study.choice import choose
from editguard.study.criteria import COSTS, choose_group
from editguard.study.preferences import read_limit, read_weights
from editguard.study.results import read_results


@pytest.fixture
def group(tmp_path):
    """The single edits of a study that is written by hand."""

    def made(rows, costs=None, **options):
        results = read_results(write(tmp_path / "study", rows, costs, **options))
        return choose_group(results, "single", None)

    return made


def chosen(group, weights, *limits, draws=200):
    return choose(
        group, read_weights(weights, group), [read_limit(limit, group) for limit in limits], draws=draws, seed=0
    )


def test_the_score_is_the_weighted_mean_of_shares_and_of_powers_of_ten(group):
    study = group(
        [row("rome", survey(0.8, 0.6)), row("ike", survey(0.5, 0.9))], [cost("rome", 10.0), cost("ike", 0.01)]
    )
    choice = chosen(study, "reliability=2,locality=1,time=1")
    assert choice.methods == ("ike", "rome")
    # ike: (2 x 0.5 + 0.9 + 2) / 4, rome: (2 x 0.8 + 0.6 - 1) / 4
    assert choice.parts.sum(axis=1) == pytest.approx([0.975, 0.3])
    assert choice.parts[0] == pytest.approx([0.25, 0.225, 0.5])


def test_the_order_in_which_weights_are_typed_is_no_matter(group):
    rows = [row(name, survey(a, b, portability=c)) for name, a, b, c in (("x", 1, 0, 0.3), ("y", 0, 1, 0.3))]
    study = group([*rows, row("z", survey(0.6, 0.6, portability=0.2))])
    one, other = (
        chosen(study, text)
        for text in ("reliability=1,locality=2,portability=3", "portability=3, locality=2 ,reliability=1,")
    )
    assert one.to_json() == other.to_json()


def test_fluency_is_the_share_that_is_kept_and_more_is_no_merit(group):
    bits = {"low": None, "high": None, "unit": "bits"}
    rows = [
        row(name, {"fluency": {**number(value), **bits}})
        for name, value in (("babbles", 6.0), ("same", 5.0), ("half", 2.5))
    ]
    rows += [
        row("unedited", {"fluency": {**number(value), **bits}}, size=size) for value, size in ((4.0, 3), (5.0, 20))
    ]
    choice = chosen(group(rows), "fluency=1")
    assert choice.methods == ("babbles", "same", "half")
    assert choice.places == [1, 1, 3]
    assert choice.utilities[:, 0] == pytest.approx([1.0, 1.0, 0.5])
    with pytest.raises(ConfigurationError, match="no value of the unedited model for single edits"):
        chosen(group(rows[:3]), "fluency=1")


def test_quality_is_the_mean_of_the_surveys_properties_and_asks_for_all_that_any_method_has(group):
    rows = [row("whole", survey(0.9, 0.3)), row("part", {"reliability": 1.0, "other_tasks": 1.0})]
    choice = chosen(group(rows), "quality=1")
    assert choice.utilities.tolist() == [[pytest.approx(0.6)]]
    assert choice.unranked == {"part": "no value of quality"}


def test_what_is_below_the_floor_of_a_cost_is_equal(group):
    rows = [
        row(name, survey(1, 1), stored_bytes=size) for name, size in (("a", 0.0), ("b", 1000.0), ("c", 2.0**10 * 10))
    ]
    choice = chosen(group(rows), "bytes=1")
    assert choice.places == [1, 1, 3]
    assert choice.utilities[:, 0] == pytest.approx([3.0103, 3.0103, 2.0103], abs=1e-4)
    assert all(0 < each.floor <= each.unit for each in COSTS.values())


def test_methods_without_a_value_that_a_weight_asks_for_are_not_ranked_and_the_reason_is_said(group):
    rows = [
        row("memory", survey(0.9, 0.9), tokens_per_answer=40.0),
        row("weights", survey(1.0, 1.0), tokens_per_answer=None),
        row("silent", {"reliability": number(None), "locality": 0.5}, tokens_per_answer=3.0),
    ]
    study = group(rows, methods=["absent", "memory", "weights", "silent"])
    choice = chosen(study, "reliability=1,tokens=1")
    assert choice.methods == ("memory",)
    assert choice.unranked == {
        "absent": "not measured in this mode and size",
        "weights": "no value of tokens",
        "silent": "no value of reliability",
    }
    assert set(chosen(study, "reliability=1,tokens=0").methods) == {"memory", "weights"}


def test_a_limit_drops_a_method_with_value_and_interval_and_says_where_it_is_in_doubt(group):
    wide = {"low": 0.7, "high": 0.95}
    rows = [
        row("over", {"reliability": 0.5, "locality": number(0.9, **wide)}),
        row("under", {"reliability": 1.0, "locality": number(0.88, **wide)}),
        row("far", {"reliability": 1.0, "locality": number(0.3, low=0.2, high=0.4)}),
        row("without", {"reliability": 1.0}),
    ]
    choice = chosen(group(rows), "reliability=1", "locality>=0.9")
    assert choice.methods == ("over",)
    assert choice.doubtful == {"over": ["locality>=0.9"]}
    assert choice.unranked == {
        "under": "locality is 0.880 [0.70, 0.95], and locality>=0.9 is required (in doubt: its interval reaches over "
        "that)",
        "far": "locality is 0.300 [0.20, 0.40], and locality>=0.9 is required",
        "without": "no value of locality",
    }


def test_a_lead_within_the_intervals_of_the_values_is_said_to_be_in_doubt(group):
    rows = [
        row("a", {"reliability": number(0.8, low=0.74, high=0.86), "locality": number(0.5, low=0.42, high=0.58)}),
        row("b", {"reliability": number(0.7), "locality": number(0.5)}),
    ]
    choice = chosen(group(rows, [cost("a", 1.0), cost("b", 1.0)]), "reliability=1,locality=1")
    assert choice.lead == pytest.approx(0.05)
    assert choice.margin == pytest.approx(0.05)  # half of 0.06 and 0.08 at a right angle
    assert chosen(group(rows[:1]), "reliability=1").lead is None


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ("reliability>0.5", ["c"]),
        ("reliability>=0.5", ["b", "c"]),
        ("reliability<0.5", ["a"]),
        ("reliability<=0.5", ["a", "b"]),
        ("time < 2e0", ["a", "b"]),
        (" portability/one_hop>=0", ["c"]),
    ],
)
def test_every_relation_of_a_limit_is_what_it_says_in_the_units_of_the_criterion(group, limit, kept):
    rows = [row(name, survey(value, 1.0)) for name, value in (("a", 0.4), ("b", 0.5), ("c", 0.6))]
    rows[2]["numbers"]["portability/one_hop"] = number(0.0)
    costs = [cost(name, seconds) for name, seconds in (("a", 0.5), ("b", 1.0), ("c", 3.0))]
    assert sorted(chosen(group(rows, costs), "locality=1", limit).methods) == kept


def test_where_no_method_is_left_there_is_no_winner_and_everything_can_still_be_written(group):
    choice = chosen(group([row("a", survey(0.4, 1.0))]), "locality=1,reliability=1", "reliability>0.9")
    assert choice.methods == choice.winners == ()
    record = json.loads(json.dumps(choice.to_json(), allow_nan=False))
    assert record["winners"] == record["methods"] == []
    assert record["unranked"][0]["values"]["reliability"]["value"] == 0.4


def test_the_nearest_change_and_the_ranges_name_methods(group):
    rows = [row("keeps", survey(0.2, 1.0)), row("takes", survey(1.0, 0.5)), row("poor", survey(0.1, 0.1))]
    choice = chosen(group(rows), "reliability=3,locality=1")
    # with t on reliability: takes 0.5 + 0.5 t, keeps 1 - 0.8 t; equal at t = 0.5 / 1.3
    assert choice.winners == ("takes",)
    assert choice.shift.method == "keeps"
    assert choice.shift.moved == pytest.approx(0.75 - 0.5 / 1.3)
    assert choice.ranges["reliability"].low == pytest.approx(0.5 / 0.8)  # reliability x 0.8 = locality x 0.5
    assert choice.methods[choice.ranges["reliability"].below] == "keeps"
    assert choice.exact
    assert dict(zip(choice.methods, choice.shares, strict=True)) == {
        "keeps": pytest.approx(0.5 / 1.3),
        "takes": pytest.approx(1 - 0.5 / 1.3),
        "poor": 0.0,
    }
    assert choice.to_json()["weight_ranges"]["reliability"] == {
        "low": pytest.approx(0.625),
        "high": None,
        "below": "keeps",
        "above": None,
    }


def test_a_group_is_single_edits_or_the_only_size_and_else_says_what_there_is(tmp_path):
    rows = [row("a", survey(1, 1), mode="batch", size=size) for size in (10, 100)]
    rows += [row("a", survey(1, 1), mode="sequence", size=5), row("unedited", survey(0, 1), mode="batch", size=7)]
    results = read_results(write(tmp_path, rows))
    assert choose_group(results, "sequence", None).size == 5
    assert choose_group(results, "batch", 100).size == 100
    for mode, size, said in (
        ("single", None, "has no single edits; it has batch of 10, 100; sequence of 5"),
        ("batch", 7, "has no batch of 7; it has batch of 10, 100"),
        ("batch", None, "--size"),
        (None, None, "--size"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            choose_group(results, mode, size)
    with pytest.raises(ConfigurationError, match="has no row of any method"):
        choose_group(read_results(write(tmp_path, rows[-1:])), None, None)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("{", r"summary\.json cannot be read"),
        ("[]", "no object with a list of rows"),
        ('{"rows": {}}', "no object with a list of rows"),
        ('{"rows": [3]}', r"summary\.json, record 1: it is no JSON object"),
        ('{"rows": [{"method": "a", "mode": "both", "size": 1}]}', "record 1: it is of no method, mode and size"),
        ('{"rows": [{"method": "a", "mode": "single", "size": 1, "numbers": []}]}', "its numbers are no JSON object"),
        (
            '{"rows": [{"method": "a", "mode": "single", "size": 1, "numbers": {"locality": {"mean": NaN}}}]}',
            r"numbers\.locality\.mean: nan is no finite number",
        ),
        (
            '{"rows": [{"method": "a", "mode": "single", "size": 1, "stored_bytes": "12"}]}',
            "stored_bytes: '12' is no finite number",
        ),
        (
            '{"rows": [{"method": "a", "mode": "single", "size": 1}, {"method": "a", "mode": "single", "size": 1}]}',
            "record 2: a second row of a, single, 1",
        ),
        (
            '{"rows": [{"method": "a", "mode": "single", "size": 1, "numbers": {"locality": {"unit": []}}}]}',
            r"numbers\.locality\.unit is no text",
        ),
        (
            '{"rows": [{"method": "a", "mode": "single", "size": 1, "stored_bytes": 1' + "0" * 400 + "}]}",
            "is no finite number",
        ),
        ("[" * 100_000, "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_the_place(tmp_path, damage, said):
    (tmp_path / "summary.json").write_text(damage, errors="surrogateescape")
    with pytest.raises((ConfigurationError, MalformedRecord), match=said):
        read_results(tmp_path)


def test_a_unit_that_has_no_scale_is_refused(group):
    study = group([row("a", {"perplexity": {**number(40.0), "unit": "perplexity"}})])
    with pytest.raises(ConfigurationError, match="measured in perplexity, which cannot be weighed"):
        chosen(study, "perplexity=1")
