"""Tasks of lm-eval give what our own other tasks give on the same items, and refuse what cannot be right."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measurements.scripted import Scripted

from editguard.edited import EditedModel
from editguard.edits import EditRequest, Probe
from editguard.errors import ConfigurationError
from editguard.measurements import Measurement, ModelUnderTest, lm_eval_tasks
from editguard.methods import create
from editguard.methods.protocol import Preparation
from editguard.models.loading import load_model
from editguard.probes.pocket import pocket_cases, pocket_demonstrations, pocket_tasks


def test_without_the_package_one_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'editguard\[lm-eval\]'"):
        ModelUnderTest(Scripted({})).lm_eval("piqa")


@pytest.fixture(scope="module")
def harness() -> Any:
    return pytest.importorskip("lm_eval.api.model", reason="lm-eval is not installed: pip install 'editguard[lm-eval]'")


@pytest.fixture(scope="module")
def tasks() -> tuple[Probe, ...]:
    return pocket_tasks(4)


@pytest.fixture(scope="module")
def edits() -> Sequence[EditRequest]:
    return [case.request for case in pocket_cases(2, seed=1)]


@pytest.fixture(scope="module")
def original() -> ModelUnderTest:
    return ModelUnderTest(EditedModel.original(load_model("pocket", device="cpu", dtype="float32")))


def folder_of(folder: Path, name: str, items: Sequence[dict[str, Any]], **config: Any) -> Path:
    """A task in a YAML file (which JSON is too), over items in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.data.json"
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        **config,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return folder


def choice_task(folder: Path, probes: Sequence[Probe]) -> Path:
    items = [
        {"prompt": probe.prompt, "choices": list(probe.choices), "answer": probe.choices.index(probe.answers[0])}
        for probe in probes
    ]
    more = {"doc_to_choice": "choices", "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    return folder_of(folder, "pocket_choice", items, output_type="multiple_choice", **more)


def text_task(folder: Path, asked: Sequence[tuple[str, str]], **options: Any) -> Path:
    items = [{"prompt": prompt, "answer": answer} for prompt, answer in asked]
    kwargs = {"until": ["\n", ". ", "."], "max_gen_toks": 24, **options}
    return folder_of(
        folder,
        "pocket_text",
        items,
        output_type="generate_until",
        doc_to_target="{{answer}}",
        generation_kwargs=kwargs,
        metric_list=[{"metric": "exact_match"}],
    )


def by_prompt(found: Measurement) -> dict[str, tuple[str, float | None, str | None]]:
    return {value.prompt: (value.answer, value.value, value.original) for value in found.values}


def test_items_with_options_come_out_as_our_own_do(harness, original, tasks, tmp_path) -> None:
    probes = [probe for probe in tasks if probe.choices]
    own = original.other_tasks(probes)
    found = original.lm_eval("pocket_choice", include_path=choice_task(tmp_path, probes))
    assert by_prompt(found) == by_prompt(own)
    assert 0 < len(found.values) == len(own.values)
    assert (found.name, found.kind, found.protocol) == ("other_tasks", "pocket_choice", "lm_eval:acc")
    assert found.agreement == 1.0
    assert Measurement.from_json(found.to_json()) == found


def test_decoded_items_come_out_as_our_own_do(harness, original, tasks, tmp_path) -> None:
    probes = [probe for probe in tasks if not probe.choices]
    own = original.other_tasks(probes)
    found = original.lm_eval(
        "pocket_text", include_path=text_task(tmp_path, [(probe.prompt, probe.answers[0]) for probe in probes])
    )
    answers = {prompt: said for prompt, (said, _, _) in by_prompt(found).items()}
    assert answers == {prompt: said for prompt, (said, _, _) in by_prompt(own).items()}
    for value in found.values:
        assert value.value == float(value.answer == value.expected[0])
    assert found.mean > 0


@pytest.mark.parametrize("method", ["ike", "ft-m"])
def test_the_edited_model_is_asked_as_it_is_used(harness, method, original, edits, tmp_path) -> None:
    """The edit's own prompt as an item: the answer by a memory, or by changed weights, beside the unedited one."""
    [request, other] = edits
    model = original._edited.model
    chosen = create(method, {}, model)
    chosen.prepare(model, Preparation(demonstrations=pocket_demonstrations(30, exclude={request.subject})))
    edited = chosen.apply(EditedModel.original(model), [request])
    under_test = ModelUnderTest(edited, original=original, cases=pocket_cases(2, seed=1)[:1], method=method)
    folder = text_task(tmp_path, [(request.text, request.target), (other.text, other.previous)])
    found = under_test.lm_eval("pocket_text", include_path=folder)
    said = by_prompt(found)
    assert said[request.text] == (str(under_test.answer(request.text)), 1.0, str(original.answer(request.text)))
    assert said[request.text][0] == request.target
    assert said[other.text][0] == str(under_test.answer(other.text))
    assert found.agreement is not None
    assert found.agreement < 1.0
    unedited = under_test.unedited(original).lm_eval("pocket_text", include_path=folder)
    assert {value.probe for value in unedited.values} == {value.probe for value in found.values}
    assert unedited.agreement == 1.0


def test_a_limit_takes_the_first_items_and_chance_leaves_no_trace(harness, original, tasks, tmp_path) -> None:
    probes = [probe for probe in tasks if probe.choices]
    folder = choice_task(tmp_path, probes)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = original.lm_eval("pocket_choice", include_path=folder, limit=2)
    assert [value.prompt for value in found.values] == [probe.prompt for probe in probes[:2]]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    with pytest.raises(ConfigurationError, match="at least one item"):
        original.lm_eval("pocket_choice", include_path=folder, limit=0)


def test_mistakes_are_one_error_each(harness, original, tasks, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(
        lm_eval_tasks, "_built_in", lambda: lm_eval_tasks._own(tmp_path / "empty")
    )  # takes long to read
    folder = choice_task(tmp_path, [probe for probe in tasks if probe.choices][:1])
    with pytest.raises(ConfigurationError, match=r"no task 'pocket_choise'.*Did you mean 'pocket_choice'"):
        original.lm_eval("pocket_choise", include_path=folder)
    with pytest.raises(ConfigurationError, match="no metric 'accuracy'; it has acc"):
        original.lm_eval("pocket_choice", include_path=folder, metric="accuracy")
    with pytest.raises(ConfigurationError, match="there is none at"):
        original.lm_eval("pocket_choice", include_path=tmp_path / "none")
    gone = folder_of(tmp_path / "gone", "pocket_gone", [], output_type="multiple_choice")
    (gone / "pocket_gone.data.json").unlink()
    with pytest.raises(ConfigurationError, match="'pocket_gone' of lm-eval cannot be loaded"):
        original.lm_eval("pocket_gone", include_path=gone)
    with pytest.raises(ConfigurationError, match="sampled text"):
        sampled = text_task(tmp_path / "sampled", [("a", "b")], do_sample=True, temperature=0.7)
        original.lm_eval("pocket_text", include_path=sampled)


def asked(*pairs: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def test_likelihoods_are_those_of_the_answer_behind_its_prompt(harness) -> None:
    from editguard.measurements.lm_eval_model import AnsweringLM

    model = Scripted({"2 + 2 =": " four"}, likelihoods={("2 + 2 =", " four"): -0.5, ("2 + 2 =", " five"): -3.0})
    assert AnsweringLM(model).loglikelihood(asked(("2 + 2 =", " four"), ("2 + 2 =", " five"))) == [
        (-0.5, True),
        (-3.0, False),
    ]


@pytest.mark.parametrize("pair", [("", " a"), ("a", "b"), ("a ", " b"), ("a", "  b"), ("a", "\nb"), ("a", " ")])
def test_a_likelihood_of_another_text_is_refused(harness, pair: tuple[str, str]) -> None:
    from editguard.measurements.lm_eval_model import AnsweringLM

    with pytest.raises(ConfigurationError):
        AnsweringLM(Scripted({})).loglikelihood(asked(pair))


def test_running_text_is_refused_and_the_refusal_names_the_way_out(harness) -> None:
    from editguard.measurements.lm_eval_model import AnsweringLM

    with pytest.raises(ConfigurationError, match=r"edited\.perplexity\(texts\)"):
        AnsweringLM(Scripted({})).loglikelihood_rolling(asked(("text",)))


def test_an_answer_goes_on_past_a_sentence_where_the_task_says_so(harness, original) -> None:
    from editguard.measurements.lm_eval_model import AnsweringLM

    prompt = pocket_cases(1, seed=1)[0].request.text
    lm = AnsweringLM(original._answers)
    short, long, cut = lm.generate_until(
        asked(
            (prompt, {"until": ["."], "max_gen_toks": 24}),
            (prompt, {"max_gen_toks": 24}),
            (prompt, {"until": "e", "max_gen_toks": 24}),
        )
    )
    assert long.startswith(short)
    assert len(long) > len(short)
    assert "." not in short
    assert "e" not in cut
    assert long.startswith(cut)
