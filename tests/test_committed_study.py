"""The study in the documentation is one of the model, the cases and the settings that are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest

from editguard.methods.registry import create, methods
from editguard.models import load_model
from editguard.probes.pocket import (
    INVERTIBLE,
    PEOPLE_RELATIONS,
    pocket_cases,
    pocket_demonstrations,
    pocket_tasks,
    pocket_texts,
)
from editguard.study.plan import Plan
from editguard.study.running import Materials, header

STUDY = Path(__file__).parents[1] / "docs" / "studies" / "pocket" / "summary.json"
SINGLE, BATCHES, SEQUENCES = 200, (1, 10, 100, 1000), (1, 10, 100, 500)


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STUDY.read_text(encoding="utf-8"))
    return found


def test_it_is_of_the_shipped_model_cases_and_settings(summary: dict[str, Any]) -> None:
    model = load_model("pocket", device="cpu")
    cases = pocket_cases(1000, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))
    names = tuple(summary["study"]["methods"])
    materials = Materials(
        texts=pocket_texts(),
        demonstrations=pocket_demonstrations(exclude={case.request.subject for case in cases}),
        tasks=pocket_tasks(),
    )
    plan = Plan(methods=names, single=SINGLE, batches=BATCHES, sequences=SEQUENCES)
    now = json.loads(
        json.dumps(header(plan, model, cases, materials, {name: create(name, {}, model) for name in names}))
    )
    for part in ("data", "settings", "methods"):
        assert now[part] == summary["study"][part]
    assert now["environment"]["fingerprint"] == summary["study"]["environment"]["fingerprint"]


def test_every_method_that_changes_existing_weights_takes_part_in_every_mode_and_size(summary: dict[str, Any]) -> None:
    rows = {(row["method"], row["mode"], row["size"]) for row in summary["rows"]}
    modes = {("single", 1), *(("batch", size) for size in BATCHES), *(("sequence", size) for size in SEQUENCES)}
    for name, info in methods().items():
        if info.family in ("fine-tuning", "locate-then-edit"):
            assert {row[1:] for row in rows if row[0] == name} == modes
