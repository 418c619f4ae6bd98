"""What a study does: methods, and the numbers of edits that are in force together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from editguard.errors import ConfigurationError, UnknownMethod
from editguard.methods.registry import methods

if TYPE_CHECKING:
    from editguard.edits import EditCase

Mode = Literal["single", "batch", "sequence"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
UNEDITED: Final = "unedited"
"""Stands for a method where the model without any edit is asked the same questions."""


@dataclass(frozen=True, order=True)
class Cell:
    """A method in one mode and size: one file of records.

    Attributes:
        method: registered name, or `UNEDITED`.
        mode: each edit alone on the original model; all at once; one after another.
        size: how many edits are in force together. For single edits of a method 1; for the unedited model the number
            of cases that it was asked about.
    """

    method: str
    mode: Mode
    size: int

    @property
    def name(self) -> str:
        """The cell in one word."""
        return f"{self.method}-{self.mode}-{self.size}"

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of a name.

        Raises: ValueError: it is none.
        """
        method, mode, size = name.rsplit("-", 2)
        if mode not in MODES:
            raise ValueError(f"{mode!r} is no mode")
        return cls(method, mode, int(size))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Methods x modes x sizes.

    Attributes:
        methods: registered names, in the order of the table.
        single: how many cases are edited each alone.
        batches: sizes of batches; a batch of n holds the first n cases.
        sequences: checkpoints; all edits so far are asked again at each.
        settings: method -> settings that differ from those found for the model.
        seed: of every random draw of methods and continuations.
        second_moment_tokens: as in `Preparation`.

    Raises: ConfigurationError: nothing to do, or an impossible number. UnknownMethod: no such method.
    """

    methods: tuple[str, ...]
    single: int = 0
    batches: tuple[int, ...] = ()
    sequences: tuple[int, ...] = ()
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
        return [Cell(method, mode, size) for mode, chosen in sizes.items() for size in chosen]

    def parts(self, cell: Cell, cases: Sequence[EditCase]) -> list[str]:
        """The names of a cell's parts: one for each single edit of a method, otherwise one for all edits together."""
        if cell.mode == "single" and cell.method != UNEDITED:
            return [f"{position:05d}-{case.id}" for position, case in enumerate(cases[: self.single])]
        return [str(cell.size)]
