"""How edits enter a codebook: which entry a query goes to, what becomes of the others, and the values to train.

Source: Hartvigsen et al., "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors", NeurIPS 2023,
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from editguard.edited.codebook import Codebook, Entry, KeyBuffer, Member, Replacement
from editguard.edits import EditRequest
from editguard.edits.request import content_id
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.methods.replaced_value import TrainedValue, ValueTask, train_values

if TYPE_CHECKING:
    from editguard.methods.grace import GraceSettings
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

SPLIT_SLACK: Final = 1e-5
"""The share of half the distance by which an older ball keeps away from one split from it."""

Action = Literal["added", "covered", "expanded", "split", "taken over"]


@dataclass(frozen=True)
class Placement:
    """What becomes of a query.

    Attributes:
        action: a new entry far from the others; the nearest entry, whose ball holds the query or grows to; a new entry
            that shares the distance with the nearest; or the nearest entry with another answer.
        nearest_radius: of the nearest entry from now on; None without one.
        new_radius: of the new entry; None without one.
    """

    action: Action
    nearest_radius: float | None = None
    new_radius: float | None = None


def placement(
    distance: float, radius: float, *, same_label: bool, initial_radius: float, rounding: float = 0.0
) -> Placement:
    """Return where a query goes.

    Args:
        distance: to the nearest key.
        radius: of that key's entry.
        same_label: whether the entry's answer is the wanted one.
        initial_radius: of a new entry.
        rounding: how far the same prompt's query may lie from itself in another batch; a ball that is widened to a
            query holds it by this margin, and two keys so close are one.

    Source: algorithm 1.
    """
    if distance > initial_radius + radius:
        return Placement("added", radius, initial_radius)
    if same_label:
        return Placement("covered", radius) if distance <= radius else Placement("expanded", distance + rounding)
    if distance <= rounding:
        return Placement("taken over", radius)
    half = distance / 2
    return Placement("split", min(radius, half * (1 - SPLIT_SLACK)), half)


class Draft:
    """The codebook as it will be: which entries are new or other ones, and what their values are to be trained on."""

    def __init__(self, earlier: Codebook | None, initial_radius: float) -> None:
        self._earlier = earlier
        self._initial_radius = initial_radius
        self._keys = earlier.keys if earlier else None
        self._size = earlier.size if earlier else 0
        self._changed: dict[int, Entry] = {}
        self._entry_of: list[int] = []
        self.records: list[dict[str, Any]] = []
        self.queries: Tensor | None = None

    def enter(
        self, model: LanguageModel, matrix: Matrix, requests: Sequence[EditRequest], settings: GraceSettings
    ) -> None:
        """Find each request's place, in their order; values are where their training starts."""
        encoded = [model.encode_answer(request.text, request.target) for request in requests]
        prompts = [tuple(prompt) for prompt, _ in encoded]
        self.queries, outputs = at_prompt_ends(model, prompts, [(matrix.module, "input"), (matrix.module, "output")])
        coarse = 2 * torch.finfo(model.dtype).eps * torch.linalg.vector_norm(self.queries, dim=1)
        for row, (prompt, (_, target)) in enumerate(zip(prompts, encoded, strict=True)):
            start = outputs[row] if settings.value_start == "warm" else _drawn(outputs[row], prompt, settings)
            self.place(self.queries[row], prompt, tuple(target), start, float(coarse[row]))

    def train(self, model: LanguageModel, matrix: Matrix, settings: GraceSettings) -> None:
        """Train the values of the entries that were placed or widened, each on all prompts that it answers.

        Raises: FloatingPointError: a loss or gradient became infinite or undefined.
        """
        numbers = [number for number in dict.fromkeys(self._entry_of) if self._changed[number].members]
        tasks = [
            ValueTask(entry.value, entry.label, tuple(member.prompt for member in entry.members))
            for entry in (self._changed[number] for number in numbers)
        ]
        trained = train_values(
            model,
            matrix,
            tasks,
            layer=settings.layer,
            replacement=settings.replacement,
            steps=settings.steps,
            step_size=settings.step_size,
            stop_margin=settings.stop_margin,
        )
        found = dict(zip(numbers, trained, strict=True))
        for number, result in found.items():
            self._changed[number] = replace(self._changed[number], value=result.value)
        for number, record in zip(self._entry_of, self.records, strict=True):
            record |= self._learned(number, found[number]) if number in found else {}

    def codebook(self, matrix: Matrix, replacement: Replacement) -> Codebook:
        """Return the version of the codebook that this draft describes."""
        assert self._keys is not None
        return Codebook(matrix, replacement, self._keys, self._changed, self._earlier)

    def place(
        self, query: Tensor, prompt: tuple[int, ...], label: tuple[int, ...], start: Tensor, rounding: float
    ) -> None:
        """Let one edit in.

        Args:
            query: (d_in,), the matrix's input at the prompt's last token.
            prompt, label: token ids of the prompt and of the answer.
            start: (d_out,), where the training of a new value starts.
            rounding: see `placement`.
        """
        distance, number, place = None, None, Placement("added", None, self._initial_radius)
        if self._keys is not None and self._size:
            [distance], [number] = self._keys.nearest(self._size, query[None])
            entry = self._entry(number)
            place = placement(
                distance,
                entry.radius,
                same_label=entry.label == label,
                initial_radius=self._initial_radius,
                rounding=rounding,
            )
        left_out = 0
        if number is not None and distance is not None and place.nearest_radius is not None:
            left_out = self._adjust(number, place, Member(prompt, distance), label, start)
        if place.new_radius is not None:
            number = self._add(query, Entry(start, place.new_radius, label, (Member(prompt),)))
        assert number is not None
        self._entry_of.append(number)
        self.records.append(
            {
                "action": place.action,
                "entry": number,
                "nearest_distance": distance,
                "radius": self._changed[number].radius,
                "left_out": left_out,
            }
        )

    def _adjust(self, number: int, place: Placement, member: Member, label: tuple[int, ...], start: Tensor) -> int:
        """Change the nearest entry as the placement says; return how many of its prompts it no longer answers."""
        entry = self._entry(number)
        radius = place.nearest_radius
        assert radius is not None
        if place.action == "taken over":
            self._changed[number] = Entry(start, radius, label, (Member(member.prompt),))
            return sum(other.prompt != member.prompt for other in entry.members)
        if place.action in ("covered", "expanded"):
            others = tuple(other for other in entry.members if other.prompt != member.prompt)
            self._changed[number] = replace(entry, radius=radius, members=(*others, member))
            return 0
        if radius == entry.radius:
            return 0
        kept = tuple(other for other in entry.members if other.distance <= radius)
        self._changed[number] = replace(entry, radius=radius, members=kept)
        return sum(other.distance > radius and other.prompt != member.prompt for other in entry.members)

    def _add(self, query: Tensor, entry: Entry) -> int:
        number = self._size
        self._keys = self._keys.extended(number, query) if self._keys is not None else KeyBuffer(query[None])
        self._changed[number] = entry
        self._size += 1
        return number

    def _entry(self, number: int) -> Entry:
        if number in self._changed or self._earlier is None:
            return self._changed[number]
        return self._earlier.entries[number]

    def _learned(self, number: int, result: TrainedValue) -> dict[str, Any]:
        members = self._changed[number].members
        return {
            "members": len(members),
            "members_answered": sum(margin > 0 for margin in result.margins),
            "updates": result.updates,
            "loss": result.loss,
            "margin": min(result.margins),
        }


def _drawn(output: Tensor, prompt: tuple[int, ...], settings: GraceSettings) -> Tensor:
    """A cold start: uniform on [0, 1), of the prompt and the seed alone."""
    seed = int(content_id("a cold start of grace", settings.seed, prompt), 16) % 2**63
    return torch.rand(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
