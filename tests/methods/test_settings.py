"""Where settings come from, and that they say so."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

from editguard.errors import InvalidSettings
from editguard.methods import create, methods
from editguard.methods.memit import MemitSettings
from editguard.methods.settings import Published, Recipe, Shape, parse, resolve


@dataclass(frozen=True, kw_only=True)
class Knobs:
    layer: int = 9
    radius: float | None = 0.5
    rate: float = 0.1
    fast: bool = False
    mode: Literal["a", "b"] = "a"
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    three: tuple[int, int, int] = (1, 3, 4)
    word: str = "x"


RECIPE = Recipe(
    Knobs,
    (Published("gpt2", 4, 16, "a paper", {"layer": 3, "rate": 0.2}),),
    lambda layers: {"layer": (layers // 2, "half the blocks")},
)


def shape(directory: Path | None = None, layers: int = 4) -> Shape:
    return Shape("gpt2", layers, 16, directory)


def test_each_source_yields_to_the_stronger_one_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "editguard.toml").write_text("[methods.toy]\nrate = 0.3\nword = 'file'\n[methods.other]\nlayer = 1\n")
    found = resolve("toy", RECIPE, {"word": "mine"}, shape(tmp_path))
    assert found.settings == Knobs(layer=3, rate=0.3, word="mine")
    assert found.provenance["layer"] == "published: a paper"
    assert found.provenance["rate"] == "model directory: editguard.toml"
    assert found.provenance["word"] == "override"
    assert found.provenance["fast"] == "default"


@pytest.mark.parametrize("other", [Shape("gpt2", 5, 16), Shape("gpt2", 4, 17), Shape("llama", 4, 16)])
def test_values_published_for_one_model_are_not_taken_for_another(other: Shape) -> None:
    found = resolve("toy", RECIPE, {}, other)
    assert found.settings.layer == other.layers // 2
    assert found.settings.rate == Knobs.rate
    assert found.provenance["layer"] == "derived from depth: half the blocks"


def test_what_is_derived_for_an_encoder_and_a_decoder_follows_from_both_depths() -> None:
    both = replace(
        RECIPE, derived_with_encoder=lambda encoder, decoder: {"layer": (encoder + decoder - 1, "the decoder's last")}
    )
    asked = Shape("llama", 7, 16, encoder_layers=3)
    assert resolve("toy", both, {}, asked).settings.layer == 6
    assert resolve("toy", both, {}, replace(asked, encoder_layers=0)).settings.layer == 3
    assert resolve("toy", RECIPE, {}, asked).settings.layer == 3


def test_without_a_model_only_defaults_and_overrides_count() -> None:
    assert resolve("toy", RECIPE, {"layer": 2}, None).settings == Knobs(layer=2)


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_numbers_may_be_written_as_text(value: float) -> None:
    for text in (repr(value), f"{value:e}"):
        assert parse(Knobs, "radius", text, where="here") == float(text)


@pytest.mark.parametrize(
    ("name", "given_", "wanted"),
    [
        ("radius", "5e-4", 5e-4),
        ("radius", 1, 1.0),
        ("radius", "off", None),
        ("radius", None, None),
        ("layer", "3", 3),
        ("layer", 3.0, 3),
        ("fast", "true", True),
        ("mode", "b", "b"),
        ("pairs", [[5, 10], [10, 10]], ((5, 10), (10, 10))),
        ("three", [1, 2, 3], (1, 2, 3)),
    ],
)
def test_values_are_parsed_as_the_field_declares(name: str, given_: object, wanted: object) -> None:
    found = parse(Knobs, name, given_, where="here")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "given_"),
    [
        ("radius", "little"),
        ("radius", True),
        ("radius", "nan"),
        ("rate", None),
        ("layer", 2.5),
        ("layer", True),
        ("fast", 1),
        ("mode", "c"),
        ("pairs", "5,10"),
        ("pairs", [[1]]),
        ("three", [1, 2]),
        ("word", 3),
    ],
)
def test_what_cannot_be_parsed_is_refused_never_ignored(name: str, given_: object) -> None:
    with pytest.raises(InvalidSettings, match=f"here: the setting '{name}'"):
        parse(Knobs, name, given_, where="here")


def test_an_unknown_name_is_answered_with_the_nearest_one_and_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"override.*Did you mean 'layer'"):
        resolve("toy", RECIPE, {"layr": 1}, shape())
    (tmp_path / "editguard.toml").write_text("[methods.toy]\nfats = true\n")
    with pytest.raises(InvalidSettings, match=r"editguard.toml.*Did you mean 'fast'"):
        resolve("toy", RECIPE, {}, shape(tmp_path))


@pytest.mark.parametrize("content", ["[methods", "methods = 3", "[methods]\nrome = 3"])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "editguard.toml").write_text(content)
    with pytest.raises(InvalidSettings, match=r"editguard\.toml"):
        resolve("toy", RECIPE, {}, shape(tmp_path))


def test_every_published_row_of_every_method_is_accepted_by_its_settings() -> None:
    for name, info in methods().items():
        recipe = info.load().recipe
        for row in recipe.published:
            settings = resolve(name, recipe, {}, Shape(row.family, row.layers, row.d_model, d_ff=row.d_ff))
            for field, value in row.values.items():
                assert getattr(settings.settings, field) == value
            for layer in getattr(settings.settings, "layers", None) or [getattr(settings.settings, "layer", 0)]:
                assert layer < row.layers


@pytest.mark.parametrize("name", ["rome", "ft-l"])
def test_a_model_of_unknown_size_gets_a_layer_that_it_has(name: str) -> None:
    model = zoo.tiny("gpt2")
    method = create(name, {}, model)
    assert method.settings.layer == 1
    assert method.provenance["layer"].startswith("derived from depth")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rome", {"steps": 0}),
        ("rome", {"shrinkage": 1.0}),
        ("rome", {"step_size": 0}),
        ("rome", {"layer": -1}),
        ("ft-l", {"norm_constraint": -1}),
        ("ft-l", {"batch_size": 0}),
        ("ft-l", {"step_size": -1}),
        ("ike", {"demonstrations": -1}),
        ("ike", {"proportion": [0, 0, 0]}),
        ("ike", {"answer_tokens": 0}),
        ("ike", {"encoder": "word2vec"}),
        ("mem-prompt", {"encoder": "sentences:"}),
        ("mello", {"encoder": "tfidf"}),
        ("serac", {"nearness": "word2vec"}),
    ],
)
def test_impossible_values_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings):
        create(name, settings)


@pytest.mark.parametrize(("text", "layers"), [("0,1", (0, 1)), ("3", (3,)), (" 1, 2 ", (1, 2))])
def test_a_list_may_be_given_as_text_with_commas(text: str, layers: tuple[int, ...]) -> None:
    assert parse(MemitSettings, "layers", text, where="here") == layers


@pytest.mark.parametrize(("name", "text"), [("layers", "0-1"), ("layers", ""), ("context_lengths", "10,5")])
def test_text_that_is_no_list_of_the_settings_type_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidSettings, match=f"here: the setting '{name}' is"):
        parse(MemitSettings, name, text, where="here")
