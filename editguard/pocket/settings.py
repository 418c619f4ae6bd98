"""Everything that determines the trained weights of a pocket model, and the two models that are trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from editguard.pocket.architecture import EncoderDecoderShape, Shape
from editguard.pocket.corpus import Amounts
from editguard.pocket.schedule import Schedule
from editguard.pocket.world import WorldSize

ModelKind = Literal["decoder", "t5"]

STEPS: Final = 6_000
T5_STEPS: Final = 3_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines the trained weights, besides the machine's arithmetic."""

    seed: int = 0
    steps: int = STEPS
    shape: Shape | EncoderDecoderShape = field(default_factory=Shape)
    """Of which model: a `Shape` of the decoder, an `EncoderDecoderShape` of the T5."""
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
    """The first layer that can be left out, counted from 0; the decoder alone has such steps."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.warm_up)

    @property
    def model(self) -> ModelKind:
        return "t5" if isinstance(self.shape, EncoderDecoderShape) else "decoder"


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


def settings_of(model: ModelKind, *, seed: int = 0, steps: int | None = None) -> Settings:
    """The settings of a shipped model, for another seed or length where these are given."""
    if model == "t5":
        chosen = Settings(
            seed=seed, steps=T5_STEPS, shape=EncoderDecoderShape(), amounts=T5_AMOUNTS, embedding_learning_rate=1e-2
        )
    else:
        chosen = Settings(seed=seed)
    return chosen if steps is None else replace(chosen, steps=steps)
