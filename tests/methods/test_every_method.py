"""What must hold for every method of the registry, whatever it does: the list of methods is read, not written here."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from methods.quick_settings import quick_settings

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import ConflictingEdits, EditguardError, InvalidSettings, MethodRefused
from editguard.methods import EditMethod, Preparation, create, methods
from editguard.models import LanguageModel

DTYPES = (torch.float32, torch.bfloat16)
PROMPTS = ("The capital of Velloria is", "Ines Holt", "Question: who is the mayor of Tamrin? Answer:", "Copy: red blue")
EDITED = (PROMPTS[0], "Question: who is the mother of Quintessa Marlowe-Vane? Answer:", "Aldo Holt was born in")
"""The prompts of the facts that are edited."""


def quick_families(name: str) -> tuple[str, ...]:
    """The families that quick tests take for a method: the first, one of the others in turn, one with an encoder."""
    first, *others = zoo.REPRESENTATIVE
    turn = others[list(methods()).index(name) % len(others)]
    return (turn, first, zoo.ENCODER_DECODER[0])


def cases(
    *, dtypes: bool = False, everywhere: frozenset[str] = frozenset(), families: tuple[str, ...] = zoo.ALL
) -> list[Any]:
    """Every method with every family that it edits, and both dtypes where they are asked for.

    Quick are `quick_families` in float32, of methods of the table's every other place the first of them in bfloat16
    instead, and all of the methods `everywhere`.
    """

    def marks(name: str, family: str, dtype: torch.dtype) -> list[pytest.MarkDecorator]:
        some = quick_families(name)
        half = dtypes and list(methods()).index(name) % 2 == 1 and family == some[0]
        quick = name in everywhere or (family in some and (dtype != torch.float32) is half)
        return [] if quick else [pytest.mark.slow]

    return [
        pytest.param(name, family, *([dtype] if dtypes else []), marks=marks(name, family, dtype))
        for name, info in methods().items()
        for family in families
        if info.encoder_decoder or family not in zoo.ENCODER_DECODER
        for dtype in (DTYPES if dtypes else DTYPES[:1])
    ]


def refused() -> list[Any]:
    """Every method that edits decoders alone, with every family that has an encoder."""
    return [
        pytest.param(name, family, marks=[] if family in zoo.QUICK else [pytest.mark.slow])
        for name, info in methods().items()
        for family in zoo.ENCODER_DECODER
        if not info.encoder_decoder
    ]


rome_on_all_families = pytest.mark.parametrize(
    ("name", "family", "dtype"), cases(dtypes=True, everywhere=frozenset({"rome"})), ids=str
)
every_method_and_family = pytest.mark.parametrize(("name", "family"), cases())
every_method_and_quick_family = pytest.mark.parametrize(("name", "family"), cases(families=zoo.QUICK))
every_method_and_dtype = pytest.mark.parametrize(
    ("name", "family", "dtype"), cases(dtypes=True, families=zoo.QUICK), ids=str
)
every_method = pytest.mark.parametrize("name", list(methods()))
every_method_but_memories = pytest.mark.parametrize(
    "name", [info.name for info in methods().values() if info.family != "memory-based"]
)


def ready(
    name: str, preparation: Preparation, family: str = "gpt2", dtype: torch.dtype = torch.float32
) -> tuple[LanguageModel, EditMethod]:
    """A fresh model, and the method prepared for it."""
    model = zoo.tiny(family, dtype=dtype)
    method = create(name, quick_settings(name, family), model)
    method.prepare(model, preparation)
    return model, method


def fingerprint_of(edited: EditedModel) -> tuple[object, ...]:
    """All that an edit changes: the model's bytes, what it reads for some prompts, how it scores answers to them."""
    with edited:
        scores = edited.score([(prompt, " Oskar") for prompt in (*PROMPTS, *EDITED)])
        return (
            edited.model.weights.digest(),
            tuple(consulted.prompt for consulted in edited.consult(PROMPTS)),
            tuple(score.log_probs for score in scores),
        )


def random_states() -> tuple[object, ...]:
    legacy = np.random.get_state()  # noqa: NPY002
    return (torch.get_rng_state().numpy().tobytes(), random.getstate(), legacy[1].tobytes(), legacy[2])


@contextmanager
def nothing_left_behind(model: LanguageModel) -> Iterator[None]:
    """Fail when stack, bytes, hooks, flags, modes, tokenizer settings or global random states differ afterwards."""

    def state() -> tuple[object, ...]:
        modules = list(model.module.modules())
        return (
            tuple(model.installed),
            model.weights.digest(),
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
            [module.training for module in modules],
            [(parameter.requires_grad, parameter.grad) for parameter in model.module.parameters()],
            (model.tokenizer.padding_side, model.tokenizer.truncation_side, model.tokenizer.pad_token),
            random_states(),
            torch.is_grad_enabled(),
        )

    before = state()
    yield
    assert state() == before
    model.weights.verify()


@rome_on_all_families
def test_an_edit_answers_and_is_gone_to_the_last_byte(
    name: str, family: str, dtype: torch.dtype, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=dtype)
    original = EditedModel.original(model)
    pristine = fingerprint_of(original)
    with nothing_left_behind(model):
        method = create(name, quick_settings(name, family), model)
        method.prepare(model, preparation)
        edited = method.apply(original, facts)
        assert edited.requests == facts
        assert fingerprint_of(edited) != pristine
        with edited:
            answers = edited.generate(PROMPTS, max_new_tokens=3)
            scores = edited.score([(fact.text, fact.target) for fact in facts])
        assert len(answers) == len(PROMPTS)
        assert all(np.isfinite(score.log_probs).all() for score in scores)
        assert fingerprint_of(original) == pristine


@every_method_and_family
def test_answers_do_not_depend_on_the_batch(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model, method = ready(name, preparation, family)
    edited = method.apply(EditedModel.original(model), facts[:1])
    prompts = [*PROMPTS, *(fact.text for fact in facts)]
    together = edited.generate(prompts, max_new_tokens=4)
    assert [edited.generate([prompt], max_new_tokens=4)[0].text for prompt in prompts] == [one.text for one in together]
    pairs = [(prompt, "Oskar") for prompt in prompts]
    for pair, batched in zip(pairs, edited.score(pairs), strict=True):
        assert edited.score([pair])[0].log_probs == pytest.approx(batched.log_probs, rel=1e-3, abs=1e-3)
    EditedModel.original(model).activate()


@every_method_and_family
def test_the_same_seed_gives_the_same_edit_whatever_the_global_generators_hold(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        model, method = ready(name, preparation, family)
        found.append(fingerprint_of(method.apply(EditedModel.original(model), facts)))
    assert found[0] == found[1]


@every_method_and_quick_family
def test_editing_again_after_a_rollback_gives_the_same_edit(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model, method = ready(name, preparation, family)
    original = EditedModel.original(model)
    first = fingerprint_of(method.apply(original, facts[:1]))
    other = method.apply(original, facts[1:2])
    other.activate()
    assert fingerprint_of(method.apply(original, facts[:1])) == first
    original.activate()


@every_method_and_dtype
def test_any_prefix_of_a_sequence_is_the_model_as_it_was_then(
    name: str, family: str, dtype: torch.dtype, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model, method = ready(name, preparation, family, dtype)
    chain = EditedModel.original(model)
    states = [fingerprint_of(chain)]
    with nothing_left_behind(model):
        for fact in facts:
            chain = method.apply(chain, [fact])
            states.append(fingerprint_of(chain))
        assert len(set(states)) == len(facts) + 1
        for length in (1, 3, 0, 2):
            assert fingerprint_of(chain.prefix(length)) == states[length]


@every_method
@pytest.mark.parametrize(
    "calls", [0, pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(30, marks=pytest.mark.slow)]
)
def test_a_failure_inside_an_edit_leaves_the_edits_in_force_as_they_were(
    name: str, calls: int, preparation: Preparation, facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, method = ready(name, preparation)
    chain = method.apply(EditedModel.original(model), facts[:1])
    head, left = model.anatomy.logits, [calls]

    def failing(hidden: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the power went out")
        return head(hidden)

    chain.activate()
    with nothing_left_behind(model):
        monkeypatch.setattr(model.anatomy, "logits", failing)
        try:
            method.apply(chain, facts[1:])
        except RuntimeError as failure:
            assert str(failure) == "the power went out"  # noqa: PT017
        monkeypatch.undo()
    EditedModel.original(model).activate()
    model.weights.verify()


@every_method
def test_an_edit_of_one_model_leaves_another_alone(
    name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    """One instance serves two models in turn as two instances would serve one each."""
    models = [zoo.tiny("gpt2", seed=seed) for seed in (0, 1)]
    method = create(name, quick_settings(name), models[0])
    for model in models:
        method.prepare(model, preparation)
    chains = [EditedModel.original(model) for model in models]
    for fact in facts[:2]:
        chains = [method.apply(chain, [fact]) for chain in chains]
    for seed, chain in enumerate(chains):
        model = zoo.tiny("gpt2", seed=seed)
        alone = create(name, quick_settings(name), model)
        alone.prepare(model, preparation)
        wanted = EditedModel.original(model)
        for fact in facts[:2]:
            wanted = alone.apply(wanted, [fact])
        assert fingerprint_of(chain) == fingerprint_of(wanted)


@every_method
def test_what_a_method_cannot_do_is_one_clear_error_and_no_change(
    name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model, prepared = ready(name, preparation)
    original = EditedModel.original(model)
    settings = quick_settings(name)
    with nothing_left_behind(model):
        with pytest.raises(InvalidSettings, match="unknown setting"):
            create(name, {**settings, "no_such_setting": 1}, model)
        for setting, value in (("layer", 99), ("layers", (1, 99))):
            if setting not in settings:
                continue
            beyond = create(name, {**settings, setting: value}, model)
            with pytest.raises(EditguardError, match="layers 0 to 3"):
                beyond.prepare(model, preparation)
            with pytest.raises(EditguardError):
                beyond.apply(original, facts)
        other = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
        with pytest.raises(ConflictingEdits, match=f"{facts[0].statement}.*{other.statement}"):
            prepared.apply(original, [facts[0], other])
        try:
            create(name, settings, model).apply(original, facts[:1])
        except EditguardError as refusal:
            assert "prepare" in str(refusal)  # noqa: PT017


@pytest.mark.parametrize(("name", "family"), refused())
def test_a_method_that_edits_decoders_alone_refuses_an_encoder_with_one_clear_error(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family)
    original = EditedModel.original(model)
    method = create(name, quick_settings(name, family), model)
    with nothing_left_behind(model):
        for attempt in (lambda: method.prepare(model, preparation), lambda: method.apply(original, facts)):
            with pytest.raises(MethodRefused, match=f"cannot edit tiny-{family}, an encoder-decoder model"):
                attempt()


@pytest.mark.parametrize("name", [name for name, info in methods().items() if info.encoder_decoder])
def test_a_layer_beyond_both_stacks_is_refused(
    name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    settings = quick_settings(name)
    model = zoo.tiny("t5")
    for setting, value in (("layer", 5), ("layers", (1, 5))):
        if setting in settings:
            beyond = create(name, {**settings, setting: value}, model)
            with nothing_left_behind(model), pytest.raises(EditguardError, match="layers 0 to 4"):
                beyond.prepare(model, preparation)


@every_method
def test_nothing_asked_is_nothing_changed(name: str, preparation: Preparation) -> None:
    model, method = ready(name, preparation)
    edited = method.apply(EditedModel.original(model), ())
    assert edited.requests == ()
    assert fingerprint_of(edited) == fingerprint_of(EditedModel.original(model))


@every_method
def test_records_are_plain_data_and_say_where_settings_come_from(
    name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    import json

    model, method = ready(name, preparation)
    for edit in method.apply(EditedModel.original(model), facts).edits:
        assert edit.method == name
        assert edit.seconds > 0
        plain = json.loads(json.dumps(dict(edit.record)))
        assert plain["settings"].keys() == plain["provenance"].keys()
        assert all(plain["provenance"][setting] == "override" for setting in quick_settings(name))


@every_method_but_memories
def test_identical_requests_of_one_batch_count_once(
    name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model, method = ready(name, preparation)
    repeated = (facts[0], facts[1], replace(facts[0], target=f" {facts[0].target}"))
    once = method.apply(EditedModel.original(model), facts[:2])
    found = method.apply(EditedModel.original(model), repeated)
    assert found.requests == repeated
    assert fingerprint_of(found) == fingerprint_of(once)


@every_method_but_memories
def test_an_edit_that_is_true_already_changes_nothing_and_is_reported(name: str, preparation: Preparation) -> None:
    model, method = ready(name, preparation)
    original = EditedModel.original(model)
    answered = [
        request
        for ending in zoo.SENTENCES
        for [(token, _)] in [model.next_tokens([f"Velloria {ending}"], k=1)[0]]
        if token.strip()
        for request in [EditRequest(prompt=f"{{}} {ending}", subject="Velloria", target=token.strip())]
        if model.score([(request.text, request.target)])[0].exact
    ][:2]
    assert len(answered) == 2
    with nothing_left_behind(model), pytest.warns(RuntimeWarning, match="answers so already") as said:
        edited = method.apply(original, answered)
    for request in answered:
        assert any(
            f"{name.removesuffix('-rect').removesuffix('-prune')} changes nothing" in str(each.message)
            and request.statement in str(each.message)
            for each in said
        )
    assert edited.requests == tuple(answered)
    assert edited.changes == ()
    assert fingerprint_of(edited) == fingerprint_of(original)
    marks = [line["already_true"] for edit in edited.edits for line in edit.record.get("requests", [edit.record])]
    assert marks == [True, True]
