"""What the training program has to know about a kind of model, and which kinds there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self

import torch
from tokenizers import Tokenizer
from transformers import GPTNeoXConfig, OPTConfig, PreTrainedModel, PreTrainedTokenizerBase, T5Config

from editguard.pocket.decoder import DecoderTraining
from editguard.pocket.encoder_decoder import EncoderDecoderTraining
from editguard.pocket.settings import ModelKind, Settings
from editguard.pocket.world import World


class TrainingBatch(Protocol):
    """What one step reads."""

    @property
    def tokens_read(self) -> int: ...

    def to(self, device: torch.device) -> Self: ...


class TrainingKind(Protocol):
    """How models of one kind are made, fed and scored; everything else about a run is common to all."""

    def configuration(self, tokenizer: Tokenizer, settings: Settings) -> GPTNeoXConfig | OPTConfig | T5Config:
        """The shape of a new model for this vocabulary."""

    def prepare(self, model: PreTrainedModel) -> None:
        """Make a model ready for training on its device."""

    def is_block_matrix(self, name: str) -> bool:
        """Whether a parameter with two dimensions is a matrix inside a block, by its name."""

    def epoch_batches(
        self, world: World, tokenizer: Tokenizer, epoch: int, settings: Settings
    ) -> Sequence[TrainingBatch]:
        """All batches of an epoch in their order, always the same ones."""

    def backward(self, model: PreTrainedModel, batch: Any, settings: Settings, step: int) -> float:
        """Add the gradient of the batch's loss to the parameters, and return the loss in nats."""

    def wrapped(self, tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
        """The tokenizer as it is shipped with the model."""


KINDS: Final[Mapping[ModelKind, TrainingKind]] = {
    "decoder": DecoderTraining(),
    "opt": DecoderTraining(),
    "t5": EncoderDecoderTraining(),
}
