"""Running blocks again: with what they were called with, but another hidden state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class BlockCall:
    """A block, and everything it was called with."""

    block: nn.Module
    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, hidden: Tensor, exchanged: Callable[[Any], Any] = lambda argument: argument) -> Any:
        """Call the block with another hidden state, and with `exchanged` of each other argument."""
        args = [exchanged(arg) for arg in self.args]
        kwargs = {name: exchanged(arg) for name, arg in self.kwargs.items()}
        if "hidden_states" in kwargs:
            return self.block(*args, **{**kwargs, "hidden_states": hidden})
        return self.block(hidden, *args[1:], **kwargs)


def recorded_calls(blocks: Sequence[nn.Module], run: Callable[[], object]) -> list[BlockCall]:
    """Let `run` run the model, and return what each of the blocks was called with, in the order of the calls.

    Of the hidden states only that of the first call is sure to stay as it was.
    """
    calls: list[BlockCall] = []

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        kept = hidden if calls else hidden.clone()  # only the first block's is used again
        calls.append(BlockCall(block, kept, args, dict(kwargs)))

    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_pre_hook(keep, with_kwargs=True)
            hooks.callback(handle.remove)
        run()
    return calls
