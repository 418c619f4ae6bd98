"""Suites ask a model that was edited elsewhere: a release, or any folder of a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pytest_plugin.inner import Shown, plugin_arguments
from release.scripted import CASES, REQUESTS, Scripted, base, released, saved

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.edited import EditedModel
from editguard.probes.pocket import pocket_cases
from editguard.pytest_plugin.materials import PLAIN_TEXTS
from editguard.release.candidate import read_candidate
from editguard.release.manifest import FORMS
from editguard.release.survival import aged, named_fate
from editguard.release.writing import Release, write_release

SUITE = """
import json
import pytest
from pathlib import Path
from editguard import load_cases

CASES = load_cases("cases.jsonl", base=__file__)
SAID = json.loads((Path(__file__).parent / "said.json").read_text())


@pytest.mark.edit(CASES)
@pytest.mark.parametrize("prompt", list(SAID["edited"]))
def test_answers(edited, original, method, prompt):
    assert method == "candidate"
    assert edited.answer(prompt) == SAID["edited"][prompt]
    assert original.answer(prompt) == SAID["base"][prompt]


@pytest.mark.edit_sequence(CASES, checkpoints=(1, 2))
def test_sequence(edited, baseline):
    assert edited.edits == 2
    baseline.check(edited.reliability())


@pytest.mark.edit(CASES[0], methods=["rome"])
def test_written_for_a_method(edited, baseline):
    baseline.check(edited.generalization())


@pytest.mark.edit(CASES)
def test_that_edits(edited, editor):
    raise AssertionError


def test_that_edits_too(editor):
    raise AssertionError


@pytest.mark.edit(CASES)
@pytest.mark.known_failure("candidate", reason="not released with it")
def test_known(edited):
    assert edited.answer(CASES[0].request.text) == "never"
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        *plugin_arguments(), "--editguard-device=cpu", "-p", "no:randomly", "-rsf", *arguments
    )


@pytest.fixture
def tiny(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A base, its release in both forms, and a suite that knows what base and release answer."""
    for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EDITGUARD_ACCEPTED_BY", "Ada")
    folders = {"base": saved("gpt2", tmp_path / "base")}
    for form in FORMS:
        folders[form] = tmp_path / form
        released(folders[form], base(folders["base"]), form)
    model, prompts = base(folders["base"]), [request.text for request in REQUESTS]
    edited = Scripted().apply(EditedModel.original(model), REQUESTS)
    said = {
        name: {prompt: each.text for prompt, each in zip(prompts, state.generate(prompts), strict=True)}
        for name, state in (("edited", edited), ("base", EditedModel.original(model)))
    }
    assert all(said["edited"][prompt] != said["base"][prompt] for prompt in prompts)
    write_cases(pytester.path / "cases.jsonl", CASES)
    (pytester.path / "said.json").write_text(json.dumps(said))
    (pytester.path / "test_suite.py").write_text(SUITE)
    return folders


@pytest.mark.parametrize("form", FORMS)
def test_suites_ask_the_candidate_once_and_the_base_beside_it(
    pytester: pytest.Pytester, tiny: dict[str, Path], form: str
) -> None:
    arguments = (f"--editguard-model={tiny['base']}", f"--editguard-candidate={tiny[form]}")
    result = run(pytester, *arguments, "--editguard-baseline=create", "--editguard-methods=all", "-v")
    result.assert_outcomes(passed=5, skipped=2, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            f"editguard: model {tiny['base']}, methods candidate, *candidate {tiny[form]}*",
            "editguard: the candidate holds all edits*last checkpoint*'editor' are skipped",
            f"editguard: candidate {tiny[form]}, *",
            "*test_sequence?candidate-2? PASSED*",
            "*baselines: *base.json: 2 of 2 checks written",
            "SKIPPED*applies edits itself, and a candidate is edited already",
        ]
    )
    again = run(pytester, *arguments)
    again.assert_outcomes(passed=5, skipped=2, xfailed=1)
    again.stdout.fnmatch_lines(["2 baseline checks: 2 held"])
    [file] = (pytester.path / "baselines").rglob("*.json")
    assert '"candidate"' in file.read_text()


def test_a_known_failure_that_passes_and_one_without_a_candidate(
    pytester: pytest.Pytester, tiny: dict[str, Path]
) -> None:
    text = SUITE.replace('== "never"', "!= 'never'")
    (pytester.path / "test_suite.py").write_text(text)
    arguments = (f"--editguard-model={tiny['base']}", "--editguard-baseline=off")
    result = run(pytester, *arguments, f"--editguard-candidate={tiny['model']}", "-k", "known")
    result.assert_outcomes(failed=1)
    assert run(pytester, *arguments, "--co", "-q", "--editguard-methods=rome").ret == 0
    wrong = run(pytester, *arguments, "--editguard-methods=candidate")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR


def test_what_is_no_candidate_ends_the_run_with_one_line(pytester: pytest.Pytester, tiny: dict[str, Path]) -> None:
    other = saved("gpt2", tiny["base"].with_name("other"), seed=1)
    damaged = tiny["base"].with_name("damaged")
    shutil.copytree(tiny["model"], damaged)
    (damaged / "config.json").write_text("{}")
    pickled = tiny["base"].with_name("pickled")
    shutil.copytree(tiny["base"], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for model, candidate, said in (
        (tiny["base"], tiny["base"] / "nowhere", "--editguard-candidate is not a folder"),
        (other, tiny["factors"], "was made over"),
        (tiny["base"], damaged, "is not what was written: config.json is changed"),
        (tiny["base"], pickled, "pickled weights"),
    ):
        result = run(pytester, f"--editguard-model={model}", f"--editguard-candidate={candidate}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        told = [line for line in result.stderr.lines if line.strip()]
        assert said in told[-1]
        assert "Traceback" not in str(result.stderr)


# ---- a fact that was lost on the way, on the embedded model

FACTS = """
import pytest
from editguard import load_cases

CASES = load_cases("cases.jsonl", base=__file__)
pytestmark = pytest.mark.edit(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.request.subject.replace(" ", "-"))
def test_prompt(edited, case):
    assert edited.answer(case.request.text) == case.request.target


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.request.subject.replace(" ", "-"))
def test_rephrase(edited, case):
    assert edited.answer(case.probes[0].prompt) == case.request.target
"""


@pytest.mark.slow
def test_a_candidate_passes_what_its_method_passes_and_a_lost_fact_fails_its_own_tests_alone(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    cases = pocket_cases(3, 5)
    write_cases(pytester.path / "cases.jsonl", cases)
    (pytester.path / "test_facts.py").write_text(FACTS)
    cache = f"--editguard-cache-dir={tmp_path / 'cache'}"
    run(pytester, "--editguard-methods=rome", cache).assert_outcomes(passed=6)

    command = ["release", "--method", "rome", "--cases", str(pytester.path / "cases.jsonl"), "--sequence"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    for form in FORMS:
        assert main([*command, str(tmp_path / form), "--as", form]) == 0
        assert main(["verify", str(tmp_path / form), "--device", "cpu"]) == 0
        result = run(pytester, cache, f"--editguard-candidate={tmp_path / form}")
        result.assert_outcomes(passed=6)

    model = base_of_pocket()
    whole = EditedModel(
        model, (read_candidate(tmp_path / "factors", model).apply(EditedModel.original(model), ())).edits
    )
    kept = [change for place, change in enumerate(whole.changes) if place != 1]
    [edit] = whole.edits
    lost = EditedModel(model, [type(edit)("rome", edit.requests, tuple(kept))])
    planted = Release(edited=lost, method=Scripted(), cases=cases, mode="sequence", form="model")
    write_release(tmp_path / "lost", planted)
    shown = Shown(lambda *more: run(pytester, cache, f"--editguard-candidate={tmp_path / 'lost'}", *more), tmp_path)
    shown.result.assert_outcomes(passed=4, failed=2)
    subject = cases[1].request.subject
    assert shown.failed == {
        f"{test}[candidate-{subject.replace(' ', '-')}]" for test in ("test_prompt", "test_rephrase")
    }
    for test in shown.failed:
        shown.everywhere(test, subject.replace(" ", "-"), repr(cases[1].request.target))


def base_of_pocket() -> Any:
    from editguard.models.loading import load_model

    return load_model("pocket", device="cpu")


SURVIVAL = """
import json
import pytest
from pathlib import Path
from editguard import load_cases

CASES = load_cases("cases.jsonl", base=__file__)
SAID = json.loads((Path(__file__).parent / "said.json").read_text())

pytestmark = pytest.mark.edit(CASES)


@pytest.mark.parametrize("fate", ["lora-merge", "int8", "int4", "fine-tuning"])
def test_survives(edited, original, baseline, fate):
    aged = edited.after(fate)
    prompts = list(SAID["edited"])
    assert [str(each) for each in aged.answers(prompts)] == SAID[f"edited {fate}"]
    assert [str(each) for each in original.after(fate).answers(prompts)] == SAID[f"base {fate}"]
    assert [str(each) for each in edited.answers(prompts)] == list(SAID["edited"].values())
    baseline.check(aged.reliability())
    baseline.check(edited.reliability())


def test_a_mistake(edited):
    edited.after("int9")
"""


@pytest.mark.slow
def test_a_suite_asks_edited_and_unedited_model_after_quantisation(
    pytester: pytest.Pytester, tiny: dict[str, Path]
) -> None:
    said = json.loads((pytester.path / "said.json").read_text())
    model, prompts = base(tiny["base"]), list(said["edited"])
    edited = Scripted().apply(EditedModel.original(model), REQUESTS)
    known = {name: named_fate(name, otherwise=PLAIN_TEXTS) for name in ("fine-tuning", "lora-merge")}
    for fate in ("int8", "int4", *known):
        for name, state in (("edited", edited), ("base", EditedModel.original(model))):
            said[f"{name} {fate}"] = [each.text for each in aged(state, known.get(fate, fate)).generate(prompts)]
    assert said["edited int4"] != list(said["edited"].values())
    assert said["base int4"] != list(said["base"].values())
    (pytester.path / "said.json").write_text(json.dumps(said))
    (pytester.path / "test_suite.py").write_text(SURVIVAL)
    arguments = (f"--editguard-model={tiny['base']}", f"--editguard-candidate={tiny['factors']}")
    result = run(pytester, *arguments, "--editguard-baseline=create")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*test_suite.py:*a model is asked after one of bfloat16, float16, int8, int4, *"])
    result.stdout.fnmatch_lines(["*candidate after int8*"])
    [file] = (pytester.path / "baselines").rglob("*.json")
    for fate in ("int8", "fine-tuning"):
        assert f'"candidate after {fate}"' in file.read_text()
    again = run(pytester, *arguments, "-k", "survives")
    again.assert_outcomes(passed=4, deselected=1)
    again.stdout.fnmatch_lines(["8 baseline checks: 8 held"])
