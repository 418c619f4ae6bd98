"""What becomes of each published form: the request, and every probe with its kind, answers and premises."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
from published_records import (
    CHOICE,
    COUNTERFACT,
    COUNTERFACT_FLAT,
    KNOWEDIT_COUNTERFACT,
    KNOWEDIT_RECENT,
    KNOWEDIT_ZSRE,
    MQUAKE,
    PIQA,
    QAEDIT,
    RIPPLE,
    WIKIBIO,
    ZSRE,
    ZSRE_PORTABILITY,
    Given,
)

from editguard.datasets import instances
from editguard.datasets.answers import is_yes_or_no
from editguard.datasets.importing import Imported, import_records
from editguard.edits import EditCase, EditRequest
from editguard.errors import MalformedRecord
from editguard.probes import probes_of


def imported(record: dict[str, Any], **options: str) -> Imported:
    return import_records(Given([record]), options=options)


def case_of(record: dict[str, Any], **options: str) -> EditCase:
    [case] = imported(record, **options).cases
    return case


def asked(case: EditCase) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(probe.property, probe.kind, probe.prompt, probe.answers) for probe in case.probes]


def names(result: Imported) -> Counter[str]:
    return Counter(note.name for note in result.notes)


def test_zsre_edits_towards_alt_or_the_true_answer() -> None:
    case = case_of(ZSRE)
    assert case.request == EditRequest(
        prompt="Which city is the capital of {}?", subject="Velloria", target="Oskar", previous="Tamrin"
    )
    assert asked(case) == [
        ("generalization", "rephrase", ZSRE["rephrase"], ("Oskar",)),
        ("locality", "unrelated", ZSRE["loc"], ("Ines Holt",)),
    ]
    assert case.origin["fields"] == {"pred": ZSRE["pred"], "cond": ZSRE["cond"]}
    true = case_of(ZSRE, target="answers")
    assert (true.request.target, true.request.previous) == ("Tamrin", None)
    assert true.probes[0].answers == ("Tamrin", "Tamrin City")
    assert (case.origin["options"], true.origin["options"]) == ({"target": "alt"}, {"target": "answers"})


def test_the_survey_s_question_is_one_hop_and_the_second_fact_is_kept() -> None:
    for record in (ZSRE_PORTABILITY, {**COUNTERFACT_FLAT, "portability": ZSRE_PORTABILITY["portability"]}):
        result = imported(record)
        [probe] = probes_of(result.cases[0], "portability")
        assert (probe.kind, probe.prompt, probe.answers) == (
            "one_hop",
            "Who is the mayor of Velloria's capital?",
            ("Ines Holt",),
        )
        assert result.cases[0].origin["fields"]["portability"]["Recalled Relation"] == "(Oskar, mayor, Ines Holt)"
        assert not names(result)


def test_questions_that_give_the_target_away_are_noted() -> None:
    given = {"New Question": "Which river flows through OSKAR, Velloria's capital?", "New Answer": "oskar"}
    assert names(imported({**ZSRE, "portability": given})) == {"target_in_question": 1, "answer_is_target": 1}


def test_counterfact_neighbours_have_the_old_target_and_get_their_distracting_form() -> None:
    case = case_of(COUNTERFACT)
    assert case.request == EditRequest(
        prompt="The capital of {} is", subject="Velloria", target="Oskar", previous="Tamrin", relation="P36"
    )
    assert asked(case) == [
        ("generalization", "rephrase", "It rained all day. Velloria's capital is", ("Oskar",)),
        ("generalization", "rephrase", "Velloria is governed from", ("Oskar",)),
        ("locality", "neighbourhood", "The capital of Dralonia is", ("Tamrin",)),
        ("locality", "neighbourhood", "Norn's capital is", ("Tamrin",)),
    ]
    assert [probe.prompt for probe in probes_of(case, "locality", "distracting_neighbourhood")] == [
        "The capital of Velloria is Oskar. The capital of Dralonia is",
        "The capital of Velloria is Oskar. Norn's capital is",
    ]
    assert (case.label, case.origin["id"]) == ("counterfact/7", "7")
    assert case.origin["fields"] == {
        name: COUNTERFACT[name]
        for name in ("pararel_idx", "requested_rewrite", "attribute_prompts", "generation_prompts")
    }


def test_the_flat_form_s_rephrase_is_no_rephrase() -> None:
    result = imported(COUNTERFACT_FLAT)
    [case] = result.cases
    assert asked(case) == [
        ("generalization", "rephrase_or_continuation", COUNTERFACT_FLAT["rephrase_prompt"], ("Oskar",)),
        ("locality", "neighbourhood", "The capital of Dralonia is", ("Tamrin",)),
    ]
    assert "generation prompts" in result.form.warning


def test_knowedit_keeps_aliases_and_takes_no_answer_for_several() -> None:
    result = imported(KNOWEDIT_COUNTERFACT)
    [case] = result.cases
    assert case.request.previous == "Tamrin"
    assert asked(case) == [
        ("generalization", "rephrase", "Velloria's capital is known as", ("Oskar",)),
        (
            "portability",
            "subject_replace",
            "The name of the capital city of the Land of Reeds is",
            ("Oskar", "Oskar City"),
        ),
        ("portability", "reasoning", "The mayor of the capital of Velloria is", ("Ines Holt", "Holt")),
        ("portability", "logical_generalization", "Is Tamrin still the capital of Velloria?", ("no", "it is not")),
        ("locality", "other_relation", "The official language of Velloria is", ("Vellorian",)),
        ("locality", "other_relation", "The neighbours of Velloria are", ()),
        ("locality", "forgetfulness", "The name of the capital of Velloria, which is not Oskar, is", ("Tamrin",)),
    ]
    assert names(result) == {"several_required_answers": 1, "locality_without_answer": 1}
    assert set(case.origin["fields"]) == {"portability", "locality"}


def test_knowedit_s_zsre_part_has_the_survey_s_kinds() -> None:
    case = case_of(KNOWEDIT_ZSRE)
    assert [probe.kind for probe in case.probes] == ["rephrase", "one_hop", "reversed_relation", "other_relation"]
    assert case.request.previous == "Tamrin"
    assert case_of(KNOWEDIT_RECENT).request.previous is None


def test_wikibio_continues_the_passage() -> None:
    case = case_of(WIKIBIO)
    assert case.request.text == WIKIBIO["text"]
    assert case.request.prompt.startswith("This is a passage about {}. Ines Holt")
    assert (case.request.target, case.probes[0].kind) == (WIKIBIO["labels"], "other_relation")


def test_an_mquake_instance_asks_over_all_hops_behind_its_last_edit() -> None:
    first, last = imported(MQUAKE).cases
    assert (first.request.subject, last.request.subject) == ("Ines Holt", "Velloria")
    assert asked(first) == [("generalization", "question", "Of which country is Ines Holt a citizen?", ("Velloria",))]
    hops = probes_of(last, "portability", "multi_hop_3")
    assert [probe.prompt for probe in hops] == MQUAKE["questions"]
    for probe in hops:
        assert probe.answers == ("Velom Thulen", "V. Thulen")
        assert probe.knows == (("The mayor of Oskar is", "Velom Thulen"),)
    assert first.label == "mquake/3 (1 of 2)"
    assert first.origin["instance"] == last.origin["instance"] == "mquake/3"


def test_instances_are_put_together_again() -> None:
    records = [{**MQUAKE, "case_id": name} for name in (3, 4)]
    cases = import_records(Given(records)).cases
    alone = EditCase(request=cases[0].request)
    groups = instances([alone, *cases, alone, alone])
    assert [len(group) for group in groups] == [1, 2, 2, 1, 1]
    assert [case for group in groups for case in group] == [alone, *cases, alone, alone]


def test_ripple_edits_conditions_are_what_must_be_known() -> None:
    result = imported(RIPPLE)
    [case] = result.cases
    assert case.request == EditRequest(
        prompt="The name of the capital city of {} is",
        subject="Velloria",
        target="Oskar",
        previous="Tamrin",
        relation="CAPITAL",
    )
    assert [(probe.property, probe.kind, probe.answers, probe.knows) for probe in case.probes] == [
        ("portability", "subject_replace", ("Oskar", "Oskar City"), ()),
        ("portability", "compositionality_1", ("Ines Holt", "Holt"), (("The mayor of Oskar is", "Ines Holt"),)),
        ("portability", "compositionality_2", ("Oskar",), ()),
        ("portability", "compositionality_2", ("Oskar",), ()),
        ("portability", "logical_generalization", ("Velloria",), ()),
        ("locality", "other_relation", ("Vellorian", "Old Vellorian"), ()),
    ]
    assert names(result) == {"several_required_answers": 1, "alternatives": 1}


@pytest.mark.parametrize(
    ("sentence", "prompt", "subject", "target"),
    [
        (
            "The name of the mother of Ines Holt is Ada Holt.",
            "The name of the mother of {} is",
            "Ines Holt",
            "Ada Holt",
        ),
        ("The place of birth of Ann of Norn is Esk.", "The place of birth of {} is", "Ann of Norn", "Esk"),
        ("The gender of Ines Holt is female.", "The gender of {} is", "Ines Holt", "female"),
        ("The names of the siblings of Ines are Ada.", "The names of the siblings of {} are", "Ines", "Ada"),
        (
            "The name of the country of citizenship of Ines Holt is Norn.",
            "The name of the country of citizenship of {} is",
            "Ines Holt",
            "Norn",
        ),
        (
            "The name of the country which House of Oskar is associated with is Norn.",
            "The name of the country which {} is associated with is",
            "House of Oskar",
            "Norn",
        ),
        ("The name of the award Ines Holt won is St. Esk.", "The name of the award {} won is", "Ines Holt", "St. Esk"),
        ("The number of children Ines Holt has is 2.", "The number of children {} has is", "Ines Holt", "2"),
        ("The name of the currency in Norn is Thaler.", "The name of the currency in {} is", "Norn", "Thaler"),
        ("The Reed Song follows The Elm Song.", "{} follows", "The Reed Song", "The Elm Song"),
        (
            "The name of the position held by Ines Holt is mayor.",
            "The name of the position held by {} is",
            "Ines Holt",
            "mayor",
        ),
    ],
)
def test_subject_and_target_are_cut_out_of_a_sentence(sentence: str, prompt: str, subject: str, target: str) -> None:
    record = {
        "example_type": "recent",
        "edit": {"prompt": sentence, "relation": "R", "subject_id": "", "target_id": ""},
    }
    request = case_of(record).request
    assert (request.prompt, request.subject, request.target) == (prompt, subject, target)


def test_a_sentence_that_can_be_cut_in_two_ways_needs_the_target_from_a_test() -> None:
    record = copy.deepcopy(RIPPLE)
    record["edit"] |= {"prompt": "The name of the author of Life is Esk is Ada is.", "relation": "AUTHOR"}
    record["edit"].pop("original_fact")
    with pytest.raises(MalformedRecord, match="does not tell where its target begins") as caught:
        imported(record)
    assert caught.value.reason == "unknown_target"
    record["Subject_Aliasing"][0]["test_queries"][0]["answers"] = [{"value": "Ada is", "aliases": []}]
    assert case_of(record).request.target == "Ada is"
    assert case_of(record).request.subject == "Life is Esk"


def test_qaedit_s_subject_is_a_phrase_of_the_question() -> None:
    case = case_of(QAEDIT)
    assert case.request.prompt == "which city is the {}?"
    assert case.request.target == "Oskar *"
    assert asked(case)[1:] == [
        ("locality", "unrelated", "who wrote the song of the reeds", ("Ines Holt",)),
        ("locality", "unrelated", "where is norn", ()),
    ]
    assert case.origin["fields"] == {"source": "NQ"}


def test_choices_become_items_of_other_tasks() -> None:
    [item] = imported(PIQA).tasks
    assert (item.property, item.kind, item.answers) == ("other_tasks", "piqa", ("Use paper.",))
    assert (item.prompt, item.choices) == ("Question: Dry a shoe.\nAnswer:", ("Use paper.", "Use water."))
    [by_text], [by_place] = imported(CHOICE).tasks, imported({**CHOICE, "answer": 1}).tasks
    assert by_text == by_place
    assert imported({**CHOICE, "task": "places", "id": 4}).tasks[0].kind == "places"


@pytest.mark.parametrize(
    ("prompt", "yes"),
    [
        ("Is Leo still alive?", True),
        ("was it moved? ", True),
        ("Island of Norn is", False),
        ("Who is it?", False),
        ("Is", False),
    ],
)
def test_a_question_for_yes_or_no_begins_with_a_verb(prompt: str, yes: bool) -> None:
    assert is_yes_or_no(prompt) is yes
