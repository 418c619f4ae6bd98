"""What must hold between the protocols on a model that really decodes; nothing here depends on how good it is."""

from __future__ import annotations

from math import log

import pytest

from editguard.edited import EditedModel
from editguard.edits import Probe
from editguard.measurements import Measurement, ModelUnderTest
from editguard.models.loading import load_model
from editguard.probes.pocket import pocket_cases, pocket_tasks


def asked(batch_size: int) -> ModelUnderTest:
    model = load_model("pocket", batch_size=batch_size, device="cpu", dtype="float32")
    unedited = EditedModel.original(model)
    cases = pocket_cases(2, seed=1, neighbours=2)
    return ModelUnderTest(
        unedited, original=ModelUnderTest(unedited), cases=cases, method="none", mode="batch", tasks=pocket_tasks(2)
    )


@pytest.fixture(scope="module")
def model() -> ModelUnderTest:
    return asked(16)


def all_of(model: ModelUnderTest) -> list[Measurement]:
    return [model.reliability(), model.generalization(), model.locality(), model.other_tasks()]


def test_without_an_edit_locality_is_exactly_one_under_both_protocols(model: ModelUnderTest) -> None:
    assert model.locality().mean == 1.0
    assert model.locality().token_accuracy == 1.0


def test_outcomes_do_not_depend_on_the_batch(model: ModelUnderTest) -> None:
    for together, alone in zip(all_of(model), all_of(asked(3)), strict=True):
        assert [(value.answer, value.outcome) for value in together.values] == [
            (value.answer, value.outcome) for value in alone.values
        ]


def test_a_decoded_gold_answer_has_every_token_right(model: ModelUnderTest) -> None:
    """The model's own answers as golds: right by decoding, so right under teacher forcing too."""
    prompts = [probe.prompt for case in model.cases for probe in case.probes if probe.kind == "neighbourhood"]
    answers = model.answers(prompts)
    golds = [
        Probe(property="other_tasks", kind="own", prompt=prompt, answers=(str(answer),))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer and answer.stopped
    ]
    assert golds
    result = model.other_tasks(golds)
    assert (result.mean, result.token_accuracy, result.agreement) == (1.0, 1.0, 1.0)
    for value in all_of(model)[1].values:
        if value.outcome == "exact" and value.answer == value.expected[0]:
            assert value.token_accuracy == 1.0


def test_one_token_is_right_under_teacher_forcing_when_it_is_the_likeliest(model: ModelUnderTest) -> None:
    for case in model.cases:
        [(token, probability)] = model.next_tokens(case.request.text, 1)
        score = model.score(case.request.text, token.strip())
        if len(score.answer_ids) == 1:
            assert score.token_accuracy == 1.0
            assert score.log_prob == pytest.approx(log(probability), abs=1e-3)


def test_an_explanation_speaks_of_the_real_next_tokens(model: ModelUnderTest) -> None:
    request = model.cases[0].request
    lines = model.answer(request.text).explain()
    assert any(request.text in line for line in lines)
    assert sum("->" in line for line in lines) == 6


def test_the_told_tokens_spell_the_wanted_answer_and_multiply_to_its_probability(model: ModelUnderTest) -> None:
    told = [value for one in all_of(model) for value in one.values if value.tokens]
    assert len(told) > 10
    for value in told:
        score = model.score(value.prompt, value.expected[0])
        assert sum(log(chance) for _, chance in value.tokens) == pytest.approx(score.log_prob, abs=2e-3)
        assert "".join(text for text, _ in value.tokens).strip() == value.expected[0].strip()
    assert all(value.tokens_before == value.tokens for value in model.locality().values)  # nothing is edited
