"""Second moments of keys: what they are, what they do not depend on, how they are kept and factorised."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import CacheError, MethodRefused, ModelChanged, UnknownPart, UnsupportedModel
from editguard.models.hooks import capture
from editguard.models.moment_cache import MomentCache
from editguard.models.second_moment import Pace, SecondMoment, second_moments, sum_of_outer_products
from editguard.models.weights import Dense

TEXTS = zoo.SENTENCES
ALL = 10_000


def moment(model, layer=1, texts=TEXTS, tokens=ALL, **options) -> SecondMoment:
    return second_moments(model, [layer], texts, tokens=tokens, **options)[layer]


def keys(model, layer, texts=TEXTS) -> torch.Tensor:
    """The keys of each text alone, one after another: (tokens, d_ff)."""
    found = []
    for text in texts:
        ids = torch.tensor([model.encode_text(text)])
        with torch.no_grad(), capture(model.anatomy.down_projection(layer).module, "input") as captured:
            model.module(input_ids=ids)
        found.append(captured.value.reshape(ids.shape[1], -1).double())
    return torch.cat(found)


# ---- what it is


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_it_is_the_mean_outer_product_of_the_keys_of_all_real_tokens(family):
    model = zoo.tiny(family)
    expected = keys(model, 2)
    found = moment(model, 2)
    assert found.tokens == len(expected)
    torch.testing.assert_close(found.matrix, expected.T @ expected / len(expected), rtol=1e-4, atol=1e-5)
    assert float(found.matrix.trace()) == pytest.approx(float((expected**2).sum(1).mean()), rel=1e-5)
    assert torch.equal(found.matrix, found.matrix.T)
    assert torch.linalg.eigvalsh(found.matrix).min() > -1e-9 * found.matrix.trace()


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_batch_size_and_order_of_texts_change_nothing_but_rounding(family):
    model = zoo.tiny(family)
    expected = moment(model)
    for batch_size in (1, 3):
        model.batch_size = batch_size
        found = moment(model, texts=TEXTS[::-1], seed=batch_size)
        torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-4, atol=1e-6)


def test_a_corpus_read_twice_has_the_same_mean():
    model = zoo.tiny("gpt2")
    once, twice = moment(model), moment(model, texts=TEXTS * 2)
    assert twice.tokens == 2 * once.tokens
    torch.testing.assert_close(twice.matrix, once.matrix, rtol=1e-5, atol=1e-7)


def test_padding_never_enters():
    expected = moment(zoo.tiny("gpt2"))
    other = zoo.tiny("gpt2")
    with torch.no_grad():
        other.anatomy.embedding.weight[0] = 100.0  # what padded places hold; no text has this token
    assert torch.equal(moment(other).matrix, expected.matrix)


def test_one_pass_serves_all_layers_and_ends_at_the_highest():
    model = zoo.tiny("gpt2")
    ran: list[int] = []
    for layer in range(zoo.LAYERS):
        model.anatomy.block(layer).register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
    together = second_moments(model, [2, 0], TEXTS, tokens=ALL)
    assert sorted(ran) == [0, 1, 2]
    assert list(together) == [0, 2]
    for layer, found in together.items():
        assert torch.equal(found.matrix, moment(model, layer).matrix)
    assert 3 not in ran


def test_exactly_as_many_tokens_as_asked_for_are_seen_and_long_texts_are_cut():
    model = zoo.tiny("gpt2")
    assert moment(model, tokens=37).tokens == 37
    assert moment(model, texts=[TEXTS[0]] * 3, max_length=5).tokens == 15
    assert moment(model, texts=["Who? " * 300]).tokens == zoo.CONTEXT


def test_the_seed_decides_which_texts_are_seen():
    model = zoo.tiny("gpt2")
    drawn = [moment(model, tokens=20, seed=seed).matrix for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_progress_is_told_up_to_the_whole():
    model, told = zoo.tiny("gpt2", batch_size=2), []
    found = moment(model, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (found.tokens, found.tokens)
    assert told == sorted(told)
    assert len(told) > 2


def test_it_is_that_of_the_unedited_model():
    model = zoo.tiny("gpt2")
    model.weights.push({"transformer.h.0.mlp.c_proj.bias": Dense(torch.ones(zoo.D_MODEL))})
    with pytest.raises(ModelChanged, match="unedited"):
        moment(model)


@pytest.mark.parametrize(("texts", "tokens"), [((), 10), (TEXTS, 0), (("",), 10)])
def test_no_text_is_refused(texts, tokens):
    with pytest.raises(MethodRefused, match="empty"):
        moment(zoo.tiny("gpt2"), texts=texts, tokens=tokens)


def test_an_unknown_layer_is_refused():
    with pytest.raises(UnknownPart):
        moment(zoo.tiny("gpt2"), 4)


def test_the_sum_is_taken_in_blocks_without_losing_precision():
    rows = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) + 100
    exact = rows.double().T @ rows.double()
    torch.testing.assert_close(sum_of_outer_products(rows), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keys_of_half_precision_are_multiplied_in_full(dtype):
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.testing.assert_close(sum_of_outer_products(rows), rows.double().T @ rows.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 17, 41, 64])
def test_the_sum_is_whole_and_symmetric_at_widths_that_the_panels_do_not_divide(width):
    rows = torch.randn(50, width, generator=torch.Generator().manual_seed(width))
    found = sum_of_outer_products(rows)
    torch.testing.assert_close(found, rows.double().T @ rows.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, found.T)


# ---- regularising and factorising


def of(matrix: torch.Tensor) -> SecondMoment:
    return SecondMoment(matrix.double(), 100, "key")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 8), alpha=st.sampled_from([1e-6, 1e-4, 1e-2, 0.5, 1.0]))
def test_shrinkage_makes_any_second_moment_factorisable_with_a_bounded_condition_number(seed, rank, alpha):
    draw = torch.randn(rank, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = of(draw.T @ draw / rank)
    factor = found.cholesky(alpha)
    expected = (1 - alpha) * found.matrix + alpha * found.matrix.trace() / 8 * torch.eye(8, dtype=torch.float64)
    assert factor.jitter == 0
    torch.testing.assert_close(found.shrunk(alpha), expected)
    torch.testing.assert_close(factor.lower @ factor.lower.T, expected)
    assert found.condition_number(alpha) <= 8 / alpha * (1 + 1e-6)
    for right in (torch.ones(8), torch.ones(8, 2)):
        torch.testing.assert_close(expected @ factor.solve(right), right.double(), rtol=1e-6, atol=1e-6)


def test_units_that_never_fire_are_counted_and_make_the_matrix_singular():
    model = zoo.tiny("opt")
    with torch.no_grad():
        [up] = model.anatomy.up_projections(1)
        up.bias()[[3, 7]] = -1e4
    found = moment(model)
    dead = found.matrix.diagonal() == 0
    assert dead[[3, 7]].all()
    assert found.dead_units == int(dead.sum()) >= 2
    assert not found.matrix[3].any()
    assert found.condition_number() == float("inf")
    with pytest.raises(MethodRefused, match=rf"singular.*{found.dead_units} of 40 units never fire"):
        found.cholesky(0)
    assert found.cholesky(1e-2).solve(torch.ones(40)).isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_impossible_shrinkage_is_refused(alpha):
    with pytest.raises(MethodRefused, match=r"\[0, 1\]"):
        of(torch.eye(3)).shrunk(alpha)


def test_jitter_is_added_only_where_needed_and_reported():
    tilted = torch.eye(4)
    tilted[0, 0] = -1e-7  # what float32 rounding can leave of a zero eigenvalue
    factor = of(tilted).cholesky(1e-9)
    assert 1e-7 < factor.jitter <= 1e-6
    assert of(torch.eye(4)).cholesky(1e-9).jitter == 0
    with pytest.raises(MethodRefused, match="singular"):
        of(torch.diag(torch.tensor([1.0, 1.0, -0.1]))).cholesky(1e-9)


def test_a_moment_of_zeros_is_singular_whatever_the_shrinkage():
    with pytest.raises(MethodRefused, match="singular"):
        of(torch.zeros(3, 3)).cholesky(1e-2)


# ---- on disk


def counted(model) -> list[int]:
    calls: list[int] = []
    model.anatomy.block(0).register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_what_is_known_is_read_from_disk_bit_for_bit(tmp_path):
    first = moment(zoo.tiny("gpt2"), cache_dir=tmp_path)
    model = zoo.tiny("gpt2")
    calls = counted(model)
    again = moment(model, cache_dir=tmp_path)
    assert not calls
    assert (again.tokens, again.key) == (first.tokens, first.key)
    assert torch.equal(again.matrix, first.matrix)
    both = second_moments(model, [1, 2], TEXTS, tokens=ALL, cache_dir=tmp_path)
    assert torch.equal(both[1].matrix, first.matrix)
    assert len(calls) == 1


def test_everything_that_determines_it_is_in_its_key():
    model = zoo.tiny("gpt2")
    known = {moment(model).key}
    variants = [
        moment(model, 2),
        moment(model, texts=TEXTS[1:]),
        moment(model, texts=[TEXTS[0] + TEXTS[1], *TEXTS[2:]]),
        moment(model, tokens=50),
        moment(model, seed=1),
        moment(model, max_length=7),
        moment(zoo.tiny("gpt2", seed=1)),
        moment(zoo.tiny("gpt2", dtype=torch.bfloat16)),
    ]
    for variant in variants:
        assert variant.key not in known
        known.add(variant.key)
    assert moment(zoo.tiny("gpt2")).key == moment(model).key


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "foreign"])
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path, damage):
    first = moment(zoo.tiny("gpt2"), cache_dir=tmp_path)
    [path] = tmp_path.rglob("*.safetensors")
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[-100] ^= 1
    damaged = {"cut": bytes(raw[: len(raw) // 2]), "emptied": b"", "flipped": bytes(raw)}.get(damage, b"not a file")
    path.write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = moment(zoo.tiny("gpt2"), cache_dir=tmp_path)
    assert torch.equal(again.matrix, first.matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moment(zoo.tiny("gpt2"), cache_dir=tmp_path)


def test_a_folder_that_cannot_be_written_is_one_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = zoo.tiny("gpt2")
    calls = counted(model)
    with pytest.raises(CacheError, match=r"cache folder .*file"):
        moment(model, cache_dir=tmp_path / "file")
    assert not calls


def test_a_full_disk_is_one_error_and_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="No space left"):
        moment(zoo.tiny("gpt2"), cache_dir=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".safetensors")]


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stopping_after(tokens):
    def progress(done, total):
        if done >= tokens:
            raise StoppedError

    return progress


def batched(dtype=torch.float32):
    return zoo.tiny("gpt2", batch_size=2, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 60, 10**6])
def test_a_pass_that_was_cut_short_goes_on_to_the_same_bits(tmp_path, tokens, dtype):
    uncut = second_moments(batched(dtype), [0, 2], TEXTS * 3, tokens=ALL)
    with pytest.raises(StoppedError):
        second_moments(
            batched(dtype),
            [0, 2],
            TEXTS * 3,
            tokens=ALL,
            cache_dir=tmp_path,
            save_every=1,
            on_progress=stopping_after(min(tokens, uncut[0].tokens)),
        )
    model, told = batched(dtype), []
    calls = counted(model)
    again = second_moments(
        model, [0, 2], TEXTS * 3, tokens=ALL, cache_dir=tmp_path, on_progress=lambda *told_: told.append(told_)
    )
    for layer, moment_ in uncut.items():
        assert again[layer].tokens == moment_.tokens
        assert torch.equal(again[layer].matrix, moment_.matrix)
    assert told[0][0] >= min(tokens, moment_.tokens)
    assert told[-1] == (moment_.tokens, moment_.tokens)
    assert len(calls) == len(told) - 1 < len(TEXTS * 3) / 2
    assert not list(tmp_path.rglob("*.unfinished"))


def test_sums_are_kept_only_so_often_as_asked_and_a_second_cut_loses_nothing(tmp_path):
    for tokens in (100, 200):
        with pytest.raises(StoppedError):
            moment(batched(), texts=TEXTS * 3, cache_dir=tmp_path, save_every=80, on_progress=stopping_after(tokens))
    model, told = batched(), []
    again = moment(model, texts=TEXTS * 3, cache_dir=tmp_path, on_progress=lambda *each: told.append(each))
    assert 100 < told[0][0] < again.tokens
    assert torch.equal(again.matrix, moment(batched(), texts=TEXTS * 3).matrix)


def cut(tmp_path, layers, **options):
    with pytest.raises(StoppedError):
        second_moments(
            batched(),
            layers,
            TEXTS,
            tokens=ALL,
            cache_dir=tmp_path,
            save_every=1,
            on_progress=stopping_after(50),
            **options,
        )


def begins_at(tmp_path, layers, **options) -> int:
    told = []
    second_moments(
        batched(), layers, TEXTS, tokens=ALL, cache_dir=tmp_path, on_progress=lambda *each: told.append(each), **options
    )
    return told[0][0]


def test_sums_serve_fewer_layers_but_not_more_and_no_other_text(tmp_path):
    cut(tmp_path, [1, 2])
    assert begins_at(tmp_path, [1, 3]) == 0
    cut(tmp_path, [0, 2])
    assert begins_at(tmp_path, [2], seed=1) == 0
    assert begins_at(tmp_path, [2]) >= 50
    assert torch.equal(moment(batched(), 2, cache_dir=tmp_path).matrix, moment(batched(), 2).matrix)


def test_sums_that_were_left_behind_after_their_moments_were_stored_are_removed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MomentCache, "drop_partial", lambda *_: None)
        moment(batched(), cache_dir=tmp_path, save_every=1)
    assert len(list(tmp_path.rglob("*.unfinished"))) == 1
    moment(batched(), cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_sums_of_layers_that_are_still_missing_stay(tmp_path):
    moment(batched(), 1, cache_dir=tmp_path)
    cut(tmp_path, [2])
    moment(batched(), 1, cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.unfinished"))) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_sums_are_left_aside_with_a_warning(tmp_path, damage):
    cut(tmp_path, [1])
    [path] = tmp_path.rglob("*.unfinished")
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(bytes(raw) if damage == "flipped" else bytes(raw[: len(raw) // 2]))
    with pytest.warns(RuntimeWarning, match="unfinished second moments .* damaged"):
        again = moment(batched(), cache_dir=tmp_path)
    assert torch.equal(again.matrix, moment(batched()).matrix)


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock_and_whole_files(tmp_path):
    program = """
import os, sys
sys.path[:0] = json_path
import torch, zoo
torch.set_num_threads(1)
from editguard.models.second_moment import second_moments
model = zoo.tiny("gpt2", batch_size=1)
second_moments(model, [1], zoo.SENTENCES, tokens=10_000, cache_dir=sys.argv[1], save_every=1,
               on_progress=lambda done, total: done > 50 and os.kill(os.getpid(), 9))
""".replace("json_path", json.dumps([entry for entry in sys.path if entry]))
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    left = sorted(path.suffix for path in Path(tmp_path).rglob("*") if path.is_file())
    assert left == [".lock", ".unfinished"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = moment(zoo.tiny("gpt2", batch_size=1), cache_dir=tmp_path)
    assert torch.equal(found.matrix, moment(zoo.tiny("gpt2", batch_size=1)).matrix)


def test_the_pace_counts_what_this_process_has_seen():
    times = iter([10.0, 12.0, 20.0])
    pace = Pace(clock=lambda: next(times))
    assert pace(1000, 7000) == "1000/7000 tokens"
    assert pace(2000, 7000) == "2000/7000 tokens, 500 tokens/s, 10 s left"
    assert pace(7000, 7000) == "7000/7000 tokens, 600 tokens/s, 0 s left"


def test_a_short_memory_in_the_middle_of_the_pass_counts_no_token_twice():
    expected = moment(zoo.tiny("gpt2"))
    model, failed = zoo.tiny("gpt2", batch_size=4), []

    def once(*_):
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError

    model.anatomy.block(1).register_forward_pre_hook(once)
    with pytest.warns(RuntimeWarning, match="memory"):
        found = moment(model)
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-5, atol=1e-7)


def test_an_encoder_decoder_has_no_keys_of_running_text():
    with pytest.raises(UnsupportedModel, match="no stream of running text"):
        moment(zoo.tiny("t5"))
