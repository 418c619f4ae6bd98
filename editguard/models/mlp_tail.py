"""From the last block's MLP to the logits, at single tokens.

What the last MLP puts out at a token reaches that token's logits and nothing else. Whoever trains something beside
this MLP needs its input, its output and the rest of the residual stream at the supervised tokens once; each step is
then the final norm and the head on these few rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editguard.models.hooks import capture

if TYPE_CHECKING:
    from editguard.models.answer_passes import AnswerPasses
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class MlpTail:
    """The last block at some tokens.

    Attributes:
        model: whose block it is.
        inputs: what its MLP reads, (tokens, d_model).
        outputs: what its MLP puts out, before any norm that follows it, (tokens, d_model).
        stream: the block's output without the MLP's part, (tokens, d_model), at least float32.
    """

    model: LanguageModel
    inputs: Tensor
    outputs: Tensor
    stream: Tensor

    @classmethod
    def of(cls, model: LanguageModel, passes: AnswerPasses) -> MlpTail:
        """Run the passes once, and keep the last block at the positions that they read."""
        anatomy = model.anatomy
        layer = anatomy.layers - 1
        reads, mlp = anatomy.up_projections(layer)[0].module, anatomy.mlp(layer)
        writer, block = anatomy.residual_writers(layer)[-1], anatomy.block(layer)
        with (
            torch.no_grad(),
            capture(reads, "input") as entering,
            capture(mlp) as leaving,
            capture(writer) as written,
            capture(block) as after,
        ):
            passes.logits()
        inputs, outputs, added, stream = (passes.at_reads(each.value) for each in (entering, leaving, written, after))
        wide = torch.promote_types(stream.dtype, torch.float32)
        return cls(model, inputs, outputs, stream.to(wide) - added.to(wide))

    @staticmethod
    def available(model: LanguageModel) -> bool:
        """Whether what the last MLP puts out is a term of the block's output (not in post-LN models)."""
        return not model.anatomy.normalises_stream

    def logits(self, outputs: Tensor) -> Tensor:
        """The model's logits (tokens, vocabulary), at least float32, if the MLP put out these (tokens, d_model)."""
        anatomy = self.model.anatomy
        layer = anatomy.layers - 1
        mlp, writer = anatomy.mlp(layer), anatomy.residual_writers(layer)[-1]
        written = outputs if writer is mlp else writer(outputs)
        hidden = (self.stream + written.to(self.stream)).to(self.outputs.dtype)
        logits = anatomy.logits(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def chunks(self, size: int) -> list[MlpTail]:
        """The same tokens in parts of at most `size`."""
        parts = (torch.split(part, size) for part in (self.inputs, self.outputs, self.stream))
        return [MlpTail(self.model, *part) for part in zip(*parts, strict=True)]
