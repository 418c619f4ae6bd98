"""What the model is reading in the present pass, for edits that look at the prompt before they act."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Reading:
    """The prompts of the rows of a pass, and what has been decided on them.

    One object lives as long as its rows: through a pass, or through all passes of a cached decoding. A change decides
    on the first pass, when it sees the prompts, and keeps to that for the tokens that follow.

    Attributes:
        prompts: (rows, columns of the pass), bool, the tokens that belong to prompts; None in the later passes of a
            cached decoding, whose tokens all stand behind the prompts.
        decided: by the change that has decided, one tensor with a row for each row of the pass.
        in_encoder: the prompts are read by an encoder, and `prompts` has its columns: for the whole of the first pass,
            also while the decoder reads the first tokens of its own.
    """

    prompts: Tensor | None
    decided: dict[Any, Tensor] = field(default_factory=dict)
    in_encoder: bool = False

    @property
    def ends(self) -> Tensor | None:
        """(rows,): the column of each prompt's last token; None behind the prompts."""
        if self.prompts is None:
            return None
        columns = torch.arange(self.prompts.shape[1], device=self.prompts.device)
        return torch.where(self.prompts, columns, -1).max(dim=1).values

    def behind(self) -> None:
        """Go on with passes that no longer hold the prompts."""
        self.prompts = None

    def select(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.decided = {change: decision[rows.to(decision.device)] for change, decision in self.decided.items()}
        if self.prompts is not None:
            self.prompts = self.prompts[rows.to(self.prompts.device)]
