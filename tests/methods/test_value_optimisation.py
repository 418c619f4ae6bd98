"""The optimisation of target vectors: its loss at known points, its steps, its independence of batches."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edits import EditRequest
from editguard.errors import MethodRefused, PromptTooLong
from editguard.methods import value_optimisation
from editguard.methods.keys import subject_row
from editguard.methods.value_optimisation import (
    FailedValue,
    OnceAnswered,
    OptimisedValue,
    ValueProblem,
    ValueSettings,
    attempt_values,
    clamped,
    drift,
    objective,
    optimise_values,
    penalty,
    value_problem,
)
from editguard.models import LanguageModel, capture
from editguard.models.continuation import FullForward, Passes, Row, continued

CONTEXTS = ("", "Because it is. ", "The red blue. ")
SETTINGS = ValueSettings(layer=1, steps=5, step_size=0.1)


def double(family: str = "gpt2") -> LanguageModel:
    return zoo.tiny(family, dtype=torch.float64)


def problems(model: LanguageModel, facts: tuple[EditRequest, ...]) -> list[ValueProblem]:
    return [value_problem(model, fact, CONTEXTS) for fact in facts]


def total(model: LanguageModel, given: list[ValueProblem], deltas: Tensor, settings: ValueSettings) -> Tensor:
    """The loss of each edit, put together from the published pieces on whole passes."""
    target, first = objective(model, given, settings.layer, settings.place, FullForward)
    base, before = target.base(first)
    nll, now = target.forward(deltas)
    return nll + settings.drift_weight * drift(now, before) + settings.weight_decay * penalty(deltas, base)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_without_a_vector_the_loss_is_the_teacher_forced_one_averaged_over_contexts(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    given = problems(model, facts)
    zeros = torch.zeros(len(facts), zoo.D_MODEL, dtype=torch.float64)
    found = total(model, given, zeros, SETTINGS)
    for fact, loss in zip(facts, found, strict=True):
        scores = model.score([(context + fact.text, fact.target) for context in CONTEXTS])
        wanted = -sum(sum(score.log_probs) / len(score.log_probs) for score in scores) / len(scores)
        assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert len(given[0].target) > 1


def test_the_gradient_at_zero_is_finite_and_that_of_central_differences(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    given = problems(model, facts)
    settings = replace(SETTINGS, weight_decay=0.0, drift_weight=0.7)
    here = torch.zeros(len(facts), zoo.D_MODEL, dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(total(model, given, here, settings).sum(), [here])
    for edit, coordinate in ((0, 3), (1, 0), (2, 15)):
        step = torch.zeros_like(here)
        step[edit, coordinate] = 1e-5
        with torch.no_grad():
            ahead, behind = (total(model, given, here + sign * step, settings)[edit] for sign in (1, -1))
        assert float(gradient[edit, coordinate]) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-4, abs=1e-8)
    [with_decay] = torch.autograd.grad(total(model, given, here, replace(settings, weight_decay=0.5)).sum(), [here])
    assert torch.equal(with_decay, gradient)


def test_the_drift_is_read_right_after_the_subject_alone(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    module = model.anatomy.down_projection(1).module
    moved = torch.randn(zoo.D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for fact in facts:
        [row] = [value_problem(model, fact, CONTEXTS).rows()[-1]]
        target, first = objective(model, [value_problem(model, fact, CONTEXTS)], 1, "mlp")
        _, before = target.base(first)
        _, now = target.forward(moved[None])
        for words in (" is a", " was never the"):
            essence = EditRequest(prompt="{}" + words, subject=fact.subject, target="x")
            subject = subject_row(model, essence)
            assert subject.ids[: subject.end + 1] == row.ids
            ids = torch.tensor([subject.ids])
            plain = model.logits(ids, torch.ones_like(ids))[0, subject.end].log_softmax(-1)

            def at_subject(_, __, output: Tensor, end: int = subject.end) -> Tensor:
                added = output.clone()
                added[:, end] += moved
                return added

            handle = module.register_forward_hook(at_subject)
            changed = model.logits(ids, torch.ones_like(ids))[0, subject.end].log_softmax(-1)
            handle.remove()
            wanted = (changed.exp() * (changed - plain)).sum()
            assert float(drift(now, before)) == pytest.approx(float(wanted), rel=1e-9)
            assert float(wanted) > 1e-6


def test_the_base_is_the_bare_prompts_vector(facts: tuple[EditRequest, ...]) -> None:
    model = double("opt")
    for place in ("mlp", "block"):
        module = model.anatomy.down_projection(2).module if place == "mlp" else model.anatomy.block(2)
        found = optimise_values(model, problems(model, facts), replace(SETTINGS, layer=2, place=place, steps=1))
        for fact, one in zip(facts, found, strict=True):
            row = subject_row(model, fact)
            ids = torch.tensor([row.ids])
            with torch.no_grad(), capture(module) as captured:
                model.logits(ids, torch.ones_like(ids))
            vector = captured.value.reshape(len(row.ids), -1)[row.end]
            torch.testing.assert_close(one.base, vector, rtol=1e-9, atol=1e-9)


def test_one_step_moves_nothing_and_three_make_two_updates_of_adam(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    given = problems(model, facts[:1])
    still = optimise_values(model, given, replace(SETTINGS, steps=1))[0]
    assert torch.equal(still.value, still.base)
    assert still.updates == 0

    settings = replace(SETTINGS, steps=3, clamp_factor=1e9, stop_below=0.0)
    found = optimise_values(model, given, settings)[0]
    delta = torch.zeros(1, zoo.D_MODEL, dtype=torch.float64)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    for step in (1, 2):
        here = delta.clone().requires_grad_()
        [gradient] = torch.autograd.grad(total(model, given, here, settings).sum(), [here])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        delta = delta - settings.step_size * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert found.updates == 2
    torch.testing.assert_close(found.delta, delta[0], rtol=1e-7, atol=1e-9)
    assert found.loss == pytest.approx(float(total(model, given, delta, settings)), rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.05, 0.5])
def test_the_vector_stays_in_the_ball_around_the_base(factor: float, facts: tuple[EditRequest, ...]) -> None:
    model = double()
    for steps in (2, 3, 6):
        settings = replace(SETTINGS, steps=steps, clamp_factor=factor, step_size=0.5)
        for one in optimise_values(model, problems(model, facts), settings):
            assert one.delta.norm() <= factor * one.base.norm() * (1 + 1e-12)
            if factor == 0:
                assert torch.equal(one.value, one.base)


def test_an_edit_is_done_at_the_first_step_whose_whole_loss_is_below_the_bound(
    facts: tuple[EditRequest, ...],
) -> None:
    model = double()
    given = problems(model, facts[:1])
    settings = replace(SETTINGS, drift_weight=0.5, weight_decay=0.0, stop_below=0.0)
    course = [optimise_values(model, given, replace(settings, steps=steps))[0] for steps in range(1, 9)]
    reached = []
    for middle in course[1:-1]:
        bound = middle.loss - 0.1 * (middle.loss - middle.nll)
        first = {
            what: next((one.updates for one in course if getattr(one, what) < bound), 7) for what in ("loss", "nll")
        }
        [found] = optimise_values(model, given, replace(settings, steps=8, stop_below=bound))
        assert found.updates == first["loss"]
        reached.append(first["loss"] - first["nll"])
    assert max(reached) > 0


def test_the_penalty_is_the_length_over_the_squared_length_of_the_base() -> None:
    # ||(3, 4)|| = 5, ||(1, 2)||^2 = 5; ||(0, 2)|| = 2, ||(0, 4)||^2 = 16
    deltas, base = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    torch.testing.assert_close(penalty(deltas, base), torch.tensor([1.0, 0.125]))


def test_the_clamp_shortens_and_never_turns() -> None:
    base, delta = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 0.0])
    assert torch.equal(clamped(delta, base, 2.0), delta)
    torch.testing.assert_close(clamped(delta, base, 0.5), torch.tensor([2.5, 0.0]))
    two, bases = torch.tensor([[[6.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    torch.testing.assert_close(clamped(two, bases, 0.5), torch.tensor([[[2.5, 0.0], [0.0, 1.0]]]))


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_edits_of_one_batch_are_optimised_as_if_alone_also_when_one_stops_early(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    given = problems(model, facts)
    settings = replace(SETTINGS, steps=8, step_size=0.2, stop_below=0.0)
    losses = sorted(one.loss for one in optimise_values(model, given, settings))
    settings = replace(settings, stop_below=(losses[0] + losses[1]) / 2)
    alone = [optimise_values(model, [problem], settings)[0] for problem in given]
    together = optimise_values(model, given, settings)
    backwards = optimise_values(model, given[::-1], settings)[::-1]
    assert len({one.updates for one in alone}) > 1
    for one, batched, turned in zip(alone, together, backwards, strict=True):
        assert one.updates == batched.updates == turned.updates
        torch.testing.assert_close(batched.value, one.value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(turned.value, one.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_short_way_finds_the_vectors_of_the_long_way(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = double(family)
    for place in ("mlp", "block"):
        settings = replace(SETTINGS, place=place, steps=4)
        short = optimise_values(model, problems(model, facts), settings)
        full = optimise_values(model, problems(model, facts), settings, make_passes=FullForward)
        for ours, theirs in zip(short, full, strict=True):
            torch.testing.assert_close(ours.value, theirs.value, rtol=1e-4, atol=1e-5)
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


def test_the_target_becomes_more_likely(facts: tuple[EditRequest, ...]) -> None:
    for family in zoo.REPRESENTATIVE:
        model = zoo.tiny(family, dtype=torch.bfloat16)
        settings = replace(SETTINGS, steps=15, step_size=0.3, weight_decay=0.0, drift_weight=0.0)
        start = optimise_values(model, problems(model, facts), replace(settings, steps=1))
        for before, after in zip(start, optimise_values(model, problems(model, facts), settings), strict=True):
            assert after.nll < before.nll
            assert after.value.dtype == torch.float32


def test_flags_gradients_hooks_modes_and_random_state_are_left_alone(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama")
    model.module.requires_grad_(True)
    side, state = model.tokenizer.padding_side, torch.get_rng_state()
    optimise_values(model, problems(model, facts), SETTINGS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    assert not model.module.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert model.tokenizer.padding_side == side
    assert torch.equal(state, torch.get_rng_state())


# ---- many edits: groups, memory, failures


def many(model: LanguageModel) -> list[ValueProblem]:
    subjects = ("Velloria", "Oskaria", "Tamrin", "Belmora", "Ines Holt", "Aldo Holt", "Odalys Vane")
    prompts = ("The capital of {} is", "{} was born in", "Question: who is the mayor of {}? Answer:")
    return [
        value_problem(
            model,
            EditRequest(prompt=prompts[number % 3], subject=subject, target=("Oskar", "red blue")[number % 2]),
            CONTEXTS,
        )
        for number, subject in enumerate(subjects)
    ]


def spread_of_stops(model: LanguageModel, given: list[ValueProblem], settings: ValueSettings) -> ValueSettings:
    """The settings with a bound on the loss that some edits reach early, some late and some never."""
    never = replace(settings, stop_below=0.0)
    first, last = (optimise_values(model, given, each) for each in (replace(never, steps=1), never))
    middles = sorted((one.loss + other.loss) / 2 for one, other in zip(first, last, strict=True))
    return replace(settings, stop_below=middles[len(middles) // 2] + 1e-9)


class Recorded:
    """Makes passes, and notes how many edits each batch of rows held; four rows for an edit here."""

    def __init__(self, fits: int = 1000) -> None:
        self.fits = fits
        self.edits: list[int] = []

    def __call__(self, model: LanguageModel, rows: Sequence[Row], layer: int) -> Passes:
        edits = len(rows) // (len(CONTEXTS) + 1)
        self.edits.append(edits)
        if edits > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return continued(model, rows, layer)


@pytest.mark.parametrize("at_once", [2, 3, 64])
def test_groups_change_no_edits_result_though_finished_ones_leave_and_others_come(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double("llama")
    given = many(model)
    settings = spread_of_stops(model, given, replace(SETTINGS, steps=12, step_size=0.3, weight_decay=0.0))
    alone = [optimise_values(model, [problem], settings)[0] for problem in given]
    monkeypatch.setattr(value_optimisation, "EDITS_AT_ONCE", at_once)
    passes = Recorded()
    together = optimise_values(model, given, settings, make_passes=passes)
    turned = optimise_values(model, given[::-1], settings)[::-1]
    assert len({one.updates for one in alone}) > 2
    assert max(passes.edits) == min(at_once, len(given))
    assert len(passes.edits) > 1
    assert min(passes.edits) < max(passes.edits)
    for one, batched, reverse in zip(alone, together, turned, strict=True):
        assert one.updates == batched.updates == reverse.updates
        assert one.loss == pytest.approx(batched.loss, rel=1e-6)
        torch.testing.assert_close(batched.value, one.value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(reverse.value, one.value, rtol=1e-5, atol=1e-6)


def test_short_memory_halves_the_group_says_so_and_is_remembered() -> None:
    model = double()
    given = many(model)
    settings = spread_of_stops(model, given, replace(SETTINGS, steps=6, step_size=0.2))
    wanted = optimise_values(model, given, settings)
    passes = Recorded(fits=2)
    with pytest.warns(RuntimeWarning, match="does not hold the optimisation of") as warned:
        found = optimise_values(model, given, settings, make_passes=passes)
    assert [str(each.message).split()[9] for each in warned] == ["7", "3"]
    assert "going on with 3" in str(warned[0].message)
    assert passes.edits[:2] == [7, 3]
    assert max(passes.edits[2:]) == 1
    for one, other in zip(found, wanted, strict=True):
        assert one.updates == other.updates
        torch.testing.assert_close(one.value, other.value, rtol=1e-6, atol=1e-8)
    later = Recorded(fits=2)
    optimise_values(model, given, settings, make_passes=later)
    assert max(later.edits) == 1


class ShortInTheMiddle(FullForward):
    """Whole passes of which the sixth over more than three edits does not fit."""

    calls = 0

    def logits(self) -> Tensor:
        if len(self._ids) > 3 * (len(CONTEXTS) + 1):
            type(self).calls += 1
            if type(self).calls == 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return super().logits()


def test_memory_that_runs_short_between_steps_loses_no_step() -> None:
    model = double()
    given = many(model)
    settings = replace(SETTINGS, steps=8, step_size=0.2, stop_below=0.0)
    wanted = optimise_values(model, given, settings)
    with pytest.warns(RuntimeWarning, match="going on with 3"):
        found = optimise_values(model, given, settings, make_passes=ShortInTheMiddle)
    for one, other in zip(found, wanted, strict=True):
        assert one.updates == other.updates == 7
        torch.testing.assert_close(one.value, other.value, rtol=1e-5, atol=1e-6)


def test_a_single_edit_that_does_not_fit_is_the_devices_own_error(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    with pytest.raises(torch.OutOfMemoryError):
        optimise_values(model, problems(model, facts[:1]), SETTINGS, make_passes=Recorded(fits=0))


class Poisoned(FullForward):
    """Whole passes that go wrong for the rows of one subject, from the given call on."""

    subject: tuple[int, ...] = ()
    calls = 0
    first_bad = 3
    value = float("nan")

    def __init__(self, model: LanguageModel, rows: Sequence[Row], layer: int = 0) -> None:
        super().__init__(model, rows, layer)
        width = len(self.subject)
        self._bad = torch.tensor(
            [any(row.ids[at : at + width] == self.subject for at in range(len(row.ids))) for row in rows]
        )

    def logits(self) -> Tensor:
        type(self).calls += 1
        logits = super().logits()
        if type(self).calls < self.first_bad:
            return logits
        bad = self._bad[self.row_of_read]
        return logits.masked_fill(bad[:, None], self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_edit_that_breaks_down_fails_alone(value: float) -> None:
    model = double()
    given = many(model)
    settings = replace(SETTINGS, steps=6, step_size=0.2, stop_below=0.0)
    wanted = optimise_values(model, given, settings)
    ids = tuple(model.tokenizer(" Belmora", add_special_tokens=False)["input_ids"])

    class Broken(Poisoned):
        subject = ids

    Broken.value = value
    found = attempt_values(model, given, settings, make_passes=Broken)
    failed = [number for number, outcome in enumerate(found) if isinstance(outcome, FailedValue)]
    assert failed == [number for number, problem in enumerate(given) if "Belmora" in problem.statement]
    assert len(failed) == 1
    outcome = found[failed[0]]
    assert isinstance(outcome, FailedValue)
    assert "became nan after 1 updates" in outcome.reason
    assert outcome.statement == given[failed[0]].statement
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one, OptimisedValue):
            assert one.updates == other.updates
            torch.testing.assert_close(one.value, other.value, rtol=1e-5, atol=1e-6)
    Broken.calls = 0
    with pytest.raises(MethodRefused, match=r"Belmora.* became nan"):
        optimise_values(model, given, settings, make_passes=Broken)


def test_a_prompt_that_does_not_fit_the_model_is_refused_with_its_length() -> None:
    model = zoo.tiny("gpt2")
    request = EditRequest(prompt="red blue " * 120 + "{} is", subject="Tamrin", target="Oskar")
    with pytest.raises(PromptTooLong, match=f"context of {zoo.CONTEXT}"):
        value_problem(model, request, CONTEXTS)


def test_an_answer_that_the_model_gives_already_is_recognised(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    found = []
    for fact in facts:
        [[(token, _)]] = model.next_tokens([fact.text], k=1)
        _, ids = model.encode_answer(fact.text, token.strip() or token)
        given = replace(problems(model, [fact])[0], target=tuple(ids[:1]))
        likeliest = model.next_tokens([fact.text], k=1)[0][0][0]
        expected = model.decode(ids[:1]) == likeliest
        [one] = optimise_values(model, [given], replace(SETTINGS, steps=1))
        assert one.already_true == expected
        found.append(expected)
        [other] = optimise_values(model, problems(model, [fact]), replace(SETTINGS, steps=1))
        assert other.already_true == model.score([(fact.text, fact.target)])[0].exact
    assert any(found)


# ---- two places and the further stop rule (PMET)

TWO = replace(SETTINGS, place="attention and mlp", steps=4, step_size=0.2)


def test_two_places_have_two_vectors_two_bases_and_two_clamps(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    settings = replace(TWO, clamp_factor=0.05, stop_below=0.0, steps=2)
    for fact, one in zip(facts, optimise_values(model, problems(model, facts), settings), strict=True):
        assert one.value.shape == (2, zoo.D_MODEL)
        row = subject_row(model, fact)
        ids = torch.tensor([row.ids])
        for number, matrix in enumerate((model.anatomy.attention_output(1), model.anatomy.down_projection(1))):
            with torch.no_grad(), capture(matrix.module) as captured:
                model.logits(ids, torch.ones_like(ids))
            torch.testing.assert_close(one.base[number], captured.value[0, row.end], rtol=1e-9, atol=1e-9)
            assert one.delta[number].norm() <= 0.05 * one.base[number].norm() * (1 + 1e-12)
            assert one.delta[number].norm() > 0.049 * one.base[number].norm()


@pytest.mark.parametrize(
    ("family", "parallel"), [("gptj", True), ("gpt_neox", True), ("llama", False), ("gpt2", False)]
)
def test_where_attention_and_mlp_are_parallel_both_vectors_move_alike(
    family: str, parallel: bool, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    settings = replace(TWO, weight_decay=0.0, clamp_factor=1e9, stop_below=0.0)
    assert model.anatomy.parallel == parallel
    for one in optimise_values(model, problems(model, facts), settings):
        alike = torch.allclose(one.delta[0], one.delta[1], rtol=1e-6, atol=1e-9)
        assert alike == parallel


def test_two_places_are_optimised_as_if_alone_too(facts: tuple[EditRequest, ...]) -> None:
    model = double("opt")
    settings = spread_of_stops(model, problems(model, facts), TWO)
    together = optimise_values(model, problems(model, facts), settings)
    for problem, batched in zip(problems(model, facts), together, strict=True):
        [alone] = optimise_values(model, [problem], settings, make_passes=FullForward)
        assert alone.updates == batched.updates
        torch.testing.assert_close(alone.value, batched.value, rtol=1e-5, atol=1e-6)


def test_an_answered_edit_is_done_once_its_drift_is_small(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    plain = replace(
        SETTINGS, layer=3, steps=20, step_size=0.5, clamp_factor=1e9, weight_decay=0.0, drift_weight=0.1, stop_below=0.0
    )
    at_the_end = [EditRequest(prompt="The mayor of {}", subject=each.subject, target=each.target) for each in facts]
    given = [value_problem(model, each, CONTEXTS[:1]) for each in at_the_end]
    for number, problem in enumerate(given):  # the second likeliest token is within reach
        ids = torch.tensor([problem.prompts[0].ids])
        second = model.logits(ids, torch.ones_like(ids))[0, -1].topk(2).indices[1]
        given[number] = replace(problem, target=(int(second),))
    without = optimise_values(model, given, plain)
    assert {one.updates for one in without} == {19}
    eager = optimise_values(model, given, replace(plain, once_answered=OnceAnswered(stop_below_drift=1e9)))
    never = optimise_values(
        model, given, replace(plain, once_answered=OnceAnswered(likelihood_weight=1.0, stop_below_drift=-1.0))
    )
    eased = optimise_values(
        model, given, replace(plain, once_answered=OnceAnswered(likelihood_weight=0.1, stop_below_drift=-1.0))
    )
    for problem, stopped in zip(given, eager, strict=True):
        assert 0 < stopped.updates < 19
        [before] = optimise_values(model, [problem], replace(plain, steps=stopped.updates))
        for found, answered in ((stopped, True), (before, False)):
            target, _ = objective(model, [problem], 3, "mlp")
            assert (target.evaluate(found.delta[None]).misses == 0).item() == answered
    for one, other, third in zip(without, never, eased, strict=True):
        assert one.updates == other.updates == third.updates == 19
        torch.testing.assert_close(one.value, other.value)
        assert third.drift < one.drift


def within_reach(
    model: LanguageModel, facts: tuple[EditRequest, ...], contexts: Sequence[str] = CONTEXTS[:1]
) -> list[ValueProblem]:
    """Edits that end with the subject and ask for the token that is second likeliest there."""
    given = []
    for fact in facts:
        problem = value_problem(model, replace(fact, prompt="The mayor of {}"), contexts)
        ids = torch.tensor([problem.prompts[0].ids])
        second = model.logits(ids, torch.ones_like(ids))[0, -1].topk(2).indices[1]
        given.append(replace(problem, target=(int(second),)))
    return given


ANSWERING = replace(SETTINGS, layer=3, steps=20, step_size=0.5, clamp_factor=1e9, weight_decay=0.0, stop_below=0.0)


def test_an_edit_is_answered_only_where_every_context_gives_the_target(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    plain = replace(ANSWERING, drift_weight=0.1)
    eager = replace(plain, once_answered=OnceAnswered(likelihood_weight=1.0, stop_below_drift=1e9))
    told_apart = False
    for problem in within_reach(model, facts, CONTEXTS):
        target, _ = objective(model, [problem], 3, "mlp")
        course = [optimise_values(model, [problem], replace(plain, steps=steps))[0] for steps in range(1, 21)]
        seen = [target.evaluate(one.delta[None]) for one in course]
        first = next(number for number, each in enumerate(seen) if each.misses == 0)
        assert optimise_values(model, [problem], eager)[0].updates == first
        told_apart |= any(each.bare_misses == 0 for each in seen[:first])
    assert told_apart


def test_an_answered_edit_is_done_when_its_drift_times_its_weight_is_small_enough(
    facts: tuple[EditRequest, ...],
) -> None:
    model = double("llama")
    plain = replace(ANSWERING, drift_weight=0.1)
    for problem in within_reach(model, facts[:1]):
        target, _ = objective(model, [problem], 3, "mlp")
        course = [optimise_values(model, [problem], replace(plain, steps=steps))[0] for steps in range(1, 21)]
        answered = [one for one in course if target.evaluate(one.delta[None]).misses == 0]
        assert answered
        for drift_there in {answered[0].drift, answered[-1].drift}:
            bound = drift_there * 0.1**0.5  # between the weighted drift and the drift itself
            rule = OnceAnswered(likelihood_weight=1.0, stop_below_drift=bound)
            [found] = optimise_values(model, [problem], replace(plain, once_answered=rule))
            assert found.updates == next(one.updates for one in answered if 0.1 * one.drift <= bound)


def test_the_likelihood_weighs_less_after_every_answered_step_and_no_longer_than_that(
    facts: tuple[EditRequest, ...],
) -> None:
    model = double("llama")
    rule = OnceAnswered(likelihood_weight=0.0, stop_below_drift=-1.0)
    settings = replace(ANSWERING, drift_weight=10.0, once_answered=rule)
    turns = set()
    for problem in within_reach(model, facts):
        target, rows = objective(model, [problem], 3, "mlp", FullForward)
        _, before = target.base(rows)
        delta, first, second = (torch.zeros(1, zoo.D_MODEL, dtype=torch.float64) for _ in range(3))
        weight, answered = 1.0, False
        for step in range(1, settings.steps):
            here = delta.clone().requires_grad_()
            seen = target.evaluate(here)
            loss = weight * seen.nll + settings.drift_weight * drift(seen.subject, before)
            [gradient] = torch.autograd.grad(loss.sum(), [here])
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            size = settings.step_size * (first / (1 - 0.9**step))
            delta = delta - size / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            turns.add((answered, answered := bool(seen.misses == 0)))
            weight = rule.likelihood_weight if answered else 1.0
        [found] = optimise_values(model, [problem], settings)
        torch.testing.assert_close(found.delta, delta[0], rtol=1e-6, atol=1e-8)
    assert turns >= {(False, True), (True, False)}
