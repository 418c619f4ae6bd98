"""What an MLP reads on running text: the right tensor, at the right tokens, kept under all that determines it."""

from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import EditedModel
from editguard.errors import CacheError, MethodRefused, ModelChanged, UnknownPart
from editguard.models import LanguageModel, capture
from editguard.models.running_text import text_pairs
from editguard.models.text_states import mlp_inputs
from editguard.models.weights import Dense

TEXTS = zoo.SENTENCES
ALL = 10_000


def expected(model: LanguageModel, layer: int) -> Tensor:
    """The inputs of each text alone, where a token is predicted."""
    found = []
    for before, after in text_pairs(model, TEXTS, ALL, 0, purpose="this test"):
        row = model.forced_row(before, after[:-1])
        ids = torch.tensor([row.stream])
        with torch.no_grad(), capture(model.anatomy.up_projections(layer)[0].module, "input") as captured:
            source = model.encoded([row.source]) if row.source else None
            model.forward(ids, torch.ones_like(ids), source=source)
        found.append(captured.value.reshape(ids.shape[1], -1)[list(row.read)])
    return torch.cat(found)


def sorted_rows(states: Tensor) -> Tensor:
    return states[states[:, 0].argsort()]


@pytest.mark.parametrize("family", zoo.ALL)
def test_they_are_the_mlps_inputs_wherever_a_token_is_predicted(family: str) -> None:
    model = zoo.tiny(family)
    wanted, found = expected(model, 2), mlp_inputs(model, 2, TEXTS, tokens=ALL)
    assert found.shape == (len(wanted), zoo.D_MODEL)
    torch.testing.assert_close(sorted_rows(found), sorted_rows(wanted), rtol=1e-3, atol=1e-4)


def test_padding_never_enters() -> None:
    wanted = mlp_inputs(zoo.tiny("gpt2"), 1, TEXTS, tokens=ALL)
    other = zoo.tiny("gpt2")
    with torch.no_grad():
        other.anatomy.embedding.weight[0] = 100.0  # what padded places hold; no text has this token
    assert torch.equal(mlp_inputs(other, 1, TEXTS, tokens=ALL), wanted)


def test_a_decoder_alone_leaves_out_its_first_position() -> None:
    """It is the same in all texts, and would be most of what a memory of the largest terms sees."""
    model = zoo.tiny("opt")
    found = mlp_inputs(model, 1, TEXTS, tokens=ALL)
    ids = torch.tensor([model.encode_text(TEXTS[0])])
    with torch.no_grad(), capture(model.anatomy.up_projections(1)[0].module, "input") as captured:
        model.forward(ids, torch.ones_like(ids))
    at_first, at_second = captured.value.reshape(ids.shape[1], -1)[:2]
    assert (found - at_first).abs().amax(1).min() > 1e-2
    assert (found - at_second).abs().amax(1).min() < 1e-4


@pytest.mark.parametrize("tokens", [1, 17, 60])
def test_there_are_as_many_as_asked_for(tokens: int) -> None:
    model = zoo.tiny("opt", dtype=torch.bfloat16)
    found = mlp_inputs(model, 1, TEXTS, tokens=tokens)
    assert found.shape == (tokens, zoo.D_MODEL)
    assert found.dtype == torch.bfloat16


def test_the_pass_ends_at_the_mlp() -> None:
    model = zoo.tiny("gpt2")
    ran = []
    handle = model.anatomy.block(2).register_forward_hook(lambda *_: ran.append(2))
    mlp_inputs(model, 1, TEXTS, tokens=ALL)
    handle.remove()
    assert not ran


def test_what_is_on_disk_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    once = mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path)
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model ran"))
    assert torch.equal(mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path), once)


@pytest.mark.parametrize(
    "other",
    [
        {"layer": 2},
        {"tokens": 29},
        {"seed": 1},
        {"texts": TEXTS[::-1]},
        {"model": {"seed": 1}},
        {"model": {"dtype": torch.bfloat16}},
    ],
    ids=["layer", "tokens", "seed", "texts", "model", "type"],
)
def test_anything_that_determines_them_is_in_the_key(other: dict, tmp_path: Path) -> None:
    asked = {"layer": 1, "tokens": 30, "seed": 0, "texts": TEXTS, **other}
    changed = asked.pop("model", {})
    layer, texts = asked.pop("layer"), asked.pop("texts")
    mlp_inputs(zoo.tiny("gpt2"), 1, TEXTS, tokens=30, cache_dir=tmp_path)
    found = mlp_inputs(zoo.tiny("gpt2", **changed), layer, texts, **asked, cache_dir=tmp_path)
    assert torch.equal(found, mlp_inputs(zoo.tiny("gpt2", **changed), layer, texts, **asked))
    assert len(list((tmp_path / "mlp-inputs").glob("*.safetensors"))) == 2


def test_a_damaged_file_is_noticed_and_replaced(tmp_path: Path) -> None:
    model = zoo.tiny("gpt2")
    once = mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path)
    [path] = (tmp_path / "mlp-inputs").glob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.warns(RuntimeWarning, match="memory of MLP inputs .* is damaged"):
        assert torch.equal(mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path), once)
    assert torch.equal(mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path), once)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MethodRefused, match="memory of an MLP's inputs is empty"):
        mlp_inputs(model, 1, (), tokens=30)
    with pytest.raises(UnknownPart):
        mlp_inputs(model, 4, TEXTS, tokens=30)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError):
        mlp_inputs(model, 1, TEXTS, tokens=30, cache_dir=tmp_path / "file")
    matrix = model.anatomy.down_projection(1)
    model.weights.push({matrix.name: Dense(torch.zeros(matrix.shape))})
    with pytest.raises(ModelChanged):
        mlp_inputs(model, 1, TEXTS, tokens=30)
    model.weights.restore()
    EditedModel.original(model).activate()


def test_progress_is_told_of_all_tokens() -> None:
    seen: list[tuple[int, int]] = []
    model = zoo.tiny("gpt2", batch_size=2)
    mlp_inputs(model, 1, TEXTS, tokens=ALL, on_progress=lambda done, of: seen.append((done, of)))
    assert len(seen) == 4
    assert seen[-1][0] == seen[-1][1] == sum(len(model.encode_text(text)) - 2 for text in TEXTS)
