"""What `edited.after(...)` hands out: trained once, asked once, compared with a base that has met the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditCase, EditRequest
from editguard.errors import ConfigurationError, MethodRefused
from editguard.measurements import ModelUnderTest
from editguard.models.weights import Dense
from editguard.pytest_plugin.ageing import AgedModels
from editguard.pytest_plugin.watched import WatchedModel
from editguard.release.further_training import FurtherTraining

CASE = EditCase(request=EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar"))
QUICK: dict[str, Any] = {"steps": 1, "learning_rate": 1e-2}


class Bench:
    """An edited model under test beside the unedited one, and how often something was trained."""

    def __init__(self) -> None:
        model = zoo.tiny("gpt2")
        down = model.anatomy.down_projection(1)
        change = WeightDelta({down.name: Dense(torch.randn(down.shape))})
        self.rest = EditedModel.original(model)
        self.chain = self.rest.extended(AppliedEdit("scripted", (CASE.request,), (change,)))
        self.base, self.known, self.trained = ModelUnderTest(self.rest), AgedModels(), 0

    def handed_out(self, *, edited: bool = True) -> WatchedModel:
        """What a test gets."""
        if not edited:
            model = WatchedModel(EditedModel.original(self.rest.model), cases=(CASE,)).sharing(self.base)
        else:
            model = WatchedModel(self.chain, original=self.base, cases=(CASE,), method="scripted")
        return model.ageing(self.known, lambda: zoo.SENTENCES)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made, real = Bench(), FurtherTraining.change

    def counted(self: FurtherTraining, edited: EditedModel) -> Any:
        made.trained += 1
        return real(self, edited)

    monkeypatch.setattr(FurtherTraining, "change", counted)
    return made


def test_each_model_is_trained_once_for_all_tests_that_ask_the_same(bench: Bench) -> None:
    for _ in range(2):
        after = bench.handed_out().after("fine-tuning", **QUICK)
        assert after.method == "scripted after fine-tuning(learning_rate=0.01, steps=1)"
        original = bench.handed_out(edited=False).after("fine-tuning", **QUICK)
        assert original.digest() != after.digest()
        assert bench.trained == 2
    bench.handed_out().after("fine-tuning", **QUICK, seed=1)
    assert bench.trained == 4
    bench.known.forget_edited()
    bench.handed_out().after("fine-tuning", **QUICK)
    assert bench.trained == 5
    other = bench.handed_out().ageing(bench.known, lambda: zoo.SENTENCES[:3]).after("fine-tuning", **QUICK)
    assert other.method == after.method
    assert other.digest() != after.digest()
    assert bench.trained == 7
    bench.known.clear()
    bench.handed_out().after("fine-tuning", **QUICK)
    assert bench.trained == 9


def test_another_state_of_the_same_model_is_trained_by_itself(bench: Bench) -> None:
    first = bench.handed_out().after("fine-tuning", **QUICK).digest()
    down = bench.rest.model.anatomy.down_projection(0)
    more = WeightDelta({down.name: Dense(torch.randn(down.shape))})
    before, bench.chain = bench.chain, bench.chain.extended(AppliedEdit("scripted", (), (more,)))
    assert bench.handed_out().after("fine-tuning", **QUICK).digest() != first
    bench.chain = before
    assert bench.handed_out().after("fine-tuning", **QUICK).digest() == first


def test_answers_are_remembered_and_the_edited_models_are_those_without_the_fate(bench: Bench) -> None:
    edited, prompts = bench.handed_out(), [CASE.request.text]
    before = edited.digest()
    asked = edited.after("int8").answers(prompts)
    assert edited.digest() == before
    assert bench.handed_out().after("int8")._answers is edited.after("int8")._answers
    assert bench.handed_out(edited=False).after("int8")._answers is edited.after("int8")._original
    assert bench.handed_out().after("int8").answers(prompts) == asked


def test_one_fate_after_another_has_both_names_and_a_base_that_met_both(bench: Bench) -> None:
    twice = bench.handed_out().after("bfloat16").after("int4")
    assert twice.method == "scripted after bfloat16 after int4"
    assert twice.digest() != bench.handed_out().after("int4").digest()
    base = bench.handed_out(edited=False).after("bfloat16").after("int4")
    assert ModelUnderTest(twice._rest).digest() == base.digest()


def test_texts_of_a_file_are_those_of_the_list(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(zoo.SENTENCES), encoding="utf-8")
    by_default = bench.handed_out().after("lora-merge", **QUICK)
    listed = bench.handed_out().after("lora-merge", texts=list(zoo.SENTENCES), **QUICK)
    read = bench.handed_out().after("lora-merge", texts=str(path), **QUICK)
    assert listed.method == read.method != by_default.method
    assert listed.digest() == read.digest() == by_default.digest()
    with pytest.raises(ConfigurationError, match=r"none\.txt cannot be read: No such file"):
        bench.handed_out().after("lora-merge", texts=tmp_path / "none.txt")
    with pytest.raises(MethodRefused, match="is empty"):
        bench.handed_out().after("lora-merge", texts=[])
    with pytest.raises(ConfigurationError, match="Did you mean 'fine-tuning'"):
        bench.handed_out().after("finetuning")
