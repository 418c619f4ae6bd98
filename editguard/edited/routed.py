"""Changes that look at a prompt before they act: which stored thing answers it, or none, is decided once per sequence.

The decision falls in the pass that reads the prompt and holds for all tokens behind it, through cached decoding too.
Passes over running text have no prompts; there such a change rests, and the module computes as if it were not there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import Change, LanguageModel
    from editguard.models.reading import Reading


class RoutedChange(ABC):
    """A change of what one matrix puts out, for the sequences whose prompts ask for it.

    Of several of one type on the same matrix the newest stands for all: it holds what those before it hold, and their
    hooks are off while it is in force. So a sequence of any length has one hook, and rolling back puts on the one that
    was there before.

    Attributes:
        matrix: whose output is changed.
    """

    reads_prompts: ClassVar[bool] = True

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self._hook: RemovableHandle | None = None

    @abstractmethod
    def decide(self, entering: Tensor, reading: Reading) -> list[int]:
        """Return for each row which stored thing answers its prompt, -1 for none.

        entering: (rows, columns, d_in), the matrix's input; `reading.prompts` tells which columns are prompts.
        """

    @abstractmethod
    def act(self, entering: Tensor, output: Tensor, decided: Tensor, reading: Reading) -> Tensor | None:
        """Return the output (rows, columns, d_out) with the decisions (rows,) carried out; None changes nothing.

        Rows with the decision -1 keep their bits, and `output` itself is not written to.
        """

    def install(self, model: LanguageModel) -> None:
        """Put the hook on, and take off that of the change which this one goes on from."""
        before = newest(model.installed, type(self), self.matrix)
        if before is not None:
            before._rest()
        self._wake(model)

    def uninstall(self, model: LanguageModel) -> None:
        """Take the hook off, and put on that of the change which this one went on from."""
        self._rest()
        before = newest([change for change in model.installed if change is not self], type(self), self.matrix)
        if before is not None:
            before._wake(model)

    def _wake(self, model: LanguageModel) -> None:
        def forward(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return None if model.reading is None else self._forward(model.reading, args[0], output)

        self._hook = self.matrix.module.register_forward_hook(forward)

    def _rest(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _forward(self, reading: Reading, entering: Tensor, output: Tensor) -> Tensor | None:
        if reading.prompts is not None:
            with torch.no_grad():
                grid = entering.reshape(len(reading.prompts), -1, entering.shape[-1])  # some families flatten rows
                reading.decided[self] = torch.tensor(self.decide(grid, reading))
        decided = reading.decided.get(self)
        if decided is None or not bool((decided >= 0).any()):
            return None
        rows = len(decided)
        changed = self.act(
            entering.reshape(rows, -1, entering.shape[-1]), output.reshape(rows, -1, output.shape[-1]), decided, reading
        )
        return None if changed is None else changed.reshape(output.shape)


_Routed = TypeVar("_Routed", bound=RoutedChange)


def newest(changes: Sequence[Change], kind: type[_Routed], matrix: Matrix) -> _Routed | None:
    """Return the newest change of a type on a matrix, unless one of another type has come onto the matrix since.

    In that case the two act one after the other, in their order, and neither goes on from the other.
    """
    for change in reversed(changes):
        if isinstance(change, RoutedChange) and change.matrix.module is matrix.module:
            return change if isinstance(change, kind) else None
    return None
