"""What blaming has found, as plain data and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from editguard.blame.nearest import NearPair

SHOWN: Final = 8
Confirmed = Literal["same", "other", "no", "not tried"]


@dataclass(frozen=True, kw_only=True)
class NamedEdit:
    """An edit request by its place in the sequence or batch, from 1 on, and in words."""

    number: int
    request: str
    text: str
    target: str

    def __str__(self) -> str:
        return f"edit {self.number}, {self.text!r} -> {self.target!r}"


@dataclass(frozen=True, kw_only=True)
class LostProbe:
    """A probe that fails with the edits to blame in force.

    Attributes:
        property, kind: what it belongs to.
        prompt, expected, before, after: asked, wanted, and answered without any edit and with those to blame.
        number: of the edit that the probe speaks of, None for a task.
        own: whether that edit is among those to blame.
    """

    property: str
    kind: str
    prompt: str
    expected: str
    before: str
    after: str
    number: int | None
    own: bool

    def __str__(self) -> str:
        of = "" if self.number is None else f" of edit {self.number}{'' if not self.own else ' itself'}"
        return (
            f"{self.property}/{self.kind}{of}: {self.prompt!r}: wanted {self.expected!r}, without edits "
            f"{self.before!r}, now {self.after!r}"
        )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Which edits make a check fail.

    Attributes:
        test: the test's node id.
        method: the editing method.
        edits: how many edits were in force when it failed.
        reason: why there is nothing to name; "" where there is.
        first: the edit at which the check begins to fail; None where the time did not suffice.
        blamed: edits with which alone it fails.
        minimal: whether it holds as soon as any of them is left out.
        recorded: whether the search used the recorded updates; else each subset was applied anew.
        confirmed: what applying `blamed` from scratch gives: the "same" lost probes, "other" ones though the check
            fails, "no" failure; or it was "not tried".
        lost: probes that these edits lose.
        lost_from_scratch: how many they lose when they are applied from scratch; None where that was not tried.
        near: pairs of a blamed edit and a lost probe whose keys are similar.
        tried: subsets tried.
        seconds: all that it took.
    """

    test: str
    method: str
    edits: int
    reason: str = ""
    first: NamedEdit | None = None
    blamed: tuple[NamedEdit, ...] = ()
    minimal: bool = False
    recorded: bool = False
    confirmed: Confirmed = "not tried"
    lost: tuple[LostProbe, ...] = ()
    lost_from_scratch: int | None = None
    near: tuple[NearPair, ...] = ()
    tried: int = 0
    seconds: float = 0.0

    @property
    def lines(self) -> list[str]:
        """The finding for a person; the first line says it all."""
        if self.reason:
            return [f"no edit is named: {self.reason}"]
        lines = [self._headline]
        lines += [f"  {edit}" for edit in self.blamed[:SHOWN]] + _more(self.blamed)
        if self.first is not None and self.first not in self.blamed:
            lines.append(f"  the check begins to fail with {self.first}")
        if not self.minimal:
            lines.append("  the time was over before it was known whether all of them are needed")
        lines.append(f"  {self.confirmation}")
        if self.lost:
            count = "1 probe fails" if len(self.lost) == 1 else f"{len(self.lost)} probes fail"
            lines.append(f"  with them {count}:")
            lines += [f"    {probe}" for probe in self.lost[:SHOWN]] + [f"  {line}" for line in _more(self.lost)]
        if self.near:
            lines.append("  keys of lost probes that are nearest to those of the edits (cosine):")
            lines += [f"    {pair}" for pair in self.near]
        way = "recorded updates" if self.recorded else "edits applied anew"
        lines.append(f"  {self.tried} subsets of {self.edits} edits tried, {way}, {self.seconds:.1f} s")
        return lines

    @property
    def _headline(self) -> str:
        if len(self.blamed) == 1:
            return f"1 of {self.edits} edits is to blame: it alone makes the check fail"
        need = "fails, and without any one of them it holds" if self.minimal else "fails"
        return f"{len(self.blamed)} of {self.edits} edits are to blame together: with them the check {need}"

    @property
    def confirmation(self) -> str:
        """What came of applying the edits to blame from scratch, in words."""
        scratch = self.lost_from_scratch
        return {
            "same": "applied from scratch they lose the same probes",
            "other": f"applied from scratch they make it fail too, with {scratch} lost instead of {len(self.lost)}, "
            "or others",
            "no": f"applied from scratch they do not ({scratch} probes lost): the updates did harm as they were "
            "computed on top of the other edits",
            "not tried": "not confirmed from scratch: the time was over",
        }[self.confirmed]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal finding."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: TypeError: a field is missing or unknown."""
        first = record["first"]
        return cls(
            **{
                **record,
                "first": None if first is None else NamedEdit(**first),
                "blamed": tuple(NamedEdit(**edit) for edit in record["blamed"]),
                "lost": tuple(LostProbe(**probe) for probe in record["lost"]),
                "near": tuple(NearPair(**pair) for pair in record["near"]),
            }
        )


def _more(things: Sequence[object]) -> list[str]:
    return [f"  and {len(things) - SHOWN} more"] if len(things) > SHOWN else []
