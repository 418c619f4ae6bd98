"""Everything that determines the trained weights of a pocket model, and the models that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, get_args

from editguard.pocket.architecture import EncoderDecoderShape, Shape
from editguard.pocket.corpus import Amounts
from editguard.pocket.schedule import Schedule
from editguard.pocket.world import WorldSize

ModelKind = Literal["decoder", "opt", "t5"]
Size = Literal["small", "standard", "large"]
SIZES: Final[tuple[Size, ...]] = get_args(Size)

STEPS: Final = 6_000
T5_STEPS: Final = 3_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines the trained weights, besides the machine's arithmetic."""

    seed: int = 0
    steps: int = STEPS
    shape: Shape | EncoderDecoderShape = field(default_factory=Shape)
    """Of which model: a `Shape` of a decoder, an `EncoderDecoderShape` of the T5."""
    world: WorldSize = field(default_factory=WorldSize)
    amounts: Amounts = field(default_factory=Amounts)
    learning_rate: float = 2.5e-3
    """Peak rate of the matrices inside the blocks."""
    embedding_learning_rate: float = 2.5e-3
    """Peak rate of everything else: embeddings, norms, biases."""
    warm_up: int = 200
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    site_dropout_steps: float = 0.5
    """Fraction of the steps in which some answer sites do without their later MLPs."""
    site_dropout: float = 0.5
    """Probability of an answer site to do without, in such a step."""
    site_dropout_layer: int = 2
    """The first layer that can be left out, counted from 0; decoders alone have such steps."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.warm_up)

    @property
    def model(self) -> ModelKind:
        if isinstance(self.shape, EncoderDecoderShape):
            return "t5"
        return "opt" if self.shape.family == "opt" else "decoder"

    @property
    def name(self) -> str:
        """The model and its shape in one word; that of the shipped decoder is "decoder", that of the T5 "t5"."""
        shipped = EncoderDecoderShape() if self.model == "t5" else Shape()
        if self.model != "opt" and self.shape == shipped:
            return self.model
        sizes = [value for value in astuple(self.shape) if isinstance(value, int)]
        return "-".join(map(str, (self.model, *sizes)))


T5_AMOUNTS: Final = Amounts(
    contexts=8_000,
    yes_no=1_500,
    direct=4_000,
    reasoned=3_000,
    demonstrations=0,
    traces=0,
    items_of_each_task=500,
    ordinary=0,
    drill_passes=3,
    joined=0.15,
)
"""Less of everything but the plain facts: long documents give an encoder-decoder one answer for many tokens."""


SHAPES: Final[Mapping[Size, Shape]] = MappingProxyType(
    {
        "small": Shape(layers=4, d_model=128, heads=4, d_ff=512),
        "standard": Shape(),
        "large": Shape(layers=12, d_model=256, heads=8, d_ff=1_024),
    }
)
"""Decoders of three sizes, for tables over the size of a model; the standard one is shipped."""


def settings_of(model: ModelKind, *, size: Size = "standard", seed: int = 0, steps: int | None = None) -> Settings:
    """The settings of a shipped model, or of a decoder of another size or family.

    Args:
        model: the GPT-NeoX decoder that is shipped, an OPT decoder like it, or the T5.
        size: of a decoder; what a quarter of its blocks do is never left out.
        seed, steps: those of the shipped model by default.

    Raises: ValueError: the T5 of another size.
    """
    if model == "t5":
        if size != "standard":
            raise ValueError("the T5 has one size, the standard one")
        chosen = Settings(
            seed=seed, steps=T5_STEPS, shape=EncoderDecoderShape(), amounts=T5_AMOUNTS, embedding_learning_rate=1e-2
        )
    else:
        shape = replace(SHAPES[size], family="opt" if model == "opt" else "gpt-neox")
        chosen = Settings(seed=seed, shape=shape, site_dropout_layer=shape.layers // 4)
    return chosen if steps is None else replace(chosen, steps=steps)
