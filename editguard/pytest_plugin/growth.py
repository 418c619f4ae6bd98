"""Applying the edits of a group: together, or one after another with the states at checkpoints kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from editguard.errors import EditguardError, MethodRefused
from editguard.pytest_plugin.declarations import Cell
from editguard.pytest_plugin.materials import signal_texts
from editguard.pytest_plugin.options import Configuration
from editguard.pytest_plugin.progress import Progress

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.edits import EditRequest
    from editguard.measurements import PhaseCost, Remembered
    from editguard.methods.protocol import EditMethod
    from editguard.release.candidate import Candidate


@dataclass
class Group:
    """The edits of one group as far as they are applied: `chain[n]` is the model with the first n edits, if it is kept.

    `answers[n]` is what that model was asked; it never changes, so its tests share them.
    """

    cell: Cell
    method: EditMethod | Candidate
    chain: list[EditedModel | None]
    answers: dict[int, Remembered] = field(default_factory=dict)
    refused: EditguardError | None = None
    signals_read: int = -1
    """After how many edits signals were last read."""
    signal_texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Growth:
    """Applies what a group lacks, and notes what that took and what was read on the way.

    Attributes:
        costs: a phase is added for each application.
        signals: those of sequences are added as plain data.
    """

    configuration: Configuration
    progress: Progress
    costs: list[PhaseCost]
    signals: list[dict[str, Any]]

    def grown(self, group: Group, cell: Cell) -> EditedModel:
        """The group's model with the cell's edits, grown from the longest chain there is.

        Raises: MethodRefused: the method cannot do it; the same error for every later state of the group.
        """
        if cell.edits < len(group.chain) and (known := group.chain[cell.edits]) is not None:
            return known
        if group.refused is not None:
            raise group.refused
        requests = [case.request for case in cell.cases]
        try:
            if self.configuration.candidate is not None:
                self._put_candidate(group, cell, requests)
            elif cell.declaration.sequence:
                self._apply_one_by_one(group, cell, requests)
            else:
                self._apply_together(group, cell, requests)
        except MethodRefused as refused:
            group.refused = refused
            raise
        edited = group.chain[cell.edits]
        assert edited is not None
        return edited

    def _apply_one_by_one(self, group: Group, cell: Cell, requests: Sequence[EditRequest]) -> None:
        """Grow the chain from the last checkpoint below; of the states in between those at checkpoints are kept."""
        from editguard.edited import merged

        start, chain = [(number, state) for number, state in enumerate(group.chain[: cell.edits]) if state][-1]
        group.chain += [None] * (cell.edits + 1 - len(group.chain))
        missing, kept = requests[start:], len(chain.edits)
        self._read_signals(group, cell, chain, start)
        with self.progress.phase(f"{cell.method}: applying {_count(len(missing), 'edit')}", len(missing)) as step:
            for number, request in enumerate(missing, start + 1):
                chain.activate()
                chain = merged(self._applied(group, cell, chain, [request]), since=kept)
                self._read_signals(group, cell, chain, number)
                if number == cell.edits or number in cell.declaration.checkpoints:
                    group.chain[number], kept = chain, len(chain.edits)
                step()

    def _read_signals(self, group: Group, cell: Cell, chain: EditedModel, edits: int) -> None:
        """Read the cheap signs of collapse, once for each state of a sequence.

        A memory that writes prompts leaves the model alone, and makes every question long: there at checkpoints alone.
        """
        if not self.configuration.signals or edits <= group.signals_read:
            return
        if chain.memory() is not None and edits not in cell.declaration.checkpoints:
            return
        from editguard.measurements.signals import read_signals

        if group.signal_texts is None:
            group.signal_texts = signal_texts(self.configuration, [case.request for case in cell.declaration.cases])
        group.signals_read = edits
        with suppress(EditguardError):  # what cannot be read beside the tests fails none of them
            found = read_signals(chain, edits, group.signal_texts, seed=self.configuration.seed)
            self.signals.append({"method": cell.method, "group": cell.group, "signals": found.to_json()})

    def _put_candidate(self, group: Group, cell: Cell, requests: Sequence[EditRequest]) -> None:
        """The candidate holds all edits; putting it in force is no edit whose time would mean something."""
        first = group.chain[0]
        assert first is not None
        group.chain += [None] * (cell.edits - len(group.chain)) + [group.method.apply(first, requests)]

    def _apply_together(self, group: Group, cell: Cell, requests: Sequence[EditRequest]) -> None:
        first = group.chain[0]
        assert first is not None
        with self.progress.phase(f"{cell.method}: applying {_count(len(requests), 'edit')}"):
            edited = self._applied(group, cell, first, requests)
        group.chain += [None] * (cell.edits - len(group.chain)) + [edited]

    def _applied(self, group: Group, cell: Cell, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        from editguard.measurements.efficiency import phase

        with phase(cell.method, "edit", edits=len(requests)) as cost:
            result = group.method.apply(edited, requests)
        self.costs.append(cost)
        return result


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
