"""What must hold for knowledge neurons: attributions against the definition, the choice of neurons, the edit."""

from collections.abc import Callable

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused, PromptTooLong
from editguard.methods import Preparation, create
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.knowledge_neurons import (
    PUBLISHED,
    KnowledgeNeurons,
    KnowledgeNeuronSettings,
    Prediction,
    activations,
    adjusted_share,
    attributions,
    coarse_neurons,
    embeddings,
    integrated_gradients,
    moved_columns,
    neuron_layers,
    path,
    predictions,
    present_answer,
    refined_neurons,
)
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel
from editguard.models.weights import LowRank

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Ines Holt", previous="Tamrin")
GRIDS = ("left", "right", "inclusive")
ONE = Prediction((5, 9, 20, 31, 44), 50)


def down_input(
    model: LanguageModel, layer: int, change: Callable[[Tensor], Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """A hook of this file's own, on what enters the matrix whose output joins the residual stream."""
    module: nn.Module = model.anatomy.down_projection(layer).module
    return module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))


def last_logits(model: LanguageModel, wanted: Prediction) -> Tensor:
    """(vocabulary,) of a whole pass of the Hugging Face model behind the tokens before the one that is wanted."""
    before = torch.tensor([wanted.before])
    ids = {"input_ids": torch.tensor([wanted.source]), "decoder_input_ids": before}
    return model.module(**(ids if wanted.source else {"input_ids": before})).logits[0, -1]


def probability(model: LanguageModel, wanted: Prediction, layer: int, last: Tensor) -> Tensor:
    """P(token) of a whole pass in which the last position's activations of one layer are `last`."""

    def change(entering: Tensor) -> Tensor:
        flat = entering.reshape(len(wanted.before), -1)
        return torch.cat([flat[:-1], last[None].to(flat)]).reshape(entering.shape)

    handle = down_input(model, layer, change)
    try:
        return last_logits(model, wanted).softmax(-1)[wanted.token]
    finally:
        handle.remove()


def present(model: LanguageModel, wanted: Prediction, layer: int) -> Tensor:
    """The last position's activations, read by a whole pass of its own."""
    seen: list[Tensor] = []
    handle = down_input(model, layer, lambda entering: seen.append(entering.clone()) or entering)
    last_logits(model, wanted)
    handle.remove()
    return seen[0].reshape(len(wanted.before), -1)[-1]


def by_definition(model: LanguageModel, wanted: Prediction, layer: int, alphas: Tensor) -> Tensor:
    """Attr_i = w_i / m sum_k dP(alpha_k w)/dw_i, one whole pass for every point."""
    now = present(model, wanted, layer)
    total = torch.zeros_like(now)
    for alpha in alphas.tolist():
        point = (alpha * now).detach().requires_grad_()
        total += torch.autograd.grad(probability(model, wanted, layer, point), [point])[0]
    return now * total / len(alphas)


# ---- attribution


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("grid", GRIDS)
def test_attributions_are_those_of_whole_passes_one_point_and_layer_at_a_time(family: str, grid: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    tolerance = 1e-6 if family == "gptj" else 1e-9  # its attention computes in float32 whatever the weights are
    wanted = [ONE, Prediction((11, 12, 13), 7), Prediction((17,), 60)]
    found = attributions(model, wanted, steps=3, grid=grid)
    assert found.shape == (3, zoo.LAYERS, zoo.D_FF)
    for number, each in enumerate(wanted):
        for layer in range(zoo.LAYERS):
            oracle = by_definition(model, each, layer, path(3, grid))
            assert (found[number, layer] - oracle).abs().max() <= tolerance * oracle.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_attributions_are_those_of_whole_passes_for_every_family(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    wanted = Prediction((5, 9, 20, 31, 44, 50, 61, 70, 80), 33)  # longer than the sliding windows
    found = attributions(model, [wanted], steps=3)[0]
    for layer in range(zoo.LAYERS):
        oracle = by_definition(model, wanted, layer, path(3, "left"))
        assert (found[layer] - oracle).abs().max() <= 1e-6 * oracle.abs().max()


def test_a_neurons_attribution_is_its_share_of_the_joint_change() -> None:
    """The gradient itself against central differences, neuron by neuron, in a model that is float64 throughout."""
    model = zoo.tiny("gpt2", dtype=torch.float64)
    layer, steps, tiny = 1, 2, 1e-6
    now = present(model, ONE, layer)
    found = attributions(model, [ONE], steps=steps, grid="right")[0, layer]
    for neuron in range(0, zoo.D_FF, 7):
        nudge = torch.zeros_like(now)
        nudge[neuron] = tiny
        slopes = [
            (probability(model, ONE, layer, a * now + nudge) - probability(model, ONE, layer, a * now - nudge))
            / 2
            / tiny
            for a in (0.5, 1.0)
        ]
        assert float(found[neuron]) == pytest.approx(float(now[neuron] * sum(slopes) / steps), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("family", zoo.PAIRED)
def test_behind_an_encoder_the_decoders_neurons_are_attributed_at_the_tokens_of_the_answer(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    prompt, answer = model.encode_answer(FACT.text, "Tamrin")
    wanted = predictions(model, prompt, answer)
    assert [(*each.before, each.token) for each in wanted] == [
        (*model.opening, *answer[: place + 1]) for place in range(len(answer))
    ]
    assert {each.source for each in wanted} == {tuple(prompt)}
    found = attributions(model, wanted, steps=3)
    assert found.shape == (len(answer), zoo.DECODER_LAYERS, zoo.D_FF)
    for number, each in enumerate(wanted):
        for place, layer in enumerate(neuron_layers(model)):
            oracle = by_definition(model, each, layer, path(3, "left"))
            assert (found[number, place] - oracle).abs().max() <= 1e-9 * oracle.abs().max()


def test_behind_an_encoder_the_prompt_is_read_once_for_all_points_of_a_batch() -> None:
    model = zoo.tiny("t5", batch_size=64)
    [wanted, _] = predictions(model, model.encode(FACT.text), [5, 6])
    seen: dict[str, list[int]] = {"encoder": [], "attention to it": []}
    model.anatomy.block(0).register_forward_hook(lambda _, args, __: seen["encoder"].append(len(args[0])))
    keys = model.module.decoder.block[0].layer[1].EncDecAttention.k
    keys.register_forward_hook(lambda _, args, __: seen["attention to it"].append(len(args[0])))
    attributions(model, [wanted], steps=20)
    assert seen == {"encoder": [1, 1], "attention to it": [1, 1]}  # for the activations, and for all points


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_scores_of_a_layer_sum_to_what_its_activations_do_to_the_probability(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    for steps, within in ((20, 0.2), (640, 0.01)):
        sums = attributions(model, [ONE], steps=steps)[0].sum(-1)
        for layer in range(zoo.LAYERS):
            now = present(model, ONE, layer)
            ends = [float(probability(model, ONE, layer, end)) for end in (now, torch.zeros_like(now))]
            scale = max(abs(ends[0] - ends[1]), 0.1 * max(ends))
            assert abs(float(sums[layer]) - (ends[0] - ends[1])) <= within * scale


def test_a_neuron_that_is_not_active_has_no_attribution() -> None:
    model = zoo.tiny("opt", dtype=torch.float64)
    now, scores = activations(model, [ONE])[0], attributions(model, [ONE], steps=4, grid="right")[0]
    silent = now == 0
    assert silent.any()
    assert not scores[silent].any()
    assert scores[~silent].all()


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_neuron_that_writes_the_answer_ranks_first(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    layer = zoo.LAYERS - 1
    now = present(model, ONE, layer)
    planted = int(now.abs().argmax())
    direction = embeddings(model, [ONE.token], "output")[0]
    with torch.no_grad():
        weight = model.anatomy.down_projection(layer).weight()
        weight[:, planted] = now[planted].sign() * 12 * direction / now[planted].abs()
    scores = attributions(model, [ONE], steps=20)[0]
    assert divmod(int(scores.argmax()), zoo.D_FF) == (layer, planted)


def test_an_answers_tokens_are_each_attributed_behind_the_ones_before() -> None:
    assert predictions(zoo.tiny("gpt2"), [1, 2], [3, 4, 5]) == [
        Prediction((1, 2), 3),
        Prediction((1, 2, 3), 4),
        Prediction((1, 2, 3, 4), 5),
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_depend_neither_on_the_batch_nor_on_each_other(family: str) -> None:
    wanted = [ONE, Prediction((*ONE.before, 50), 8), Prediction((11, 12), 7)]
    together = attributions(zoo.tiny(family, batch_size=64), wanted, steps=4)
    for number, each in enumerate(wanted):
        alone = attributions(zoo.tiny(family, batch_size=1), [each], steps=4)[0]
        torch.testing.assert_close(together[number], alone, rtol=1e-4, atol=1e-8)


def test_what_stands_before_the_prediction_runs_once_for_all_points_of_all_layers() -> None:
    model = zoo.tiny("gpt2")
    seen: list[tuple[int, int]] = []
    handle = model.anatomy.block(0).register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[:2])))
    attributions(model, [ONE], steps=20)
    handle.remove()
    assert seen == [(1, len(ONE.before)), (1, len(ONE.before) - 1), (20 * zoo.LAYERS, 1)]


def test_short_memory_makes_smaller_batches_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = attributions(zoo.tiny("gpt2"), [ONE], steps=4)
    model = zoo.tiny("gpt2")
    whole = model.forward

    def forward(ids: Tensor, mask: Tensor, **more: object) -> object:
        if len(ids) > 8:
            raise torch.OutOfMemoryError("no memory for that")
        return whole(ids, mask, **more)

    monkeypatch.setattr(model, "forward", forward)
    with pytest.warns(RuntimeWarning, match="going on with"):
        found = attributions(model, [ONE], steps=4)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-8)


def test_a_prompt_beyond_the_context_is_refused() -> None:
    long = tuple([5] * (zoo.CONTEXT + 1))
    with pytest.raises(PromptTooLong):
        attributions(zoo.tiny("gpt2"), [Prediction(long, 7)], steps=2)
    with pytest.raises(PromptTooLong):
        attributions(zoo.tiny("bart"), [Prediction((1, 0), 7, long)], steps=2)


# ---- the formulas


def test_the_grids_are_those_of_the_sources() -> None:
    assert path(4, "left").tolist() == [0, 0.25, 0.5, 0.75]
    assert path(4, "right").tolist() == [0.25, 0.5, 0.75, 1]
    assert path(5, "inclusive").tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_integrated_gradients_are_the_activations_times_the_mean_gradient() -> None:
    gradients = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert integrated_gradients(torch.tensor([[2.0, -1.0]]), gradients).tolist() == [[4.0, -4.0]]


def test_coarse_neurons_are_counted_from_the_highest_score_of_all_layers() -> None:
    scores = torch.tensor([[1.0, 0.2, -0.9], [0.19, 0.5, 0.0]])
    assert coarse_neurons(scores, 0.2).tolist() == [[True, True, False], [False, True, False]]
    assert coarse_neurons(scores, 0.0).tolist() == [[True, True, False], [True, True, False]]
    assert not coarse_neurons(-scores.abs(), 0.2).any()


masks = st.integers(1, 12).flatmap(
    lambda prompts: st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=prompts, max_size=prompts).map(
        lambda rows: torch.tensor(rows).reshape(-1, 2, 3)
    )
)


@settings(deadline=None, max_examples=60)
@given(masks, st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.65, 0.7, 0.9, 1.0]))
def test_refined_neurons_occur_in_that_share_of_the_prompts(found: Tensor, share: float) -> None:
    kept = refined_neurons(found, share)
    for place in range(6):
        count = int(found.reshape(-1, 6)[:, place].sum())
        assert bool(kept.reshape(6)[place]) == (count > 0 and 100 * count >= round(100 * share) * len(found))
    assert torch.equal(refined_neurons(found, 0.0), found.any(0))
    assert torch.equal(refined_neurons(found[:1], max(share, 0.1)), found[0])


@settings(deadline=None, max_examples=60)
@given(masks)
def test_the_adjusted_share_leaves_a_neuron_where_there_is_one_and_moves_six_steps_at_most(found: Tensor) -> None:
    share = adjusted_share(found, 0.7)
    left = int(refined_neurons(found, share).sum())
    assert (left > 0) == bool(found.any())
    if 2 <= int(refined_neurons(found, 0.7).sum()) <= 5:
        assert share == 0.7
    commonest = float(found.sum(0).max()) / len(found)
    assert 0.4 - 1e-9 <= share <= 1.0 or share == commonest


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=14))
def test_the_share_goes_up_where_too_many_neurons_are_left_down_where_too_few_and_halts_at_the_first_that_fits(
    counts: list[int],
) -> None:
    found = (torch.arange(20)[:, None] < torch.tensor(counts))[:, None, :]  # a neuron in so many of twenty prompts
    share, step = adjusted_share(found, 0.7), 0.05 if int(refined_neurons(found, 0.7).sum()) > 5 else -0.05
    way = [min(0.7 + step * number, 1.0) for number in range(6)]
    left = [int(refined_neurons(found, each).sum()) for each in way]
    beyond = next((number for number, each in enumerate(left) if (each <= 5 if step > 0 else each >= 2)), None)
    if beyond is not None and 2 <= left[beyond] <= 5:
        assert share == pytest.approx(way[beyond])
    if not 2 <= left[0] <= 5 and any(counts):
        assert (share >= 0.7 - 1e-9) if step > 0 else (share <= 0.7 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.booleans(), st.floats(0, 3), st.floats(0, 9))
def test_every_column_moves_as_the_paper_says(seed: int, rescales: bool, less: float, more: float) -> None:
    drawn = torch.Generator().manual_seed(seed)
    columns, old, new = (torch.randn(*shape, dtype=torch.float64, generator=drawn) for shape in ((6, 3), (6,), (6,)))
    direction, lengths = moved_columns(columns, old, new, old_weight=less, new_weight=more, rescales=rescales)
    for number in range(3):
        length = float(columns[:, number].norm())
        first = less * length / float(old.norm()) if rescales else less
        second = more * length / float(new.norm()) if rescales else more
        torch.testing.assert_close(lengths[number] * direction, -first * old + second * new)


def test_a_single_step_is_refused_because_it_is_no_integral() -> None:
    with pytest.raises(InvalidSettings, match="no integral"):
        KnowledgeNeuronSettings(steps=1)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"share": -0.1}, {"old_weight": -1.0}, {"grid": "middle"}, {"pooling": "max"}]
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        create("kn", wrong)


def test_published_rows_are_the_ports_and_all_of_them_integrate() -> None:
    recipe = KnowledgeNeurons.recipe
    for row in PUBLISHED:
        found = resolve("kn", recipe, {}, Shape(row.family, row.layers, row.d_model, d_ff=row.d_ff))
        assert found.settings.steps == 20
        assert (found.settings.refines, found.settings.rescales) == (False, False)
        assert found.provenance["threshold"].startswith("published")
    default = resolve("kn", recipe, {}, Shape("llama", 5, 64)).settings
    assert (default.old_weight, default.new_weight, default.rescales, default.refines) == (1, 8, True, True)


# ---- the edit


def method(model: LanguageModel, **overrides: object) -> KnowledgeNeurons:
    made = create("kn", {"steps": 4, "refines": False, **overrides}, model)
    assert isinstance(made, KnowledgeNeurons)
    made.prepare(model, Preparation())
    return made


@pytest.mark.parametrize(
    ("family", "square"), [*((family, False) for family in zoo.QUICK), ("gpt2", True), ("llama", True)]
)
def test_only_columns_of_the_chosen_neurons_change_and_the_bytes_come_back(family: str, square: bool) -> None:
    model = zoo.tiny(family, square=square)
    original = EditedModel.original(model)
    pristine = {name: tensor.clone() for name, tensor in model.module.named_parameters()}
    edited = method(model).apply(original, [FACT])
    neurons = edited.edits[0].record["neurons"]
    assert neurons
    downs = {model.anatomy.down_projection(layer).name: layer for layer in range(model.anatomy.layers)}
    assert {int(layer) for layer in neurons} <= set(neuron_layers(model))
    with edited:
        for name, tensor in model.module.named_parameters():
            layer = downs.get(name)
            if layer is None or str(layer) not in neurons:
                assert torch.equal(tensor, pristine[name])
                continue
            matrix = model.anatomy.down_projection(layer)
            before = pristine[name].T if matrix.transposed else pristine[name]
            moved = (matrix.weight() != before).any(0).nonzero()[:, 0].tolist()
            assert moved == neurons[str(layer)]
    assert all(torch.equal(tensor, pristine[name]) for name, tensor in model.module.named_parameters())
    model.weights.verify()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("preset", ["authors", "port"])
def test_the_update_is_the_one_of_the_formula_with_the_models_own_embeddings(family: str, preset: str) -> None:
    model = zoo.tiny(family)
    port = {"old_weight": 2.0, "new_weight": 1.0, "rescales": False, "embedding": "input", "pooling": "port"}
    edited = method(model, **(port if preset == "port" else {})).apply(EditedModel.original(model), [FACT])
    prompt, new = model.encode_answer(FACT.text, FACT.target)
    old = present_answer(model, prompt, len(new))
    assert len(new) > 1
    table = (
        model.module.get_output_embeddings().weight
        if preset == "authors"
        else model.module.get_input_embeddings().weight
    )
    assert edited.edits[0].changes
    for name, delta in edited.edits[0].changes[0].deltas.items():
        assert isinstance(delta, LowRank)
        layer = next(layer for layer in range(zoo.LAYERS) if model.anatomy.down_projection(layer).name == name)
        weight, found = model.anatomy.down_projection(layer).weight(), delta.dense()
        for neuron in edited.edits[0].record["neurons"][str(layer)]:
            if preset == "port":
                wanted = table[new].sum(0) - 2 * table[old[0]]
            else:
                before, after = table[old].mean(0), table[new].mean(0)
                wanted = weight[:, neuron].norm() * (8 * after / after.norm() - before / before.norm())
            torch.testing.assert_close(found[:, neuron], wanted, rtol=1e-4, atol=1e-5)


def test_the_neurons_are_those_of_the_previous_answer_where_it_is_named_and_else_of_the_models_own() -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    prompt, previous = model.encode_answer(FACT.text, "Tamrin")
    _, new = model.encode_answer(FACT.text, FACT.target)
    old = present_answer(model, prompt, len(new))
    unnamed = EditRequest(prompt=FACT.prompt, subject=FACT.subject, target=FACT.target)
    for request, answer in ((FACT, previous), (unnamed, old)):
        scores = attributions(model, predictions(model, prompt, answer), steps=4).mean(0)
        record = method(model).apply(original, [request]).edits[0].record
        assert record["highest_score"] == pytest.approx(float(scores.max()), rel=1e-4)
        mask = coarse_neurons(scores, 0.2)
        wanted = {str(layer): mask[layer].nonzero()[:, 0].tolist() for layer in range(zoo.LAYERS) if mask[layer].any()}
        assert record["neurons"] == wanted


def test_the_present_answer_is_greedy_decoding() -> None:
    model = zoo.tiny("llama")
    ids = model.encode(FACT.text)
    for token in present_answer(model, ids, 3):
        row = torch.tensor([ids])
        assert token == int(model.logits(row, torch.ones_like(row))[0, -1].argmax())
        ids = [*ids, token]


def test_what_the_model_answers_already_is_left_as_it_is() -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    request = next(
        EditRequest(prompt="{} " + ending, subject="Velloria", target=target)
        for ending in zoo.SENTENCES
        for target in [model.decode(present_answer(model, model.encode("Velloria " + ending), 1)).strip()]
        if target and model.score([("Velloria " + ending, target)])[0].exact
    )
    digest = model.weights.digest()
    with pytest.warns(RuntimeWarning, match="answers so already"):
        edited = method(model).apply(original, [request])
    assert edited.edits[0].record["already_true"] is True
    with edited:
        assert model.weights.digest() == digest


def test_refining_counts_every_prefix_context() -> None:
    model = zoo.tiny("gpt2")
    made = method(model, refines=True, context_lengths=((4, 2),), adjusts_share=False, share=0.0)
    union = made.apply(EditedModel.original(model), [FACT]).edits[0].record
    alone = method(model).apply(EditedModel.original(model), [FACT]).edits[0].record
    assert union["contexts"] == 3
    assert alone["contexts"] == 1
    pairs = {(layer, neuron) for layer, found in union["neurons"].items() for neuron in found}
    assert {(layer, neuron) for layer, found in alone["neurons"].items() for neuron in found} < pairs


def test_the_neurons_are_those_that_the_share_of_prompts_has_in_common_which_gives_way_only_where_asked() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    found = []
    for context in prefix_contexts(model, lengths=((4, 3),)):
        prompt, previous = model.encode_answer(context + FACT.text, FACT.previous or "")
        found.append(coarse_neurons(attributions(model, predictions(model, prompt, previous), steps=4).mean(0), 0.2))
    masks = torch.stack(found)
    shares = {True: adjusted_share(masks, 0.25), False: 0.25}
    assert shares[True] != shares[False]
    for adjusts, share in shares.items():
        made = method(model, refines=True, context_lengths=((4, 3),), adjusts_share=adjusts, share=0.25)
        record = made.apply(EditedModel.original(model), [FACT]).edits[0].record
        mask = refined_neurons(masks, share)
        assert record["share"] == share
        assert record["neurons"] == {
            str(layer): mask[layer].nonzero()[:, 0].tolist() for layer in range(zoo.LAYERS) if mask[layer].any()
        }


def test_each_edit_is_found_on_the_model_that_the_ones_before_have_left_whatever_is_in_force() -> None:
    model = zoo.tiny("gpt2")
    other = EditRequest(prompt="{} was born in", subject="Aldo Holt", target="Belmora")
    made, original = method(model), EditedModel.original(model)

    def last(edited: EditedModel) -> dict[str, Tensor]:
        return {name: delta.dense() for name, delta in edited.edits[-1].changes[0].deltas.items()}

    first, alone = made.apply(original, [FACT]), made.apply(original, [other])
    together, chained = made.apply(original, [FACT, other]), made.apply(first, [other])
    with first:
        again = made.apply(original, [other])
    for one, same in ((together, chained), (again, alone)):
        assert last(one).keys() == last(same).keys()
        assert all(torch.equal(delta, last(same)[name]) for name, delta in last(one).items())
    assert together.edits[-1].record["highest_score"] != alone.edits[-1].record["highest_score"]


def test_an_edit_without_neurons_is_refused_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    monkeypatch.setattr(
        "editguard.methods.knowledge_neurons.attributions",
        lambda _, wanted, **__: torch.zeros(len(wanted), zoo.LAYERS, zoo.D_FF),
    )
    with pytest.raises(MethodRefused, match="no neuron"):
        method(model).apply(EditedModel.original(model), [FACT])
    model.weights.verify()


def test_a_token_of_a_narrow_head_is_the_direction_in_which_its_logit_grows() -> None:
    model = zoo.tiny("opt_post_norm")
    assert model.anatomy.head.weight.shape[1] < zoo.D_MODEL
    found = embeddings(model, [7, 30], "output")
    assert found.shape == (2, zoo.D_MODEL)
    state = torch.randn(zoo.D_MODEL, generator=torch.Generator().manual_seed(0))
    for token, direction in zip((7, 30), found, strict=True):
        rise = model.anatomy.logits(state + direction) - model.anatomy.logits(state)
        assert float(rise[token]) == pytest.approx(float(direction.square().sum()), rel=1e-4)
    with pytest.raises(MethodRefused, match="12 wide"):
        embeddings(model, [7], "input")


def test_refining_needs_contexts_that_a_decoder_behind_an_encoder_does_not_write() -> None:
    model = zoo.tiny("t5")
    made = create("kn", {"steps": 4}, model)
    assert (made.settings.refines, made.provenance["refines"][:7]) == (False, "derived")
    made.prepare(model, Preparation())
    refining = create("kn", {"steps": 4, "refines": True}, model)
    for attempt in (
        lambda: refining.prepare(model, Preparation()),
        lambda: refining.apply(EditedModel.original(model), [FACT]),
    ):
        with pytest.raises(MethodRefused, match="refines = false"):
            attempt()


def test_behind_an_encoder_the_answers_are_compared_without_the_token_that_closes_them() -> None:
    model = zoo.tiny("t5")
    edited = method(model).apply(EditedModel.original(model), [FACT])
    prompt, target = model.encode_answer(FACT.text, FACT.target)
    new, old = target[:-1], present_answer(model, prompt, len(target) - 1)
    scores = attributions(model, predictions(model, prompt, model.encode_answer(FACT.text, "Tamrin")[1][:-1]), steps=4)
    assert edited.edits[0].record["highest_score"] == pytest.approx(float(scores.mean(0).max()), rel=1e-4)
    table = model.module.get_output_embeddings().weight
    before, after = table[old].mean(0), table[new].mean(0)
    for layer, neurons in edited.edits[0].record["neurons"].items():
        matrix = model.anatomy.down_projection(int(layer))
        found = edited.edits[0].changes[0].deltas[matrix.name].dense()
        lengths = matrix.weight()[:, neurons].norm(dim=0)
        wanted = (8 * after / after.norm() - before / before.norm())[:, None] * lengths
        torch.testing.assert_close(found[:, neurons], wanted, rtol=1e-4, atol=1e-5)


def test_untied_models_take_the_head_unless_asked_otherwise() -> None:
    model = zoo.tiny("llama")
    assert torch.equal(embeddings(model, [9], "output")[0], model.anatomy.head.weight[9])
    assert torch.equal(embeddings(model, [9], "input")[0], model.anatomy.embedding.weight[9])
    assert not torch.equal(model.anatomy.head.weight[9], model.anatomy.embedding.weight[9])
