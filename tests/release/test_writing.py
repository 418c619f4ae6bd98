"""A release is the edited model, whoever loads it; a byte that changes is found; a failure leaves nothing."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from release.scripted import CASES, REQUESTS, Scripted, base, released, saved
from transformers import AutoModelForCausalLM, AutoTokenizer

import editguard.storage
from editguard.edited import AppliedEdit, EditedModel
from editguard.edits import EditCase, EditRequest
from editguard.errors import BaselineUnreadable, ConflictingEdits, EditguardError, ReleaseError
from editguard.release import answers
from editguard.release.answers import ReleasedAnswer, differences, questions, tolerance
from editguard.release.candidate import read_candidate
from editguard.release.manifest import FORMS, MANIFEST, SEAL, file_differences, file_sha256, read_manifest
from editguard.release.verifying import answer_differences, edited_from, loading_options
from editguard.release.writing import Release, applied, baseline_digests, write_release

PROMPTS = [each.prompt for each in questions(CASES)]


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models never end an answer; a few tokens tell their states apart as well."""
    monkeypatch.setattr("editguard.measurements.decoding.ANSWER_TOKENS", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base."""
    return saved("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A release in each form."""
    out = tmp_path_factory.mktemp("releases")
    for form in FORMS:
        released(out / form, base(folder), form)
    return {form: out / form for form in FORMS}


@pytest.mark.parametrize(
    ("family", "dtype", "sequence"),
    [
        ("gpt2", "float32", False),
        ("llama", "bfloat16", True),
        *(
            pytest.param(family, dtype, dtype != "float16", marks=pytest.mark.slow)
            for family in zoo.ALL
            for dtype in ("float32", "float16")
        ),
    ],
)
def test_what_is_loaded_from_a_release_is_the_edited_model(
    tmp_path: Path, family: str, dtype: str, sequence: bool
) -> None:
    source = saved(family, tmp_path / "base")
    for form in FORMS:
        model, out = base(source, dtype), tmp_path / form
        rest = model.weights.digest()
        edited, made = released(out, model, form, sequence=sequence)
        model.weights.verify()
        EditedModel.original(model).activate()
        assert model.weights.digest() == rest
        manifest = read_manifest(out)
        assert manifest == made
        assert manifest.requests == REQUESTS
        assert len(manifest.answers) == 2 * len(CASES)
        loaded = base(out if form == "model" else source, loading_options(manifest)["dtype"])
        again = edited_from(out, manifest, loaded)
        assert answer_differences(manifest, again) == []
        with edited, again:
            assert loaded.weights.digest() == model.weights.digest() == manifest.weights != rest
            assert again.next_tokens(PROMPTS) == edited.next_tokens(PROMPTS)
        fresh = base(source, dtype)
        with read_candidate(out, fresh).apply(EditedModel.original(fresh), REQUESTS):
            assert fresh.weights.digest() == manifest.weights


def test_plain_transformers_loads_a_released_model(both: dict[str, Path], folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(both["model"])
    ids = AutoTokenizer.from_pretrained(both["model"])(PROMPTS[0], return_tensors="pt").input_ids
    ours = base(folder)
    with Scripted().apply(EditedModel.original(ours), REQUESTS):
        wanted = ours.module(ids).logits
        torch.testing.assert_close(plain(ids).logits, wanted)
    assert not torch.allclose(ours.module(ids).logits, wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_flipped_byte_of_any_file_is_found_and_the_file_is_named(
    both: dict[str, Path], data: st.DataObject
) -> None:
    out = both[data.draw(st.sampled_from(FORMS))]
    assert file_differences(out) == []
    path = data.draw(st.sampled_from(sorted(out.iterdir())))
    raw = path.read_bytes()
    place, bits = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(raw[:place] + bytes([raw[place] ^ bits]) + raw[place + 1 :])
    try:
        [line] = file_differences(out)
        assert path.name in line
        with pytest.raises(ReleaseError, match="is not what was written"):
            read_manifest(out)
    finally:
        path.write_bytes(raw)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_missing_or_additional_file_is_named(both: dict[str, Path], data: st.DataObject) -> None:
    out = both[data.draw(st.sampled_from(FORMS))]
    path = data.draw(st.sampled_from(sorted(out.iterdir())))
    raw = path.read_bytes()
    path.unlink()
    try:
        assert file_differences(out) == [f"{path.name} is missing"]
    finally:
        path.write_bytes(raw)
    more = out / "sub" / "more.bin"
    more.parent.mkdir()
    more.write_bytes(b"")
    try:
        assert file_differences(out) == ["sub/more.bin is additional"]
    finally:
        more.unlink()
        more.parent.rmdir()


def test_a_folder_without_a_manifest_is_no_release(tmp_path: Path, folder: Path) -> None:
    for wrong, said in ((tmp_path / "no", "there is no folder"), (folder, "holds no manifest.json")):
        with pytest.raises(ReleaseError, match=said):
            file_differences(wrong)


def test_a_manifest_of_a_later_version_or_of_something_else_is_one_error(both: dict[str, Path], tmp_path: Path) -> None:
    for text, said in (('{"format": 2}', "has the format 2"), ("[1]", "is no manifest"), ("{", "is no manifest")):
        (tmp_path / MANIFEST).write_text(text)
        digest = file_sha256(tmp_path / MANIFEST)
        (tmp_path / SEAL).write_text(f"{digest}  {MANIFEST}\n")
        with pytest.raises(ReleaseError, match=said):
            file_differences(tmp_path)


def test_a_lost_edit_and_another_base_are_found(both: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(both["factors"])
    whole = edited_from(both["factors"], manifest, base(folder))
    for lost, request in enumerate(REQUESTS):
        kept = [edit for place, edit in enumerate(whole.edits) if place != lost]
        lines = answer_differences(manifest, EditedModel(whole.model, kept))
        assert any(request.text in line for line in lines)
    other = base(saved("gpt2", tmp_path / "other", seed=1))
    for wrong in (other, base(folder, "bfloat16")):
        with pytest.raises(ReleaseError, match=r"was made over .* in float32, with the fingerprint"):
            edited_from(both["factors"], manifest, wrong)
    for form in FORMS:
        with pytest.raises(ReleaseError, match="with the fingerprint"):
            read_candidate(both[form], other)
    model = base(both["model"])
    with torch.no_grad():
        next(model.module.parameters()).view(-1)[0] += 1e-6
    lines = answer_differences(read_manifest(both["model"]), EditedModel.original(model))
    assert lines[0] == "the weights that were loaded are not those that were released"


@given(
    dtype=st.sampled_from([*answers.TOLERANCES, "float8"]),
    tokens=st.integers(1, 9),
    part=st.floats(0, 3).filter(lambda part: abs(part - 1) > 1e-3),
)
def test_texts_are_compared_exactly_and_scores_within_the_tolerance_per_token(
    dtype: str, tokens: int, part: float
) -> None:
    def said(answer: str, log_prob: float | None) -> list[ReleasedAnswer]:
        return [
            ReleasedAnswer(
                request="1", kind="request", prompt="P", expected="E", answer=answer, log_prob=log_prob, tokens=tokens
            )
        ]

    within = tolerance(dtype)
    moved = -1.0 - part * tokens * within
    assert bool(differences(said("a", -1.0), said("a", moved), within=within)) == (part > 1)
    assert differences(said("a", None), said("a", None), within=within) == []
    assert differences(said("a", None), said("a", -1.0), within=within)
    assert differences(said("a", -1.0), said("b", -1.0), within=within) == ["'P': the answer was 'a' and is 'b'"]


# ---- what is refused, and what a failure leaves


class Beside:
    """A change of a kind that no file and no plain model can hold."""

    def install(self, model: Any) -> None: ...

    def uninstall(self, model: Any) -> None: ...


@pytest.mark.parametrize(
    ("form", "said"), [("model", r"not in the model's weights \(Beside\)"), ("factors", "cannot be written to a file")]
)
def test_edits_that_a_form_cannot_hold_are_refused_and_nothing_is_left(
    folder: Path, tmp_path: Path, form: Any, said: str
) -> None:
    edited = EditedModel(base(folder), [AppliedEdit("ike", REQUESTS, (Beside(),))])
    release = Release(edited=edited, method=Scripted(), cases=CASES, mode="batch", form=form)
    with pytest.raises(ReleaseError, match=said):
        write_release(tmp_path / "out", release)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_at_any_step_is_one_error_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, step: str
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = base(folder)
    rest = model.weights.digest()
    monkeypatch.setattr(editguard.storage.os, step, fails)
    with pytest.raises(EditguardError, match="No space left on device"):
        released(tmp_path / "out", model, form)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []
    EditedModel.original(model).activate()
    assert model.weights.digest() == rest


def test_weights_that_do_not_fit_the_disk_are_one_error_and_leave_nothing(folder: Path, tmp_path: Path) -> None:
    model = base(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ReleaseError, match="cannot write"):
            released(tmp_path / "out", model, "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_filled_or_cannot_be_made_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    model = base(folder)
    for wrong, said in (("", "exists already"), ("file", "exists already"), ("file/out", "cannot (write|look)")):
        with pytest.raises(ReleaseError, match=said):
            released(tmp_path / wrong, model, "factors")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "x"


def test_a_batch_that_contradicts_itself_is_refused_and_a_sequence_is_not(folder: Path) -> None:
    again = EditCase(request=EditRequest(prompt=REQUESTS[0].prompt, subject=SUBJECT, target="Oskar"))
    with pytest.raises(ConflictingEdits):
        applied(Scripted(), base(folder), [*CASES, again], sequence=False)
    assert len(applied(Scripted(), base(folder), [*CASES, again], sequence=True).requests) == 4


SUBJECT = REQUESTS[0].subject


def test_baselines_are_named_by_content(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.json").write_text("{}")
    found = baseline_digests(tmp_path)
    assert list(found) == ["sub/one.json"]
    (tmp_path / "sub" / "one.json").write_text("{ }")
    assert baseline_digests(tmp_path) != found
    for wrong in (tmp_path / "nowhere", tmp_path / "sub" / "one.json"):
        with pytest.raises(BaselineUnreadable):
            baseline_digests(wrong)
