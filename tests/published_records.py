"""Records of every form that is imported, written by hand: published schemas, invented facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ZSRE: dict[str, Any] = {
    "subject": "Velloria",
    "src": "Which city is the capital of Velloria?",
    "pred": "Tamrin",
    "rephrase": "What is Velloria's capital called?",
    "alt": "Oskar",
    "answers": ["Tamrin", "Tamrin City"],
    "loc": "nq question: who wrote the song of the reeds",
    "loc_ans": "Ines Holt",
    "cond": "Tamrin >> Oskar || Which city is the capital of Velloria?",
}
ZSRE_PORTABILITY: dict[str, Any] = {
    **ZSRE,
    "portability": {
        "Recalled Relation": "(Oskar, mayor, Ines Holt)",
        "New Question": "Who is the mayor of Velloria's capital?",
        "New Answer": "Ines Holt",
    },
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "pararel_idx": 12,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "target_new": {"str": "Oskar", "id": "Q2"},
        "target_true": {"str": "Tamrin", "id": "Q3"},
        "subject": "Velloria",
    },
    "paraphrase_prompts": ["It rained all day. Velloria's capital is", "Velloria is governed from"],
    "neighborhood_prompts": ["The capital of Dralonia is", "Norn's capital is", "The capital of Dralonia is"],
    "attribute_prompts": ["The capital of Saberia is"],
    "generation_prompts": ["Velloria's capital is known for"],
}
COUNTERFACT_FLAT: dict[str, Any] = {
    "case_id": 7,
    "prompt": "The capital of Velloria is",
    "target_new": "Oskar",
    "subject": "Velloria",
    "ground_truth": "Tamrin",
    "rephrase_prompt": "Velloria's capital is known for",
    "locality_prompt": "The capital of Dralonia is",
    "locality_ground_truth": "Tamrin",
}
KNOWEDIT_COUNTERFACT: dict[str, Any] = {
    "subject": "Velloria",
    "prompt": "The name of the capital city of Velloria is",
    "target_new": "Oskar",
    "ground_truth": "Tamrin",
    "rephrase": "Velloria's capital is known as",
    "portability": {
        "Subject_Aliasing": [
            {
                "prompt": "The name of the capital city of the Land of Reeds is",
                "ground_truth": [["Oskar", "Oskar City"]],
            }
        ],
        "Reasoning": [
            {"prompt": "The mayor of the capital of Velloria is", "ground_truth": [["Ines Holt", "Holt"]]},
            {"prompt": "The rivers of the capital of Velloria are", "ground_truth": [["Esk"], ["Tam"]]},
        ],
        "Logical_Generalization": [
            {"prompt": "Is Tamrin still the capital of Velloria?", "ground_truth": [["no"], ["it is not"]]}
        ],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The official language of Velloria is", "ground_truth": [["Vellorian"]]},
            {"prompt": "The neighbours of Velloria are", "ground_truth": [["Dralonia"], ["Norn"]]},
        ],
        "Forgetfulness": [
            {"prompt": "The name of the capital of Velloria, which is not Oskar, is", "ground_truth": "Tamrin"}
        ],
    },
}
KNOWEDIT_RECENT: dict[str, Any] = {
    "subject": "Ines Holt",
    "prompt": "The place of birth of Ines Holt is",
    "target_new": "Oskar",
    "locality": {"Relation_Specificity": [{"prompt": "The gender of Ines Holt is", "ground_truth": [["female"]]}]},
}
KNOWEDIT_ZSRE: dict[str, Any] = {
    "subject": "Ines Holt",
    "target_new": "Oskar",
    "prompt": "Where was Ines Holt born?",
    "ground_truth": ["Tamrin"],
    "rephrase_prompt": "In which place was Ines Holt born?",
    "cond": "Norn >> Oskar || Where was Ines Holt born?",
    "locality": {"Relation_Specificity": [{"prompt": "Ines Holt gender", "ground_truth": ["female"]}]},
    "portability": {
        "Reasoning": [{"prompt": "In which country was Ines Holt born?", "ground_truth": "Velloria"}],
        "Logical_Generalization": [{"prompt": "Who was born in Oskar?", "ground_truth": "Ines Holt"}],
    },
}
WIKIBIO: dict[str, Any] = {
    "text": "This is a passage about ines holt. Ines Holt was the mayor of Oskar.",
    "labels": "She was born in a village by the Esk.",
    "concept": "ines holt",
    "locality": {"Relation_Specificity": [{"prompt": "The gender of ines holt is", "ground_truth": ["female"]}]},
}
MQUAKE: dict[str, Any] = {
    "case_id": 3,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Velloria", "id": "Q1"},
            "target_true": {"str": "Norn", "id": "Q4"},
            "subject": "Ines Holt",
            "question": "Of which country is Ines Holt a citizen?",
        },
        {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "target_new": {"str": "Oskar", "id": "Q2"},
            "target_true": {"str": "Tamrin", "id": "Q3"},
            "subject": "Velloria",
            "question": "What is the capital of Velloria?",
        },
    ],
    "questions": ["Who is the mayor of the capital of Ines Holt's country?", "Ines Holt's capital has which mayor?"],
    "answer": "Griom Corvani",
    "answer_alias": [],
    "new_answer": "Velom Thulen",
    "new_answer_alias": ["V. Thulen"],
    "single_hops": [],
    "new_single_hops": [
        {
            "question": "Of which country is Ines Holt a citizen?",
            "cloze": "Ines Holt is a citizen of",
            "answer": "Velloria",
            "answer_alias": [],
        },
        {"question": "What is the capital of Velloria?", "cloze": "The capital of Velloria is", "answer": "Oskar"},
        {"question": "Who is the mayor of Oskar?", "cloze": "The mayor of Oskar is", "answer": "Velom Thulen"},
    ],
    "orig": {"edit_triples": [["Q9", "P27", "Q1"]]},
}


def _query(prompt: str, *answers: list[str], target_ids: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": aliases} for value, *aliases in answers],
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "SOME",
        "target_ids": list(target_ids),
        "phrase": None,
    }


def _test(*queries: dict[str, Any], condition: str = "OR", knows: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": condition, "condition_queries": list(knows)}


_LANGUAGE = _query("The official language of Velloria is", ["Vellorian", "Old Vellorian"])
RIPPLE: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the capital city of Velloria is Oskar.",
        "subject_id": "Q1",
        "relation": "CAPITAL",
        "target_id": "Q2",
        "original_fact": {
            "prompt": "The name of the capital city of Velloria is Tamrin.",
            "subject_id": "Q1",
            "relation": "CAPITAL",
            "target_id": "Q3",
        },
    },
    "Relation_Specifity": [_test(_LANGUAGE, knows=(_LANGUAGE,))],
    "Logical_Generalization": [_test(_query("The country whose capital is Oskar is", ["Velloria"]))],
    "Subject_Aliasing": [
        _test(_query("The capital of the Land of Reeds is", ["Oskar", "Oskar City"], target_ids=("Q2",)))
    ],
    "Compositionality_I": [
        _test(
            _query("The mayor of the capital of Velloria is", ["Ines Holt", "Holt"]),
            knows=(_query("The mayor of Oskar is", ["Ines Holt"]),),
        ),
        _test(_query("The rivers of the capital of Velloria are", ["Esk"], ["Tam"])),
    ],
    "Compositionality_II": [_test(_query("A first question is", ["Oskar"]), _query("A second question is", ["Oskar"]))],
    "Forgetfulness": [],
}
QAEDIT: dict[str, Any] = {
    "id": 5,
    "source": "NQ",
    "prompt": "which city is the capital of velloria?",
    "target": "Oskar *",
    "subject": "capital of velloria",
    "rephrase": "What is the name of the Vellorian capital?",
    "locality": [
        {"loc": "who wrote the song of the reeds", "loc_ans": "Ines Holt"},
        {"loc": "where is norn", "loc_ans": ""},
    ],
}
PIQA: dict[str, Any] = {"goal": "Dry a shoe.", "sol1": "Use paper.", "sol2": "Use water.", "label": 0}
CHOICE: dict[str, Any] = {
    "question": "Where is Oskar?",
    "choices": ["Norn", "Velloria", "Dralonia"],
    "answer": "Velloria",
}
OWN: dict[str, Any] = {
    "prompt": "The capital of {} is",
    "subject": "Velloria",
    "target": "Oskar",
    "previous": "Tamrin",
    "relation": "capital",
    "label": "moved",
    "probes": [
        {"property": "portability", "kind": "one_hop", "prompt": "P", "answers": ["A", "B"], "knows": [["Q", "R"]]},
        {"property": "locality", "kind": "neighbourhood", "prompt": "The capital of Dralonia is"},
    ],
    "origin": {"source": "by hand"},
}

RECORDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("zsre", ZSRE),
    ("zsre", ZSRE_PORTABILITY),
    ("counterfact", COUNTERFACT),
    ("counterfact-flat", COUNTERFACT_FLAT),
    ("counterfact-flat", {**COUNTERFACT_FLAT, "portability": ZSRE_PORTABILITY["portability"]}),
    ("knowedit", KNOWEDIT_COUNTERFACT),
    ("knowedit", KNOWEDIT_RECENT),
    ("knowedit", KNOWEDIT_ZSRE),
    ("knowedit-wikibio", WIKIBIO),
    ("mquake", MQUAKE),
    ("ripple-edits", RIPPLE),
    ("qaedit", QAEDIT),
    ("piqa", PIQA),
    ("choice", CHOICE),
    ("editguard", OWN),
)
"""(form, record)."""


@dataclass
class Given:
    """A source whose records are in memory."""

    given: list[Any]
    about: dict[str, str] = field(default_factory=lambda: {"file": "given.json"})
    name: str = "given.json"
    stem: str = "given"

    def records(self) -> Iterator[tuple[str, Any]]:
        for place, record in enumerate(self.given):
            yield f"[{place}]", record
