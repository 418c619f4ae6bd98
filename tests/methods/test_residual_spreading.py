"""The course that MEMIT and its descendants share: shares, layers one after another, what is left out and reported."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edited.key_memory import KeyMemory
from editguard.edits import EditRequest
from editguard.errors import ConflictingEdits, MethodRefused
from editguard.methods import residual_spreading
from editguard.methods.keys import averaged_keys, subject_row, vectors
from editguard.methods.residual_spreading import (
    Gain,
    Spreading,
    SpreadingSettings,
    edited_by_spreading,
    fit_residual,
    frobenius,
    linear_share,
    square_root_share,
)
from editguard.methods.value_optimisation import (
    FailedValue,
    OnceAnswered,
    Outcome,
    attempt_values,
    optimise_values,
    value_problem,
)
from editguard.models import LanguageModel
from editguard.models.weights import LowRank

LAYERS = (0, 1, 2)  # nothing reads the last block's output at a subject inside the prompt
SHORT = SpreadingSettings(layers=LAYERS, steps=5, step_size=0.2, context_lengths=())
close = torch.testing.assert_close


def exact(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
    """A = K (K^T K)^-1: every layer realises its share fully."""
    del layer, earlier
    return Gain(torch.linalg.pinv(keys).T, {"by": "pseudo-inverse"})


def partly(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
    return Gain(0.4 * exact(layer, keys, earlier).factor, {})


def spreading(**changes: Any) -> Spreading:
    return Spreading(
        **{"method": "toy", "settings": SHORT, "provenance": {}, "place": "block", "gain": exact, **changes}
    )


def low_rank(edited: EditedModel, layer: int) -> LowRank:
    delta = edited.edits[-1].changes[0].deltas[edited.model.anatomy.down_projection(layer).name]
    assert isinstance(delta, LowRank)
    return delta


def double(family: str = "gpt2") -> LanguageModel:
    return zoo.tiny(family, dtype=torch.float64)


def passing_on(model: LanguageModel, layers: Sequence[int]) -> LanguageModel:
    """The model with blocks that add nothing of their own to the residual stream."""
    for layer in layers:
        for matrix in (model.anatomy.attention_output(layer), model.anatomy.down_projection(layer)):
            with torch.no_grad():
                matrix.parameter.zero_()
                bias = matrix.bias()
                if bias is not None:
                    bias.zero_()
    return model


# ---- shares


def test_the_shares_are_those_of_the_papers() -> None:
    lefts = range(5, 0, -1)
    assert [linear_share(left) for left in lefts] == [1 / 5, 1 / 4, 1 / 3, 1 / 2, 1]
    assert [round(square_root_share(left), 3) for left in (6, *lefts)] == [0.408, 0.447, 0.5, 0.577, 0.707, 1]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layers_that_pass_on_what_they_get_contribute_equally_and_leave_nothing(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = passing_on(double(family), (1, 2))
    edited = edited_by_spreading(EditedModel.original(model), facts, spreading())
    first = low_rank(edited, 0).left
    assert first.norm() > 0.1
    for layer in (1, 2):
        close(low_rank(edited, layer).left, first, rtol=1e-6, atol=1e-8)
    assert max(edited.edits[0].record["residual_left"]) < 1e-6
    by_roots = edited_by_spreading(EditedModel.original(model), facts, spreading(share=square_root_share))
    lengths = [float(low_rank(by_roots, layer).left.norm()) for layer in LAYERS]
    # of a residual of 1: 1/sqrt(3), then 1/sqrt(2) of the rest, then all that is left
    first_part = 3**-0.5
    second_part = (1 - first_part) * 2**-0.5
    wanted = [first_part, second_part, 1 - first_part - second_part]
    assert [each / lengths[0] for each in lengths] == pytest.approx([part / first_part for part in wanted], rel=1e-5)


def test_the_parts_of_partly_realised_shares_are_taken_from_what_is_left(facts: tuple[EditRequest, ...]) -> None:
    model = passing_on(double(), (1, 2))
    edited = edited_by_spreading(EditedModel.original(model), facts, spreading(gain=partly))
    shares = [low_rank(edited, layer).left for layer in LAYERS]
    whole = 3 * shares[0]
    left = whole - 0.4 * shares[0]
    close(shares[1], left / 2, rtol=1e-6, atol=1e-8)
    left = left - 0.4 * shares[1]
    close(shares[2], left, rtol=1e-6, atol=1e-8)
    rest = (left - 0.4 * shares[2]).norm(dim=0) / whole.norm(dim=0)
    assert edited.edits[0].record["residual_left"] == pytest.approx(rest.tolist(), rel=1e-5)


# ---- the order of things


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_targets_are_the_given_models_and_keys_those_of_the_layers_below_already_changed(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    settings = replace(SHORT, context_lengths=((5, 2),))
    how = spreading(settings=settings, gain=partly, remembers_keys=True)
    edited = edited_by_spreading(EditedModel.original(model), facts, how)
    [memory] = [change for change in edited.changes if isinstance(change, KeyMemory)]
    contexts = residual_spreading.prefix_contexts(model, lengths=settings.context_lengths)
    problems = [value_problem(model, fact, contexts) for fact in facts]
    deltas = [one.delta for one in optimise_values(model, problems, settings.value_settings("block"))]
    close(low_rank(edited, 0).left, torch.stack(deltas).T / 3, rtol=1e-6, atol=1e-8)
    for position, layer in enumerate(LAYERS):
        matrix = model.anatomy.down_projection(layer)
        below = {
            name: delta
            for name, delta in edited.edits[0].changes[0].deltas.items()
            if name in {model.anatomy.down_projection(lower).name for lower in LAYERS[:position]}
        }
        frozen = averaged_keys(model, matrix, [problem.prompts for problem in problems]).T
        model.weights.push(below)
        fresh = averaged_keys(model, matrix, [problem.prompts for problem in problems]).T
        model.weights.pop()
        close(memory.keys[matrix.name], fresh, rtol=1e-9, atol=1e-10)
        if position:
            assert (fresh - frozen).norm() > 1e-3 * fresh.norm()
    model.weights.verify()


def test_in_a_sequence_targets_and_keys_are_those_of_the_model_as_edited_so_far(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    settings = replace(SHORT, layers=(2,))
    how = spreading(settings=settings, remembers_keys=True)
    first = edited_by_spreading(EditedModel.original(model), facts[:1], how)
    second = edited_by_spreading(first, facts[1:2], how)
    problem = value_problem(model, facts[1], ("",))
    with first:
        [wanted] = optimise_values(model, [problem], settings.value_settings("block"))
        keys = averaged_keys(model, model.anatomy.down_projection(2), [problem.prompts]).T
    [alone] = optimise_values(model, [problem], settings.value_settings("block"))
    close(low_rank(second, 2).left[:, 0], wanted.delta, rtol=1e-6, atol=1e-8)
    assert (wanted.delta - alone.delta).norm() > 1e-4
    close(second.changes[-1].keys[model.anatomy.down_projection(2).name], keys, rtol=1e-9, atol=1e-10)
    with second:
        [found] = vectors(model, [subject_row(model, facts[1])], [(model.anatomy.block(2), "output")])
    close(found[0], wanted.value, rtol=1e-6, atol=1e-6)


def test_every_batch_of_a_sequence_reaches_its_targets_at_the_last_of_several_layers(
    facts: tuple[EditRequest, ...],
) -> None:
    model = double("llama")
    how = spreading(remembers_keys=True)
    chain = edited_by_spreading(EditedModel.original(model), facts[:1], how)
    second = edited_by_spreading(chain, facts[1:], how)
    problems = [value_problem(model, fact, ("",)) for fact in facts[1:]]
    with chain:
        wanted = optimise_values(model, problems, SHORT.value_settings("block"))
    with second:
        [found] = vectors(model, [subject_row(model, fact) for fact in facts[1:]], [(model.anatomy.block(2), "output")])
    close(found, torch.stack([one.value for one in wanted]), rtol=1e-6, atol=1e-6)
    below: dict[str, LowRank] = {}
    for layer in LAYERS:
        matrix = model.anatomy.down_projection(layer)
        with chain:
            model.weights.push(below)
            keys = averaged_keys(model, matrix, [problem.prompts for problem in problems]).T
            model.weights.pop()
        close(second.changes[-1].keys[matrix.name], keys, rtol=1e-9, atol=1e-10)
        below[matrix.name] = low_rank(second, layer)


def test_another_seed_of_the_contexts_gives_another_update(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    one, other = (
        edited_by_spreading(
            EditedModel.original(model),
            facts[:1],
            spreading(settings=replace(SHORT, layers=(1,), context_lengths=((5, 2),), seed=seed)),
        )
        for seed in (0, 1)
    )
    assert not torch.equal(low_rank(one, 1).right, low_rank(other, 1).right)


def test_the_optimisation_of_the_targets_gets_every_setting_that_is_its_own() -> None:
    rule = OnceAnswered(likelihood_weight=0.3, stop_below_drift=0.02)
    given = SpreadingSettings(
        layers=(2, 3), steps=7, step_size=0.11, drift_weight=0.12, weight_decay=0.13, clamp_factor=0.14, stop_below=0.15
    )
    found = given.value_settings("attention and mlp", rule)
    assert (found.layer, found.place, found.once_answered) == (3, "attention and mlp", rule)
    shared = {field.name for field in fields(found)} & {field.name for field in fields(given)}
    assert shared == {field.name for field in fields(found)} - {"layer", "place", "once_answered"}
    for name in shared:
        assert getattr(found, name) == getattr(given, name)


@pytest.mark.parametrize("bad_layer", LAYERS)
def test_a_failure_between_layers_leaves_stack_and_bytes_as_they_were(
    bad_layer: int, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    chain = edited_by_spreading(EditedModel.original(model), facts[:1], spreading())
    chain.activate()
    installed, digest = tuple(model.installed), model.weights.digest()

    def failing(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
        if layer == bad_layer:
            raise RuntimeError("the power went out")
        return exact(layer, keys, earlier)

    with pytest.raises(RuntimeError, match="power"):
        edited_by_spreading(chain, facts[1:], spreading(gain=failing))
    assert tuple(model.installed) == installed
    assert model.weights.digest() == digest
    model.weights.verify()


def test_the_updates_in_force_are_the_bytes_that_the_chain_rebuilds(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama", dtype=torch.bfloat16)
    seen: list[Tensor] = []

    def watching(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
        if layer == 2:
            seen.extend(model.anatomy.down_projection(lower).parameter.clone() for lower in (0, 1))
        return exact(layer, keys, earlier)

    edited = edited_by_spreading(EditedModel.original(model), facts, spreading(gain=watching))
    with edited:
        for lower, during in zip((0, 1), seen, strict=True):
            assert torch.equal(model.anatomy.down_projection(lower).parameter, during)


# ---- requests of a batch


def test_identical_requests_count_once_and_are_noted(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    repeated = (facts[0], facts[1], replace(facts[0], target=f" {facts[0].target}"), facts[1])
    once = edited_by_spreading(EditedModel.original(model), facts[:2], spreading(gain=partly))
    found = edited_by_spreading(EditedModel.original(model), repeated, spreading(gain=partly))
    for layer in LAYERS:
        assert torch.equal(low_rank(found, layer).left, low_rank(once, layer).left)
        assert torch.equal(low_rank(found, layer).right, low_rank(once, layer).right)
    assert found.requests == repeated
    record = found.edits[0].record
    assert [line["duplicate_of"] for line in record["requests"]] == [None, None, 0, 1]
    assert record["edits_in_batch"] == 2


def test_contradictory_requests_are_refused_by_both_names(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    other = replace(facts[0], target="Belmora")
    with pytest.raises(ConflictingEdits, match=r"Velloria is Ines Holt.*Velloria is Belmora"):
        edited_by_spreading(EditedModel.original(model), [*facts, other], spreading())


def without(number: int, *arguments: Any, **options: Any) -> list[Outcome]:
    outcomes = attempt_values(*arguments, **options)
    outcomes[number] = FailedValue(arguments[1][number].statement, "its loss became nan after 2 updates")
    return outcomes


def test_an_edit_without_a_target_is_left_out_warned_about_and_in_the_record(
    facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double()
    wanted = edited_by_spreading(EditedModel.original(model), [facts[0], facts[2]], spreading())
    monkeypatch.setattr(residual_spreading, "attempt_values", partial(without, 1))
    with pytest.warns(RuntimeWarning, match=r"toy leaves out 1 of 3 edits.*Quintessa.*became nan"):
        found = edited_by_spreading(EditedModel.original(model), facts, spreading())
    for layer in LAYERS:
        close(low_rank(found, layer).dense(), low_rank(wanted, layer).dense(), rtol=1e-6, atol=1e-8)
    lines = found.edits[0].record["requests"]
    assert [line["failure"] is None for line in lines] == [True, False, True]
    assert "became nan" in lines[1]["failure"]
    assert found.edits[0].record["edits_in_batch"] == 2

    monkeypatch.setattr(residual_spreading, "attempt_values", partial(without, 0))
    with pytest.raises(MethodRefused, match=r"toy found no target vector.*Velloria.*became nan"):
        edited_by_spreading(EditedModel.original(model), facts[:1], spreading())
    model.weights.verify()


def test_what_is_the_answer_already_is_held_beside_other_edits(facts: tuple[EditRequest, ...]) -> None:
    """Its residual is nothing where the batch starts, and what the others do to it is taken back."""
    model = double()
    tokens = [model.next_tokens([fact.text], k=1)[0][0][0] for fact in facts]
    answered = [replace(fact, target=token) for fact, token in zip(facts, tokens, strict=True)]
    known = next(fact for fact in answered if model.score([(fact.text, fact.target)])[0].exact)
    asked = next(fact for fact in facts if fact.subject != known.subject)
    with pytest.warns(RuntimeWarning, match=f"toy changes nothing for '{known.statement}'"):
        found = edited_by_spreading(EditedModel.original(model), [known, asked], spreading())
    assert [line["already_true"] for line in found.edits[0].record["requests"]] == [True, False]
    nothing, little = found.edits[0].record["residual_left"]
    assert nothing is None
    assert little < 0.1
    keys = [
        averaged_keys(model, model.anatomy.down_projection(LAYERS[0]), [value_problem(model, fact, ("",)).prompts])[0]
        for fact in (known, asked)
    ]
    held, moved = (float((low_rank(found, LAYERS[0]).dense() @ key).norm()) for key in keys)
    assert held < 1e-9 * moved


# ---- the record


def test_the_record_holds_the_figures_of_every_layer_and_request(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    edited = edited_by_spreading(EditedModel.original(model), facts, spreading(gain=partly))
    record = json.loads(json.dumps(dict(edited.edits[0].record)))
    for line in record["layers"]:
        weight = model.anatomy.down_projection(line["layer"]).weight()
        dense = low_rank(edited, line["layer"]).dense()
        assert line["relative_norm"] == pytest.approx(float(dense.norm() / weight.norm()), rel=1e-6)
        assert line["fit_residual"] == pytest.approx(0.6, rel=1e-6)
    assert [line["request"] for line in record["requests"]] == [fact.statement for fact in facts]
    for line in record["requests"]:
        assert line["updates"] == 4
        assert 0 < line["target_probability"] < 1
        assert 0 < line["relative_shift"] <= 0.75 * (1 + 1e-9)
    assert record["settings"]["layers"] == list(LAYERS)


def test_norms_and_fit_are_those_of_the_dense_update() -> None:
    generator = torch.Generator().manual_seed(0)
    shares, factor, keys = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((3, 2), (7, 2), (7, 2))
    )
    dense = shares @ factor.T
    assert frobenius(shares, factor) == pytest.approx(float(dense.norm()), rel=1e-12)
    assert fit_residual(shares, factor, keys) == pytest.approx(float((dense @ keys - shares).norm() / shares.norm()))
    assert fit_residual(0 * shares, factor, keys) == 0
