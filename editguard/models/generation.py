"""Greedy answers: the rule by which they end, and the loop that makes them for a batch."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StopRule:
    """Where an answer ends within generated text.

    Attributes:
        pattern: the first match within the stripped text ends the answer, and is no part of it.
    """

    pattern: re.Pattern[str]

    def cut(self, text: str) -> tuple[str, bool]:
        """The answer within the whole of a generated text, and whether the rule has ended it."""
        answer = text.lstrip()
        match = self.pattern.search(answer)
        return (answer[: match.start()] if match else answer).rstrip(), match is not None

    def ends(self, text: str) -> bool:
        """Whether a text that may still grow has ended for certain: a last full stop may become a
        decimal point, so the rule must hold for a digit that follows too."""
        return self.pattern.search(text.lstrip() + "0") is not None


DEFAULT_STOP: Final = StopRule(re.compile(r"\n|\.(?=\s|$)"))
"""An answer ends at a line's end, or at a full stop that a blank or nothing follows."""


@dataclass(frozen=True)
class Generation:
    """What a model said to one prompt.

    Attributes:
        text: the answer, stripped and cut by the stop rule.
        token_ids: what was generated, with the tokens of the stop itself, without an end-of-text
            token.
        stopped: the stop rule or an end-of-text token ended it, not the limit of tokens.
        prompt: as it was asked, before any chat template.
        prompt_tokens: how many tokens were read for it.
    """

    text: str
    token_ids: tuple[int, ...]
    stopped: bool
    prompt: str
    prompt_tokens: int = 0


class Forward(Protocol):
    """One call of the model: ids (rows, tokens) and mask (rows, all tokens) to logits of the last
    position."""

    def __call__(self, ids: Tensor, mask: Tensor, past: Any) -> tuple[Tensor, Any]: ...


class UndefinedByPaddingError(ArithmeticError):
    """A padded batch came out undefined: some attention code does so for rows that are wholly masked, in types
    whose range differs from float32's. Rows of one length need no padding."""


PAD: Final = 0
"""Fills padded places: any valid id does, because the mask alone says what is padding."""


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask (rows, longest row), rows aligned at their right ends."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[PAD] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def right_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask (rows, longest row), rows aligned at their left ends."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with, leaving at least one token of each row."""
    listed = [list(row) for row in rows]
    first, last = min(listed), max(listed)
    limit = min(len(row) for row in rows) - 1
    different = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return max(0, min(limit, next(different, limit)))


def continue_greedily(
    forward: Forward,
    rows: Sequence[Sequence[int]],
    *,
    limits: Sequence[int],
    finished: Callable[[Sequence[int]], bool],
    end_ids: frozenset[int],
    past: Any = None,
    cached: int = 0,
    selected: Callable[[Tensor], None] = lambda _rows: None,
) -> list[tuple[list[int], bool]]:
    """Continue each row by its most likely tokens.

    Args:
        forward: the model with its attention cache.
        rows: token ids of the prompts.
        limits: how many tokens each row may get, at least 1.
        finished: whether the new tokens of a row hold a complete answer.
        end_ids: tokens that end a text; they are not part of the answer.
        past, cached: the attention cache of `cached` tokens that stand before every row, one copy per row.
        selected: called with the places of the rows that go on, whenever some have ended.

    Raises: UndefinedByPaddingError: rows of different lengths gave undefined numbers.

    Returns: for each row its new ids, and whether it came to an end before its limit.
    """
    ids, mask = left_padded(rows)
    padded = not bool(mask.all())
    mask = torch.cat([torch.ones(len(rows), cached, dtype=mask.dtype), mask], dim=1)
    made: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    active = list(range(len(rows)))
    first_pass = True
    while active:
        logits, past = forward(ids, mask, past)
        if first_pass and padded and logits.isnan().any():
            raise UndefinedByPaddingError
        first_pass = False
        chosen: list[int] = logits.argmax(-1).tolist()
        going: list[int] = []
        for place, row in enumerate(active):
            token = chosen[place]
            if token in end_ids:
                ended[row] = True
                continue
            made[row].append(token)
            if finished(made[row]):
                ended[row] = True
            elif len(made[row]) < limits[row]:
                going.append(place)
        if len(going) < len(active) and going:
            keep = torch.tensor(going)
            past.batch_select_indices(keep)
            selected(keep)
            mask = mask[keep]
        active = [active[place] for place in going]
        ids = torch.tensor([[chosen[place]] for place in going])
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
    return [(new, end) for new, end in zip(made, ended, strict=True)]
