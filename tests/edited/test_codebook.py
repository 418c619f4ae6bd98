"""A codebook: exact look-ups, values put exactly where they belong, and not a bit moved anywhere else."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel
from editguard.edited.codebook import Codebook, Entry, KeyBuffer, Member, Replacement, nearest, replaced_places
from editguard.edits import EditRequest
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.models import LanguageModel, capture
from editguard.models.anatomy import Matrix
from editguard.models.reading import Reading

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
LAYER = 2
IN, OUT, LONG = "The capital of Velloria is", "Ines Holt", "Question: who is the mayor of Tamrin? Answer:"
RULES: tuple[Replacement, ...] = ("replace_last", "replace_prompt", "replace_all")


# ---- the look-up


def brute_force(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.linalg.vector_norm(keys[None].double() - queries[:, None].double(), dim=2)


@st.composite
def books(draw: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Queries and keys far from the origin, so that squares say little about distances; some queries are keys."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    width, entries = draw(st.sampled_from([(1, 3), (8, 40), (300, 60)])), draw(st.integers(1, 200))
    offset = draw(st.sampled_from([0.0, 10.0, 1300.0]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    keys = (torch.randn(entries, width[0], generator=generator) + offset / width[0] ** 0.5).to(dtype)
    queries = torch.randn(width[1], width[0], generator=generator).to(dtype) + keys[:1]
    queries[::3] = keys[torch.randint(entries, (len(queries[::3]),), generator=generator)]
    return queries, keys


@given(books())
@settings(deadline=None, max_examples=60)
def test_look_ups_find_what_measuring_every_distance_finds(book: tuple[Tensor, Tensor]) -> None:
    queries, keys = book
    distances, numbers = nearest(queries, keys, keys.square().sum(dim=1))
    exact = brute_force(queries, keys)
    chosen = exact.gather(1, numbers[:, None])[:, 0]
    slack = 4 * torch.finfo(keys.dtype).eps
    assert (chosen <= exact.min(dim=1).values * (1 + slack) + 1e-30).all()
    torch.testing.assert_close(distances.double(), chosen, rtol=1e-5, atol=0)
    assert (distances[::3] == 0).all()


def test_a_key_is_at_distance_zero_from_itself_however_long_it_is_and_however_many_there_are() -> None:
    """The product of matrices alone is wrong by most of a radius here."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(400, 2048, generator=generator) + 1300 / 2048**0.5
    squares = keys.square().sum(dim=1)
    shortcut = (squares + squares[:, None] - 2 * keys @ keys.T).clamp(min=0).diagonal().sqrt()
    assert shortcut.max() > 0.3
    distances, numbers = nearest(keys, keys, squares)
    assert not distances.any()
    assert numbers.tolist() == list(range(400))


def test_of_equal_keys_the_first_is_found_and_few_candidates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1000, 64, generator=generator)
    keys[700] = keys[3]
    measured: list[int] = []
    norm = torch.linalg.vector_norm

    def counting(values: Tensor, **options: Any) -> Tensor:
        measured.append(values.shape[1] if values.ndim == 3 else 0)
        return norm(values, **options)

    monkeypatch.setattr(torch.linalg, "vector_norm", counting)
    _, numbers = nearest(keys[[3, 700, 5]], keys, keys.square().sum(dim=1))
    assert numbers.tolist() == [3, 3, 5]
    assert sum(measured) == 2


def test_undefined_queries_are_near_nothing() -> None:
    keys = KeyBuffer(torch.randn(5, 4))
    [distance], _ = keys.nearest(5, torch.full((1, 4), torch.nan))
    assert not distance <= 1e9


def test_versions_share_one_buffer_until_two_of_them_go_on_differently() -> None:
    rows = torch.arange(40.0).reshape(20, 2)
    buffer = KeyBuffer(rows[:1])
    for length in range(1, 12):
        longer = buffer.extended(length, rows[length])
        assert longer is buffer
    assert torch.equal(buffer.rows(12), rows[:12])
    assert buffer.rows(3).data_ptr() == buffer.rows(12).data_ptr()
    assert len(buffer._keys) == 16  # doubled when full, not grown by one each time
    branch = buffer.extended(5, rows[15])
    assert branch is not buffer
    assert torch.equal(branch.rows(6), rows[[0, 1, 2, 3, 4, 15]])
    assert torch.equal(buffer.rows(12), rows[:12])
    assert branch.nearest(6, rows[15:16]) == ([0.0], [5])
    assert buffer.nearest(12, rows[11:12]) == ([0.0], [11])
    assert buffer.nearest(4, rows[3:4]) == ([0.0], [3])


# ---- in force


def query_of(model: LanguageModel, matrix: Matrix, prompt: str) -> Tensor:
    [queries] = at_prompt_ends(model, [model.encode(prompt)], [(matrix.module, "input")])
    return queries[0]


def entry(matrix: Matrix, radius: float, seed: int = 0) -> Entry:
    value = 3 * torch.randn(matrix.d_out, generator=torch.Generator().manual_seed(seed))
    return Entry(value, radius, (7,), (Member((1, 2)),))


def in_force(model: LanguageModel, codebook: Codebook) -> EditedModel:
    return EditedModel(model, [AppliedEdit("toy", (FACT,), (codebook,))])


def codebook_at(
    model: LanguageModel, prompt: str, *, radius: float = 1e-3, replacement: Replacement = "replace_last"
) -> Codebook:
    matrix = model.anatomy.down_projection(LAYER)
    keys = KeyBuffer(query_of(model, matrix, prompt)[None])
    return Codebook(matrix, replacement, keys, {0: entry(matrix, radius)})


def logits(model: LanguageModel, prompts: Sequence[str], side: str = "right", answer: Sequence[int] = ()) -> Tensor:
    """Logits of a padded batch of prompts with tokens behind them, at the prompts' last tokens and behind."""
    rows = [[*model.encode(prompt), *answer] for prompt in prompts]
    width = max(map(len, rows))
    ids, mask, asked = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, place], mask[number, place] = torch.tensor(row), 1
        asked[number, place] = torch.tensor([1] * (len(row) - len(answer)) + [0] * len(answer))
    states = model.forward(ids, mask, reading=Reading(asked.bool())).last_hidden_state
    ends = Reading(asked.bool()).ends
    assert ends is not None
    places = ends[:, None] + torch.arange(len(answer) + 1)
    return model.anatomy.unembed(states[torch.arange(len(rows))[:, None], places])


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_nothing_moves_without_entries_or_outside_every_ball(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    matrix = model.anatomy.down_projection(LAYER)
    empty = Codebook(matrix, "replace_all", KeyBuffer(torch.zeros(0, matrix.d_in)), {})
    before, random_state = logits(model, [OUT, LONG]), torch.get_rng_state()
    for rule in RULES:
        full = codebook_at(model, IN, replacement=rule)
        entries = list(full.entries)
        for codebook in (empty, full):
            with in_force(model, codebook):
                assert torch.equal(logits(model, [OUT, LONG]), before)
        assert list(full.entries) == entries
        assert full.size == 1
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_in_a_batch_the_rows_near_a_key_change_and_the_others_keep_their_bits(rule: Replacement, side: str) -> None:
    model = zoo.tiny("gpt2")
    before = logits(model, [OUT, IN, LONG], side)
    codebook = codebook_at(model, IN, replacement=rule)
    with in_force(model, codebook):
        after = logits(model, [OUT, IN, LONG], side)
        alone = logits(model, [IN])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] - before[1]).abs().max() > 1e-2
    torch.testing.assert_close(after[1], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_value_itself_is_what_the_matrix_puts_out_at_the_last_prompt_token(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    exact = dtype == torch.float32  # else the key is read alone and the query in a batch, each rounded in its own way
    codebook = codebook_at(model, IN, radius=1e-3 if exact else 0.1)
    module = codebook.matrix.module
    # A block's residual sum in place would be seen in the captured tensor, were it not a copy.
    with capture(module) as plain:
        logits(model, [OUT, IN], answer=(5, 6))
    with in_force(model, codebook), capture(module) as captured:
        logits(model, [OUT, IN], answer=(5, 6))
    grid, untouched = (each.value.reshape(2, -1, zoo.D_MODEL) for each in (captured, plain))
    end = len(model.encode(IN)) - 1
    assert torch.equal(grid[1, end], codebook.entries[0].value.to(dtype))
    others = torch.ones(grid.shape[:2], dtype=torch.bool)
    others[1, end] = False
    assert torch.equal(grid[others], untouched[others])


def test_the_output_that_is_handed_in_is_not_written_to() -> None:
    """A module may return a view of something that is needed elsewhere."""
    codebook = codebook_at(zoo.tiny("gpt2"), IN)
    output, entering = torch.randn(2, 3, zoo.D_MODEL), torch.randn(2, 3, zoo.D_FF)
    before, prompts = output.clone(), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    changed = codebook.act(entering, output, torch.tensor([-1, 0]), Reading(prompts))
    assert changed is not None
    assert torch.equal(changed[1, 1], codebook.entries[0].value)
    assert torch.equal(output, before)


def test_each_rule_replaces_its_own_tokens() -> None:
    prompts = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    wanted = {
        "replace_last": [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]],
        "replace_prompt": [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
        "replace_all": [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    }
    for rule in RULES:
        places = replaced_places(Reading(prompts), 5, rule)
        assert places is not None
        assert places.int().tolist() == wanted[rule]
        behind = replaced_places(Reading(None), 1, rule)
        assert (behind is not None) == (rule == "replace_all")


@pytest.mark.parametrize("rule", RULES)
def test_cached_decoding_says_what_one_pass_over_prompt_and_answer_says(rule: Replacement) -> None:
    """Also behind a prompt of another length, and after a generation has gone before."""
    model = zoo.tiny("gpt2")
    edited = in_force(model, codebook_at(model, IN, replacement=rule))
    for prompts in ([LONG], [IN], [OUT, IN, LONG]):
        for prompt, answer in zip(prompts, edited.generate(prompts, max_new_tokens=5), strict=True):
            with edited:
                predicted = logits(model, [prompt], answer=answer.token_ids)[0, :-1].argmax(-1)
            assert tuple(predicted.tolist()) == answer.token_ids
    plain = EditedModel.original(model).generate([IN], max_new_tokens=5)[0]
    assert edited.generate([IN], max_new_tokens=5)[0].token_ids != plain.token_ids


def test_a_distance_equal_to_the_radius_fires_and_the_next_larger_does_not() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    matrix = model.anatomy.down_projection(LAYER)
    query = query_of(model, matrix, IN)
    key = query.clone()
    key[0] += 1.0
    distance = float(torch.linalg.vector_norm(query - key))
    before = logits(model, [IN])
    for radius, fires in ((distance, True), (distance * (1 - 1e-12), False)):
        codebook = Codebook(matrix, "replace_last", KeyBuffer(key[None]), {0: entry(matrix, radius)})
        with in_force(model, codebook):
            assert torch.equal(logits(model, [IN]), before) != fires


def test_the_nearest_entry_decides_alone_even_where_a_wider_ball_holds_the_query() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    query = query_of(model, matrix, IN)
    keys = KeyBuffer(torch.stack([query + 0.1, query + 0.01]))
    before = logits(model, [IN])
    narrow = {0: entry(matrix, 100.0), 1: entry(matrix, 1e-6, seed=1)}
    with in_force(model, Codebook(matrix, "replace_last", keys, narrow)):
        assert torch.equal(logits(model, [IN]), before)


def test_versions_hold_only_what_they_changed_and_know_all_the_same() -> None:
    matrix = zoo.tiny("gpt2").anatomy.down_projection(LAYER)
    buffer = KeyBuffer(torch.zeros(1, matrix.d_in))
    first = Codebook(matrix, "replace_last", buffer, {0: entry(matrix, 1.0)})
    version = first
    for number in range(1, 2000):
        buffer = buffer.extended(number, torch.full((matrix.d_in,), float(number)))
        version = Codebook(matrix, "replace_last", buffer, {number: entry(matrix, float(number + 1), number)}, version)
    other = entry(matrix, 0.25, 9)
    last = Codebook(matrix, "replace_last", buffer, {3: other}, version)
    assert (first.size, version.size, last.size) == (1, 2000, 2000)
    assert [each.radius for each in version.entries] == list(range(1, 2001))
    assert last.entries[3] is other
    assert version.entries[3].radius == 4
    assert all(one is two for one, two in zip(last.entries[4:], version.entries[4:], strict=True))
    assert len(last.changed) == 1
    assert last.bytes() == 2000 * 4 * (matrix.d_in + matrix.d_out) + 2000 * 8


def test_only_the_version_in_force_keeps_a_table() -> None:
    model = zoo.tiny("gpt2")
    first = codebook_at(model, IN)
    keys = first.keys.extended(1, query_of(model, first.matrix, OUT))
    second = Codebook(first.matrix, "replace_last", keys, {1: entry(first.matrix, 1e-3, 1)}, first)
    chain = in_force(model, first)
    chain.next_tokens([IN])
    longer = chain.extended(AppliedEdit("toy", (FACT,), (second,)))
    longer.next_tokens([IN, OUT])
    assert (first._entries, second._entries is None) == (None, False)
    chain.next_tokens([IN])
    assert (first._entries is None, second._entries) == (False, None)
    EditedModel.original(model).activate()
    assert first._entries is None


def test_a_model_that_is_moved_to_another_type_is_routed_and_edited_as_before() -> None:
    model = zoo.tiny("gpt2")
    codebook = codebook_at(model, IN, radius=0.5)
    model.module.to(torch.bfloat16)
    with in_force(model, codebook), capture(codebook.matrix.module) as captured:
        logits(model, [IN])
    assert torch.equal(captured.value[0, -1], codebook.entries[0].value.to(torch.bfloat16))


@pytest.mark.slow
def test_importing_and_using_a_codebook_leaves_the_process_environment_alone() -> None:
    program = (
        "import os; before = dict(os.environ)\n"
        "import editguard.methods.grace\n"
        "assert dict(os.environ) == before, set(os.environ) ^ set(before)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))
