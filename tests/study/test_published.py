"""Others' figures: each has a source and a protocol, and stands beside ours only where everything is the same."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study.fakes import CASES
from study.results_files import number

from editguard.datasets.forms import FORMS
from editguard.methods.registry import methods
from editguard.pocket import MODEL_NAMES
from editguard.probes.pocket import pocket_cases, pocket_training_cases
from editguard.report.latex import latex_tables
from editguard.report.study_page import study_page
from editguard.study import table
from editguard.study.data_set import described
from editguard.study.folder import StudyFolder
from editguard.study.plan import MODES, UNEDITED, Cell
from editguard.study.published import FORCED, compared, data_key, model_key, published
from editguard.study.summary import Row, summarised

ZSRE = {"form": "zsre", "options": {"target": "alt"}, "file": "zsre_mend_eval.json"}
LLAMA = {"model": "meta-llama/Llama-2-7b-hf", "data": ZSRE}
NOTES = {
    "ZsRE, counterfactual answers": ZSRE,
    "ZsRE, true answers": {"form": "zsre", "options": {"target": "answers"}, "file": "zsre_mend_eval.json"},
    "KnowEdit ZsRE": {"form": "knowedit", "file": "ZsRE-test-all.json"},
    "KnowEdit WikiData_recent": {"form": "knowedit", "file": "recent_test.json"},
    "KnowEdit WikiData_counterfact": {"form": "knowedit", "file": "test_cf.json"},
    "KnowEdit WikiBio": {"form": "knowedit-wikibio", "file": "wikibio-test-all.json"},
    "COUNTERFACT": {"form": "counterfact", "file": "counterfact.json"},
}
"""What the importer notes of each published data set."""


def row(method, mode="single", size=1, **numbers):
    """A row whose figures are given as name -> (decoded, teacher-forced)."""
    entries = {
        name: {**number(decoded, cases=40), "token_accuracy": forced} for name, (decoded, forced) in numbers.items()
    }
    counts = {"edits": 40, "applied": 40, "superseded": 0, "failed": {}, "message": "", "excluded": 0}
    held = {"stored_bytes": None, "stored_bytes_per_edit": None, "tokens_per_answer": None}
    return Row(cell=Cell(method, mode, size), one_by_one=False, numbers=entries, **counts, **held)


def everything(figure, value=0.5):
    """A row of ours that has all figures where a published one is."""
    names = ("reliability", "generalization", "generalization/rephrase", "portability", "locality", "fluency")
    return row(figure.method, figure.mode, figure.edits, **dict.fromkeys(names, (0.25, value)))


# ---- the file


def test_every_figure_has_its_source_protocol_and_notes_and_stands_once():
    found = published()
    for name, used in {
        "source": found.sources,
        "protocol": found.protocols,
        "data": found.data,
    }.items():
        assert {getattr(figure, name) for figure in found.figures} <= set(used)
    assert {note for figure in found.figures for note in figure.notes} == set(found.notes)
    assert {figure.source for figure in found.figures} == set(found.sources)
    assert {figure.protocol for figure in found.figures} == set(found.protocols)
    places = [(f.source, f.model, f.data, f.mode, f.edits, f.method, f.metric) for f in found.figures]
    assert len(set(places)) == len(places)
    assert {figure.mode for figure in found.figures} <= set(MODES)
    for figure in found.figures:
        assert figure.edits >= 1
        high = {"ngram_entropy_with_prompt": 1000.0, "wall_clock_elsewhere": 3600.0}.get(figure.protocol, 100.0)
        assert 0 <= figure.value <= high


def test_what_was_left_out_is_counted_with_its_reason():
    found = published()
    assert len(found.figures) == 177
    assert sum(each["records"] for each in found.left_out) == 106
    assert all(each["why"] and each["source"] for each in found.left_out)
    assert Counter(figure.source for figure in found.figures) == {"easyedit": 148, "memit": 20, "survey-times": 9}


def test_the_data_sets_have_forms_of_the_importer_and_each_is_known_by_its_note_alone():
    assert {known["form"] for known in published().data.values()} <= set(FORMS)
    assert {data_key(note): name for name, note in NOTES.items()} == {name: name for name in published().data}


def test_the_known_traps_are_told_with_the_figures_that_they_belong_to():
    found = published()
    theirs = [figure for figure in found.figures if figure.source == "easyedit"]
    for figure in theirs:
        assert ("rome" in figure.notes) == (figure.method == "rome")
        assert ("two-tables" in figure.notes) == (figure.data in ("ZsRE, counterfactual answers", "KnowEdit ZsRE"))
        assert ("chat" in figure.notes) == figure.data.startswith("KnowEdit")
    assert "second moment" in found.notes["rome"]
    differing = {
        f.data: f.value for f in theirs if "two-tables" in f.notes and (f.method, f.metric) == ("rome", "locality")
    }
    assert sorted(differing.values()) == [53.67, 99.63]
    assert all(str(value) in found.notes["two-tables"] for value in differing.values())
    assert {figure.protocol for figure in found.figures if figure.metric == "locality"} == {
        "tf_agreement_reference",
        "tf_token_accuracy_unrelated",
    }


# ---- names


@pytest.mark.parametrize(
    ("name", "published_name"),
    [
        ("meta-llama/Llama-2-7b-hf", "Llama-2-7B"),
        ("/models/Llama-2-7b-hf/", "Llama-2-7B"),
        ("C:\\models\\llama_2_7B_hf", "Llama-2-7B"),
        ("EleutherAI/gpt-j-6b", "GPT-J-6B"),
        ("openai-community/gpt2-xl", "GPT2-XL"),
    ],
)
def test_hub_names_folders_and_published_names_of_a_model_are_one(name, published_name):
    assert model_key(name) == model_key(published_name)


@pytest.mark.parametrize(
    "name",
    ["Llama-2-7b-chat-hf", "Llama-2-13b-hf", "Llama-2-7b-hf/checkpoint-100", "gpt-j-6b", "Llama-2-7b-edited", ""],
)
def test_other_models_are_others(name):
    assert model_key(name) != model_key("Llama-2-7B")


def test_cases_tell_where_they_come_from_and_what_differs_is_left_out():
    origin = {"form": "zsre", "options": {"target": "alt"}, "file": "a.json", "id": "7", "sha256": "0"}
    cases = [replace(case, origin={**origin, "id": str(at)}) for at, case in enumerate(CASES)]
    assert described(cases) == {"form": "zsre", "options": {"target": "alt"}, "file": "a.json"}
    assert data_key(described(cases)) == "ZsRE, counterfactual answers"
    other_target = replace(cases[0], origin={**origin, "options": {"target": "answers"}})
    assert described([*cases, other_target]) == {"form": "zsre", "file": "a.json"}
    mixed = described([*cases, replace(cases[0], origin={"form": "counterfact"})])
    assert (mixed, data_key(mixed)) == ({}, None)
    assert described(CASES) == {"form": None}
    assert data_key(described(CASES)) is None
    assert described([]) == {}


def test_cases_of_the_embedded_world_say_so():
    assert described([*pocket_cases(3), *pocket_training_cases(3)]) == {"form": "pocket"}


# ---- matching


def test_a_teacher_forced_figure_stands_beside_our_teacher_forced_one_and_no_other():
    rows = [
        row("rome", reliability=(0.25, 0.95), generalization=(0.1, 0.1), locality=(0.9, 0.99), portability=(0.5, 0.6))
    ]
    found = compared(LLAMA, rows)
    [pair] = found.pairs
    assert (pair.figure.metric, pair.figure.protocol, pair.figure.value) == ("reliability", FORCED, 92.45)
    assert (pair.ours, pair.cases) == (95.0, 40)
    assert {figure.metric for figure in found.otherwise} == {"generalization", "locality", "portability"}
    rephrased = compared(LLAMA, [row("rome", **{"generalization/rephrase": (0.1, 0.8)})])
    assert [(pair.figure.metric, pair.ours) for pair in rephrased.pairs] == [("generalization", 80.0)]


def test_without_a_teacher_forced_figure_of_ours_nothing_stands_beside_theirs():
    bare = replace(row("rome"), numbers={"reliability": number(0.9)})
    assert compared(LLAMA, [bare]).pairs == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "meta-llama/Llama-2-13b-hf"},
        {"model": "pocket"},
        {"data": {"form": "zsre", "options": {"target": "answers"}}},
        {"data": {"form": "zsre"}},
        {"data": {"form": "counterfact"}},
        {"data": {"form": "pocket"}},
        {"data": {"form": None}},
        {"data": {}},
        {"data": None},
    ],
)
def test_another_model_or_data_set_has_no_figures(changed):
    found = compared({**LLAMA, **changed}, [row("rome", reliability=(1.0, 1.0))])
    assert (found.pairs, found.otherwise) == ((), ())


@pytest.mark.parametrize(("mode", "size"), [("single", 2), ("batch", 1), ("sequence", 1), ("sequence", 10)])
def test_another_mode_or_number_of_edits_has_no_figures(mode, size):
    found = compared(LLAMA, [row("rome", mode, size, reliability=(1.0, 1.0))])
    assert (found.pairs, found.otherwise) == ((), ())


@given(st.sampled_from(published().figures), st.floats(0, 1))
@settings(deadline=None)
def test_a_pair_agrees_in_everything_and_what_agrees_but_in_the_protocol_is_not_compared(figure, value):
    notes = {"model": figure.model, "data": NOTES[figure.data]}
    found = compared(notes, [everything(figure, value)])
    assert (figure in [pair.figure for pair in found.pairs]) == (figure.protocol == FORCED)
    assert (figure in found.otherwise) == (figure.protocol != FORCED)
    for pair in found.pairs:
        assert pair.cell == Cell(figure.method, figure.mode, figure.edits)
        assert (pair.figure.model, pair.figure.data) == (figure.model, figure.data)
        assert pair.ours == pytest.approx(100 * value)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_embedded_models_never_match_whatever_the_cases_say(name):
    rows = {figure.method: everything(figure) for figure in published().figures}
    rows = [*rows.values(), *(everything(figure) for figure in published().figures)]
    for note in (*NOTES.values(), described(pocket_cases(2))):
        found = compared({"model": name, "data": note}, rows)
        assert (found.pairs, found.otherwise) == ((), ())


def test_published_methods_that_are_not_ours_have_no_cell_and_ours_have_their_own_names():
    ours = {*methods(), UNEDITED}
    assert {figure.method for figure in published().figures} - ours == {"ice", "lora-adalora", "ft-w"}


# ---- what is shown


@pytest.fixture
def by_hand(tmp_path):
    """A study under a published model's name with figures made by hand."""

    def made(notes):
        folder = StudyFolder(tmp_path / "study")
        folder.begin({"methods": {"rome": {}}, "notes": notes})
        value = {"case": "a", "property": "reliability", "kind": "request", "probe": "a", "outcome": "other"}
        value |= {"value": 0.0, "token_accuracy": 0.9, "unit": "fraction", "answer": ""}
        end = {"edits": 1, "applied": 1, "failed": [], "superseded": [], "excluded": {}}
        folder.add(Cell("rome", "single", 1), "a", [value], end)
        return folder, summarised(folder)

    return made


def shown(folder, rows):
    """The study in each form."""
    blocks = table.blocks(folder, rows)
    return {
        "terminal": table.terminal(folder, rows, 10_000),
        "markdown": table.markdown(folder, rows),
        "latex": latex_tables("m", blocks, []),
        "page": study_page("m", blocks, [], {}),
    }


def test_ours_theirs_the_difference_and_the_source_stand_in_every_form_with_the_traps(by_hand):
    folder, rows = by_hand(LLAMA)
    block = table.blocks(folder, rows)[-1]
    assert (block.title, block.headers[4:7]) == (table.PUBLISHED, ("ours", "theirs", "difference"))
    assert block.lines == (
        (
            *("Single edits", "rome", "reliability", FORCED, "90.0\nn=1", "92.5", "-2.5"),
            "EasyEdit, README at commit 14cea8245f06 of 2026-07-14",
        ),
    )
    for text in shown(folder, rows).values():
        plain = re.sub(r"\s+", " ", text.replace("\\_", "_"))
        assert "Published, by the same protocol" in plain or "published, by the same protocol" in plain
        for part in ("-2.5", "92.5", "leaves out the second moment", "99.63", "EasyEdit, README", "teacher forcing"):
            assert part in plain, part
        assert "No published figure" not in plain


@pytest.mark.parametrize(
    "notes",
    [{"model": "pocket", "data": {"form": "pocket"}}, {"model": "Llama-2-7B"}, {"model": "tiny", "data": ZSRE}],
)
def test_where_nothing_matches_one_line_says_so_in_every_form(by_hand, notes):
    folder, rows = by_hand(notes)
    block = table.blocks(folder, rows)[-1]
    assert (block.title, block.lines, len(block.notes)) == (table.PUBLISHED, (), 1)
    assert block.notes[0].endswith("data set is none of those known.") == (notes.get("data") != ZSRE)
    for text in shown(folder, rows).values():
        assert text.count("No published figure has this model, data, method and protocol") == 1
    assert "\\begin{tabular}{llllllll}" not in shown(folder, rows)["latex"]


def test_figures_by_another_protocol_are_named_and_their_values_are_not_shown(by_hand):
    folder, _ = by_hand(LLAMA)
    rows = [row("rome", locality=(0.5, 0.9))]
    block = table.published_block(folder.header()["notes"], rows)
    assert block.lines == ()
    assert block.notes[-1].startswith("Published by another protocol, and not compared: reliability")
    assert "locality (tf_agreement_reference)" in block.notes[-1]
    assert "99.63" not in " ".join(block.notes)


def test_the_note_of_the_data_set_joins_a_study_that_was_begun_without_it_and_another_refuses_none(tmp_path):
    folder = StudyFolder(tmp_path)
    header = {"methods": {"rome": {}}, "notes": {"model": "tiny", "threads": 1}}
    folder.begin(header)
    folder.begin({**header, "notes": {"model": "other", "more": 1, "data": ZSRE}})
    assert folder.header()["notes"] == {"model": "tiny", "threads": 1, "data": ZSRE}
    before = (tmp_path / "study.json").read_bytes()
    folder.begin({**header, "notes": {"data": {"form": "counterfact"}}})
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_run_notes_its_data_set(study):
    folder = study(single=1)
    assert folder.header()["notes"]["data"] == {"form": None}
