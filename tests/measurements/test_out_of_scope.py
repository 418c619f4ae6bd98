"""Divergence, drawdown, essence drift, reference score: by hand, without an edit, and with one."""

from __future__ import annotations

from math import log

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, moved

from editguard.edited import EditedModel
from editguard.edits import EditCase, Probe
from editguard.errors import ConfigurationError, UnpairedScores
from editguard.measurements import ModelUnderTest
from editguard.measurements.drawdown import drawdown
from editguard.measurements.reference import consistency, reference_score
from editguard.methods import create
from editguard.models.divergence import kl_divergence

TEXTS = ["The river Ost is long", "Nobody speaks of Sorn", "Ada Holt was a poet"]
logits = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


def test_the_divergence_by_hand() -> None:
    before, after = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl_divergence(before, after).item() == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), abs=1e-6)
    assert kl_divergence(after, before).item() == pytest.approx(0.25 * log(0.5) + 0.75 * log(1.5), abs=1e-6)


@given(logits, logits, st.floats(-5, 5))
def test_a_divergence_is_not_negative_and_a_shift_of_logits_changes_nothing(
    one: list[float], other: list[float], shift: float
) -> None:
    before, after = torch.tensor([one]), torch.tensor([other])
    found = kl_divergence(before, after)
    assert found.item() >= 0
    assert kl_divergence(before + shift, after - shift).item() == pytest.approx(found.item(), abs=1e-3, rel=1e-3)
    assert kl_divergence(before, before).item() == pytest.approx(0, abs=1e-5)


def edited_and_not(kind: str) -> tuple[EditedModel, ModelUnderTest, ModelUnderTest]:
    model = zoo.tiny(kind)
    original = EditedModel.original(model)
    edited = create("ft", {"layer": 1, "epochs": 3}, model).apply(original, [moved()])
    before = ModelUnderTest(original)
    return original, before, ModelUnderTest(edited, original=before, cases=[case()], method="ft")


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@pytest.mark.parametrize("over", ["texts", "next tokens"])
def test_without_an_edit_nothing_diverges_and_with_one_something_does(kind: str, over: str) -> None:
    original, before, after = edited_and_not(kind)
    asked = [*TEXTS, TEXTS[0]]
    still = after.unedited(before).divergence(asked, over)  # type: ignore[arg-type]
    assert [value.value for value in still.values] == [0.0] * 3
    found = after.divergence(asked, over)  # type: ignore[arg-type]
    assert min(value.value for value in found.values) > 0  # type: ignore[type-var]
    alone = [after.divergence([text], over).mean for text in TEXTS]  # type: ignore[arg-type]
    assert [value.value for value in found.values] == pytest.approx(alone, rel=0.02, abs=2e-7)
    assert (found.unit, found.lower_is_better) == ("nats", True)
    original.activate()


def test_over_texts_it_is_the_mean_over_the_tokens_behind_the_first_word() -> None:
    original, _, after = edited_and_not("gpt2")
    model = original.model
    prompt, answer = model.encode_answer("The", "river Ost is long")
    ids = torch.tensor([prompt + answer])
    distributions = []
    for state in (original, after):
        state.activate()
        distributions.append(model.logits(ids, torch.ones_like(ids))[0, len(prompt) - 1 : -1].log_softmax(-1))
    old, new = distributions
    wanted = (old.exp() * (old - new)).sum(-1).mean().item()
    assert after.divergence(TEXTS[:1]).mean == pytest.approx(wanted, rel=1e-3)
    original.activate()


def test_texts_that_cannot_be_read_are_refused() -> None:
    _, before, after = edited_and_not("gpt2")
    with pytest.raises(ConfigurationError, match="two words"):
        after.divergence(["One", " "])
    with pytest.raises(ConfigurationError, match="EditedModel"):
        ModelUnderTest(Scripted({}), original=before).divergence(TEXTS)


def test_the_drawdown_by_hand() -> None:
    items = [Probe(property="other_tasks", kind="t", prompt=f"P{i}", answers=("yes",)) for i in range(4)]
    before, after = {"P0": "yes", "P1": "yes", "P2": "no"}, {"P0": "yes", "P2": "yes"}
    edited = ModelUnderTest(Scripted(after), original=ModelUnderTest(Scripted(before)), cases=[case()], tasks=items)
    found = edited.drawdown()
    assert [value.value for value in found.values] == [0.0, 1.0, -1.0, 0.0]
    assert (found.mean, found.name, found.lower_is_better) == (0.0, "other_tasks drawdown", True)
    assert edited.drawdown(items[:2]).mean == 0.5
    with pytest.raises(UnpairedScores, match="same probes"):
        drawdown(edited.other_tasks(items[:2]), edited.other_tasks())


def test_essence_drift_is_the_rise_for_the_subject_s_own_text() -> None:
    text = "Velloria lies by the sea"
    pair = ("Velloria", "lies by the sea")
    length = len(pair[1])
    states = [Scripted({}, likelihoods={pair: length * log(chance)}) for chance in (1 / 16, 1 / 4)]
    other = case(moved("Norn"))
    edited = ModelUnderTest(states[0], original=ModelUnderTest(states[1]), cases=[case(), other])
    found = edited.essence_drift({"Velloria": ["Velloria lies", "by the sea"]})
    assert found.values[0].answer == ""
    assert (found.n, found.excluded, found.mean) == (1, 1, pytest.approx(log(4)))
    assert found.values[0].edit == moved().id
    long = ModelUnderTest(states[0], original=ModelUnderTest(states[1]), cases=[case()])
    assert long.essence_drift({"Velloria": [text]}).n == 1
    with pytest.raises(ConfigurationError, match="no text about"):
        edited.essence_drift({"Velloria": ["one"]})


def test_the_reference_score_by_hand() -> None:
    corpus = ["red boat", "red house"]
    # df: red 2, boat 1, house 1; idf = ln(3/(1+df)) + 1: red 1, boat and house 1 + ln 1.5
    rare = 1 + log(1.5)
    norm = (1 + rare**2) ** 0.5
    assert reference_score(["red", "boat"], ["red house"], corpus) == pytest.approx(1 / norm**2)
    assert reference_score(["red boat"], ["boat red"], corpus) == pytest.approx(1.0)
    assert reference_score(["sea"], ["red"], corpus) == 0.0
    assert reference_score(["sea"], ["red"], [" . "]) is None


def test_continuations_are_held_against_texts_of_other_subjects_with_the_same_target() -> None:
    references = {"Oskar": ["a red boat"], "Norn": ["a green house"]}
    prompted = EditCase(request=moved(), origin={"fields": {"generation_prompts": ["X is", "Y is", "X is"]}})
    asked: list[str] = []

    def continued(prompts: list[str], *, tokens: int) -> list[str]:
        asked.extend(prompts)
        return ["red boat" if prompt != "Y is" else "red house" for prompt in prompts]

    other, unknown = case(moved("Sorn", "Norn")), case(moved("Dralonia", "Elsewhere"))
    found = consistency(continued, [prompted, other, unknown], references)  # type: ignore[arg-type]
    assert asked == ["X is", "Y is", other.request.text]
    first, second = (value.value for value in found.values)
    assert first is not None
    assert second == 0.0
    assert 0 < first < 1
    assert (found.excluded, found.unit) == (1, "cosine")
    with pytest.raises(ConfigurationError, match="no reference"):
        consistency(continued, [unknown], references)  # type: ignore[arg-type]


def test_a_suite_can_ask_for_the_reference_score_of_a_real_model() -> None:
    original, _, after = edited_and_not("gpt2")
    references = {"Oskar": ["red boat and house"]}
    found = after.consistency(references, seed=3)
    assert found.values[0].answer == after.consistency(references, seed=3).values[0].answer != ""
    original.activate()
