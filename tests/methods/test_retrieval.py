"""Encoders and their indexes: nearness of texts, against brute force and against the libraries' own."""

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from editguard.edited import AppliedEdit, EditedModel, EditMemory, MemoryRow, Search, WeightDelta
from editguard.edited.edit_memory import by_key, by_text
from editguard.errors import ConfigurationError, InvalidSettings, MemoryUnreadable
from editguard.methods import retrieval
from editguard.methods.n_grams import SparseIndex, TfidfEncoder
from editguard.methods.retrieval import DenseEncoder, DenseIndex, MeanPooledEncoder, SentenceEncoder, encoder
from editguard.models import LanguageModel
from editguard.models.weights import Dense

TEXTS = ("The capital of Velloria is", "The mayor of Tamrin is", "Copy: red blue green", "Aldo Holt was born in")
words = st.text("ab é,.", min_size=0, max_size=12)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("name", ["tf-idf", "mean-pooled"])
def test_a_text_is_nearest_to_itself_and_similarities_are_cosines(name: str, family: str) -> None:
    index = encoder(name, zoo.tiny(family)).index(TEXTS)
    found = index.similarities(TEXTS)
    assert found.shape == (4, 4)
    assert np.abs(found).max() <= 1 + 1e-9
    np.testing.assert_allclose(found.diagonal(), 1, rtol=1e-6)
    assert list(found.argmax(1)) == [0, 1, 2, 3]
    np.testing.assert_allclose(index.similarities(TEXTS[2:])[0], found[2], atol=1e-6)
    assert not index.similarities([""]).any()


def test_one_text_alone_can_be_indexed() -> None:
    for name in ("tf-idf", "mean-pooled"):
        found = encoder(name, zoo.tiny("gpt2")).index(TEXTS[:1]).similarities(TEXTS[:1])
        assert found[0, 0] == pytest.approx(1)


def test_an_unknown_encoder_is_named() -> None:
    for name in ("tfidf", "sentences:"):
        with pytest.raises(InvalidSettings, match="tf-idf"):
            encoder(name, zoo.tiny("gpt2"))


def test_encoders_of_one_name_and_model_share_an_index(sentences: Path) -> None:
    model, other = zoo.tiny("gpt2"), zoo.tiny("gpt2")
    names = ("tf-idf", "mean-pooled", f"sentences:{sentences}")
    searches = {Search(encoder(name, model), by_text) for name in names * 2}
    assert len(searches) == 3
    assert Search(encoder("mean-pooled", other), by_text) not in searches
    assert Search(encoder("tf-idf", other), by_text) in searches
    assert Search(encoder("tf-idf", other), by_key) not in searches


# ---- n-grams


def library(texts: Sequence[str], queries: Sequence[str]) -> np.ndarray:
    """Cosines by the library's own vectorizers, fitted on the texts; a kind that finds no n-gram at all is left out."""
    rows, asked = [], []
    for more in (
        {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"ngram_range": (3, 5), "analyzer": "char_wb"},
    ):
        vectorizer = TfidfVectorizer(sublinear_tf=True, **more)
        try:
            rows.append(vectorizer.fit_transform(texts))
        except ValueError:
            continue
        asked.append(vectorizer.transform(queries))
    if not rows:
        return np.zeros((len(queries), len(texts)))
    left, right = hstack(asked).toarray(), hstack(rows).toarray()
    lengths = np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    return (left @ right.T) / np.where(lengths > 0, lengths, 1)


@given(
    texts=st.lists(words, min_size=1, max_size=6),
    more=st.lists(words, min_size=1, max_size=3),
    queries=st.lists(words, min_size=1, max_size=3),
    data=st.data(),
)
@settings(max_examples=10, deadline=None)
def test_n_grams_weigh_as_the_librarys_vectorizers_fitted_on_the_searched_texts(
    texts: list[str], more: list[str], queries: list[str], data: st.DataObject
) -> None:
    def check(found: SparseIndex, held: list[str]) -> None:
        np.testing.assert_allclose(found.similarities(queries), library(held, queries), atol=1e-9)
        chosen = data.draw(st.sets(st.sampled_from(range(len(held))), min_size=1))
        places = np.array(sorted(chosen))
        some = [held[place] for place in places]
        np.testing.assert_allclose(found.similarities(queries, places), library(some, queries), atol=1e-9)

    index = SparseIndex(texts)
    check(index, texts)
    part = index.part(np.arange(1))
    index.extend(more)
    check(index, texts + more)
    check(part, texts[:1])
    part.extend(more[::-1])
    check(part, texts[:1] + more[::-1])
    check(index, texts + more)
    assert (len(index), len(part)) == (len(texts + more), 1 + len(more))


def test_n_grams_find_the_same_subject_in_other_words() -> None:
    index = TfidfEncoder().index(TEXTS)
    found = index.similarities(["Velloria's capital city?", "who governs Tamrin", "zzz"])
    assert list(found.argmax(1)[:2]) == [0, 1]
    assert not found[2].any()


# ---- vectors


class Given(DenseEncoder):
    """Vectors that a table gives."""

    def __init__(self, table: np.ndarray, centred: bool) -> None:
        self.table, self.centred = table, centred  # type: ignore[misc]

    identity = "given"

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return self.table[[int(text) for text in texts]].reshape(len(texts), self.table.shape[1])


@given(seed=st.integers(0, 1_000), centred=st.booleans(), first=st.integers(0, 6), data=st.data())
@settings(max_examples=25, deadline=None)
def test_vectors_are_compared_as_one_by_one(seed: int, centred: bool, first: int, data: st.DataObject) -> None:
    table = np.random.default_rng(seed).normal(size=(9, 3)) + 2
    table[8] = 0  # an empty text
    if not centred:
        table[:8] /= np.linalg.norm(table[:8], axis=1, keepdims=True)
    names = [str(number) for number in range(9)]

    def cosine(query: int, held: Sequence[int], row: int) -> float:
        mean = table[list(held)].mean(0) if centred and len(held) > 1 else np.zeros(3)
        one, other = (table[each] - mean if table[each].any() else table[each] for each in (query, row))
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        return float(one @ other / lengths) if lengths > 0 else 0.0

    def check(found: DenseIndex, held: Sequence[int]) -> None:
        places = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(held))), min_size=1))))
        for chosen in (None, places):
            rows = list(held) if chosen is None else [held[place] for place in chosen]
            wanted = [[cosine(query, rows, row) for row in rows] for query in range(9)]
            np.testing.assert_allclose(found.similarities(names, chosen), wanted, atol=1e-9)

    index = DenseIndex(Given(table, centred), names[:first])
    if first:
        check(index, range(first))
    index.extend(names[first:])
    check(index, range(9))
    part = index.part(np.array([1, 4, 8]))
    check(part, [1, 4, 8])
    part.extend(["2"])
    check(part, [1, 4, 8, 2])
    check(index, range(9))


def test_vectors_of_another_width_are_refused_and_the_cure_is_said() -> None:
    own = MeanPooledEncoder(zoo.tiny("gpt2"))
    vectors = own.vectors(TEXTS)
    assert own.width == vectors.shape[1] == zoo.D_MODEL
    np.testing.assert_array_equal(own.index(TEXTS, vectors).vectors(), vectors)
    with pytest.raises(MemoryUnreadable, match=r"have 3 numbers.*makes 16: remove the file.*or choose the encoder"):
        own.index(TEXTS, vectors[:, :3])


# ---- the model's own states


def test_mean_pooling_is_over_the_unedited_models_states_and_leaves_the_edits_in_force() -> None:
    model = zoo.tiny("gpt2")
    wanted = MeanPooledEncoder(model).vectors(TEXTS)
    matrix = model.anatomy.down_projection(0)
    edited = EditedModel.original(model).extended(
        AppliedEdit("toy", (), (WeightDelta({matrix.name: Dense(torch.ones(matrix.shape))}),))
    )
    edited.activate()
    np.testing.assert_array_equal(MeanPooledEncoder(model).vectors(TEXTS), wanted)
    assert tuple(model.installed) == edited.changes


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "gemma2", "t5", "bart"])
def test_the_mean_is_over_a_texts_own_tokens_whatever_the_batch(family: str) -> None:
    model = zoo.tiny(family, batch_size=3)
    texts = [*TEXTS, "", zoo.SENTENCES[1], "is"]
    found = MeanPooledEncoder(model).vectors(texts)
    assert found.shape == (7, zoo.D_MODEL)
    for text, vector in zip(texts, found, strict=True):
        if not text:
            assert not vector.any()
            continue
        with torch.no_grad():
            states = model.text_states(model.encode_text(text))
        np.testing.assert_allclose(vector, states.double().mean(0).numpy(), atol=1e-5)


def test_texts_are_encoded_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2", batch_size=4)
    passes: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, *rest: passes.append(len(ids)) or forward(ids, *rest))
    MeanPooledEncoder(model).vectors(TEXTS * 2)
    assert passes == [4, 4]


def test_of_a_text_longer_than_the_context_the_beginning_is_read() -> None:
    for family in ("gpt2", "bart"):
        model = zoo.tiny(family)
        long = "red blue green " * zoo.CONTEXT
        found = MeanPooledEncoder(model).vectors([long, TEXTS[0]])
        with torch.no_grad():
            states = model.text_states(model.encode_text(long)[: zoo.CONTEXT])
        np.testing.assert_allclose(found[0], states.double().mean(0).numpy(), atol=1e-5)


# ---- sentence encoders


@pytest.mark.parametrize("offline", [False, True])
def test_a_sentence_encoder_asks_the_network_only_if_the_model_was_loaded_so(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    model.offline = offline
    asked: list[bool] = []
    monkeypatch.setattr(retrieval, "_sentence_model", lambda _, __, offline: asked.append(offline))
    found = encoder("sentences:someone/some-model", model)
    assert isinstance(found, SentenceEncoder)
    assert found._loaded is None
    assert asked == [offline]


def sentence_model(folder: Path, *, width: int = 8, seed: int = 0) -> Path:
    """A tiny BERT of random weights with mean pooling, as `sentence-transformers` saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder / "bert"
    source.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (source / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(source / "vocab.txt")).save_pretrained(source)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers")
    return sentence_model(tmp_path_factory.mktemp("sentences"))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return zoo.tiny("gpt2")


def test_a_sentence_model_is_loaded_from_a_folder(sentences: Path, model: LanguageModel) -> None:
    from sentence_transformers import SentenceTransformer

    found = encoder(f"sentences:{sentences}", model)
    assert isinstance(found, SentenceEncoder)
    vectors = found.vectors([*TEXTS, " "])
    assert (vectors.dtype, vectors.shape, found.width) == (np.float32, (5, 8), 8)
    assert found.vectors([]).shape == (0, 8)
    assert not vectors[4].any()
    own = SentenceTransformer(str(sentences), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(vectors[:4], own, atol=1e-6)
    similarities = found.index(TEXTS).similarities(TEXTS)
    np.testing.assert_allclose(similarities.diagonal(), 1, atol=1e-5)


def test_a_saved_memory_knows_the_sentence_model_that_its_vectors_are_of(
    sentences: Path, model: LanguageModel, tmp_path: Path
) -> None:
    """Another model in the same folder has another identity, and makes its own vectors."""
    first = encoder(f"sentences:{sentences}", model)
    memory = EditMemory(MemoryRow(key=text, text=text) for text in TEXTS)
    wanted = memory.nearest(Search(first, by_text), TEXTS, 4)
    memory.save(tmp_path / "m.json")
    loaded = EditMemory.load(tmp_path / "m.json")
    assert first.identity in next(iter(loaded._log.stored))
    assert loaded.nearest(Search(first, by_text), TEXTS, 4) == wanted

    other = encoder(f"sentences:{sentence_model(tmp_path, width=4, seed=1)}", model)
    assert other.identity.split(", ")[1] != first.identity.split(", ")[1]
    again = EditMemory.load(tmp_path / "m.json")
    assert [row.text for [(row, _)] in again.nearest(Search(other, by_text), TEXTS)] == list(TEXTS)


def test_a_sentence_model_that_is_not_there_is_one_clear_error(model: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ConfigurationError, match=r"cannot load the sentence encoder '.*nowhere': .*\. Give a folder"):
        encoder(f"sentences:{tmp_path}/nowhere", model).index(TEXTS)


def test_a_failure_without_a_word_is_told_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("sentence_transformers")

    def silent(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(package, "SentenceTransformer", silent)
    with pytest.raises(ConfigurationError, match=r"'wordless': RuntimeError\. Give"):
        SentenceEncoder("wordless").vectors(TEXTS)


def test_a_missing_package_is_one_clear_error(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sentence_transformers"):
            raise ImportError(name)
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    retrieval._sentence_model.cache_clear()
    with pytest.raises(ConfigurationError, match=r"pip install 'editguard\[sentences\]'"):
        encoder("sentences:all-MiniLM-L6-v2", model).index(TEXTS)
