"""The studies in the documentation are of the models, the cases and the settings that are shipped."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from editguard.edits import EditCase
from editguard.methods.materials import apart
from editguard.methods.registry import create, methods
from editguard.models import LanguageModel, load_model
from editguard.probes.pocket import (
    INVERTIBLE,
    PEOPLE_RELATIONS,
    pocket_cases,
    pocket_demonstrations,
    pocket_tasks,
    pocket_texts,
    pocket_training_cases,
)
from editguard.study.plan import Plan
from editguard.study.running import Materials, header

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
MODELS = {
    "pocket": "pocket",
    "pocket-frozen-and-trained": "pocket",
    "pocket-memory": "pocket",
    "pocket-t5": "pocket-t5",
}
JOINED = {("pocket", "ike"): {"searched_by": "either", "scope": None, "memory_limit": None}}
"""Settings that a method has got since a study was made, with their defaults. What that study did is `searched_by =
"prompt"`, which is the same for single edits; its page says so."""
BATCHES, SEQUENCES = (1, 10, 100, 1000), (1, 10, 100, 500)


@cache
def summary(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STUDIES / name / "summary.json").read_text(encoding="utf-8"))
    return found


@cache
def loaded(name: str) -> LanguageModel:
    return load_model(name, device="cpu")


@cache
def asked() -> tuple[tuple[EditCase, ...], Materials]:
    """What all of these studies ask, and what their methods are given."""
    cases = pocket_cases(1000, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))
    subjects = {case.request.subject for case in cases}
    materials = Materials(
        texts=pocket_texts(),
        demonstrations=pocket_demonstrations(exclude=subjects),
        tasks=pocket_tasks(),
        training=apart(pocket_training_cases(), subjects),
    )
    return cases, materials


def test_every_study_is_known_here() -> None:
    assert {path.name for path in STUDIES.iterdir() if path.is_dir()} == set(MODELS)


def test_each_figure_of_the_findings_is_one_of_a_study() -> None:
    def shown(value: float) -> str:
        return f"{value:.2f}".removeprefix("0")

    measured = {
        f"{shown(number['mean'])} [{shown(number['low'])}, {shown(number['high'])}]"
        for name in MODELS
        for row in summary(name)["rows"]
        for number in row["numbers"].values()
        if number["mean"] is not None
    }
    page = (STUDIES / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"[\d.]+ \[[\d.]+, [\d.]+\]", page)
    assert len(figures) > 50
    assert [figure for figure in figures if figure not in measured] == []
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == [str(number) for number in range(1, 27)]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_of_the_shipped_model_cases_and_settings(name: str) -> None:
    model = loaded(MODELS[name])
    cases, materials = asked()
    names = tuple(summary(name)["study"]["methods"])
    plan = Plan(methods=names, single=1, batches=BATCHES, sequences=SEQUENCES)
    now = json.loads(
        json.dumps(header(plan, model, cases, materials, {each: create(each, {}, model) for each in names}))
    )
    study = summary(name)["study"]
    for part in ("data", "settings"):
        assert now[part] == study[part]
    for method, recorded in study["methods"].items():
        joined = JOINED.get((name, method), {})
        added = {"settings": joined, "provenance": dict.fromkeys(joined, "default")}
        assert now["methods"][method] == {**recorded, **{part: {**recorded[part], **added[part]} for part in added}}
    assert now["environment"]["fingerprint"] == study["environment"]["fingerprint"]


def sizes(study: str, method: str) -> set[tuple[str, int]]:
    return {(row["mode"], row["size"]) for row in summary(study)["rows"] if row["method"] == method}


def modes(*, batches: tuple[int, ...] = BATCHES) -> set[tuple[str, int]]:
    return {
        ("single", 1),
        *(("batch", size) for size in batches),
        *(("sequence", size) for size in SEQUENCES),
    }


def test_every_method_that_changes_existing_weights_takes_part_in_every_mode_and_size() -> None:
    for name, info in methods().items():
        if info.family in ("fine-tuning", "locate-then-edit"):
            assert sizes("pocket", name) == modes(), name


@pytest.mark.parametrize("name", ["ke", "mend", "t-patcher", "calinet", "grace", "wise", "lora"])
def test_methods_that_leave_the_weights_alone_are_taken_to_five_hundred_edits(name: str) -> None:
    """Batches of 1,000 are for those that learn several edits together; LoRA's was not measured."""
    batches = BATCHES if methods()[name].batches and name != "lora" else BATCHES[:-1]
    assert sizes("pocket-frozen-and-trained", name) >= modes(batches=batches)


@pytest.mark.parametrize("name", [info.name for info in methods().values() if info.family == "memory-based"])
def test_methods_with_a_memory_are_taken_as_far_as_the_others(name: str) -> None:
    assert sizes("pocket-memory", name) >= modes()


@pytest.mark.parametrize("name", sorted(summary("pocket-t5")["study"]["methods"]))
def test_methods_on_the_encoder_decoder_are_taken_to_five_hundred_edits_too(name: str) -> None:
    """Batches of 1,000 are not asked for."""
    assert sizes("pocket-t5", name) >= modes(batches=BATCHES[:-1])
