"""What a study does: methods, and the numbers of edits that are in force together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import factorial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from editguard.errors import ConfigurationError, UnknownMethod
from editguard.methods.registry import methods

if TYPE_CHECKING:
    from editguard.edits import EditCase

Mode = Literal["single", "batch", "sequence"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
UNEDITED: Final = "unedited"
"""Stands for a method where the model without any edit is asked the same questions."""


_NAME: Final = re.compile(rf"(?P<method>.+)-(?P<mode>{'|'.join(MODES)})-(?P<size>\d+)(?:-order-(?P<order>[1-9]\d*))?")


@dataclass(frozen=True, order=True)
class Cell:
    """A method in one mode and size: one file of records.

    Attributes:
        method: registered name, or `UNEDITED`.
        mode: each edit alone on the original model; all at once; one after another.
        size: how many edits are in force together. For single edits of a method 1; for the unedited model the number
            of cases that it was asked about.
        order: in which the edits of a sequence come; 0 is that of the data set.
    """

    method: str
    mode: Mode
    size: int
    order: int = 0

    @property
    def name(self) -> str:
        """The cell in one word."""
        return f"{self.method}-{self.mode}-{self.size}" + (f"-order-{self.order}" if self.order else "")

    @property
    def in_all_orders(self) -> Cell:
        """The cell that stands for this one and its like in other orders."""
        return replace(self, order=0)

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of a name.

        Raises: ValueError: it is none.
        """
        found = _NAME.fullmatch(name)
        mode = next((mode for mode in MODES if found and mode == found["mode"]), None)
        if found is None or mode is None:
            raise ValueError(f"{name!r} is no method, mode and size")
        return cls(found["method"], mode, int(found["size"]), int(found["order"] or 0))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Methods x modes x sizes.

    Attributes:
        methods: registered names, in the order of the table.
        single: how many cases are edited each alone.
        batches: sizes of batches; a batch of n holds the first n cases.
        sequences: checkpoints; all edits so far are asked again at each.
        orders: in so many orders of the same cases the sequences are run.
        settings: method -> settings that differ from those found for the model.
        seed: of every random draw of methods and continuations.
        second_moment_tokens: as in `Preparation`.

    Raises: ConfigurationError: nothing to do, or an impossible number. UnknownMethod: no such method.
    """

    methods: tuple[str, ...]
    single: int = 0
    batches: tuple[int, ...] = ()
    sequences: tuple[int, ...] = ()
    orders: int = 1
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    second_moment_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("batches", "sequences"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))
        known = methods()
        for name in (*self.methods, *self.settings):
            if name not in known:
                raise UnknownMethod(name, known)
        if self.single < 0 or min((*self.batches, *self.sequences, 1)) < 1:
            raise ConfigurationError("numbers of edits are at least 1 (0 single edits leave that part out).")
        if not self.methods or not self.most:
            raise ConfigurationError(
                "the study has nothing to do: name methods, and give at least one of --single, --batch and --sequence."
            )

        if self.orders < 1 or (self.orders > 1 and not self.sequences):
            raise ConfigurationError("sequences have at least 1 order, and orders are of --sequence alone.")
        if self.orders > 1 and self.orders > factorial(min(self.sequences[-1], 20)):
            raise ConfigurationError(f"{self.sequences[-1]} edits have no {self.orders} different orders.")

    @property
    def most(self) -> int:
        """How many cases the plan needs."""
        return max((self.single, *self.batches, *self.sequences))

    def refuse_too_few(self, cases: Sequence[EditCase]) -> None:
        """See that there are cases enough.

        Raises: ConfigurationError: there are not.
        """
        if len(cases) < self.most:
            raise ConfigurationError(f"the study needs {self.most} cases, but there are {len(cases)}.")

    def cells(self, method: str) -> list[Cell]:
        """The cells of a method, in the order of the work."""
        sizes: dict[Mode, Sequence[int]] = {
            "single": [self.single if method == UNEDITED else 1] if self.single else [],
            "batch": self.batches,
            "sequence": self.sequences,
        }
        first = [Cell(method, mode, size) for mode, chosen in sizes.items() for size in chosen]
        others = range(1, self.orders)
        return [*first, *(Cell(method, "sequence", size, order) for order in others for size in self.sequences)]

    def positions(self, order: int) -> tuple[int, ...]:
        """Places in the data set of the edits of the longest sequence; a shorter one has the first of them."""
        return _orders(self.sequences[-1], order + 1, self.seed)[order]

    def ordered(self, cases: Sequence[EditCase], order: int) -> Sequence[EditCase]:
        """The cases in an order of the sequences: the data set itself, or those of the longest sequence."""
        return [cases[position] for position in self.positions(order)] if order else cases

    def parts(self, cell: Cell, cases: Sequence[EditCase]) -> list[str]:
        """The names of a cell's parts: one for each single edit of a method, otherwise one for all edits together."""
        if cell.mode == "single" and cell.method != UNEDITED:
            return [f"{position:05d}-{case.id}" for position, case in enumerate(cases[: self.single])]
        return [str(cell.size)]


@lru_cache(maxsize=8)
def _orders(number: int, wanted: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Different orders of `number` places, the plain one first; a larger `wanted` only adds to them.

    They follow from hashes, so that no version of a random generator changes them.
    """
    found = [tuple(range(number))]
    draw = 0
    while len(found) < wanted:
        draw += 1
        hashes = [hashlib.sha256(f"{seed} {draw} {place}".encode()).digest() for place in range(number)]
        order = tuple(sorted(range(number), key=hashes.__getitem__))
        if order not in found:
            found.append(order)
    return tuple(found)
