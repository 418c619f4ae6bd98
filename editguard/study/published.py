"""Published figures beside those of a study: the same model, data, method, mode, number of edits and protocol, or none.

A figure says little without its protocol. What others print is mostly teacher-forced, and is set beside our
teacher-forced figure, never beside that of real decoding. `published.json` has the figures, their sources, what is odd
about them, and what was left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from editguard.study.plan import Cell
from editguard.study.summary import Row

FORCED: Final = "tf_token_accuracy"
DECODED: Final = "decode_match"
_MEASURES: Final[Mapping[str, str]] = {"reliability": "reliability", "generalization": "generalization/rephrase"}
"""What is compared: the source's word -> the title of our numbers that asks the same questions."""
_SUFFIX: Final = re.compile(r"[-_]hf$", re.IGNORECASE)
_NO_NAME: Final = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes:
        source: id of its source.
        model, data, method: as published, with our names where they mean the same.
        mode, edits: as of a cell.
        metric: what was measured.
        protocol: id of how.
        value: in percent, unless the protocol says otherwise.
        notes: ids of what is odd about it.
    """

    source: str
    model: str
    data: str
    mode: str
    edits: int
    method: str
    metric: str
    protocol: str
    value: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """All that is known.

    Attributes:
        figures: the figures.
        protocols, sources, notes: id -> words.
        data: name of a data set -> by what of a study's note it is known.
        left_out: figures that were not taken: source, number of records, and why.
    """

    figures: tuple[Figure, ...]
    protocols: Mapping[str, str]
    sources: Mapping[str, str]
    notes: Mapping[str, str]
    data: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Pair:
    """A published figure and ours, both in percent; `cases` is the number behind ours."""

    figure: Figure
    cell: Cell
    ours: float
    cases: int


@dataclass(frozen=True)
class Comparison:
    """What of the published figures belongs beside a study.

    Attributes:
        pairs: by the same protocol.
        otherwise: figures for the same model, data, method, mode and number of edits that follow another protocol.
    """

    pairs: tuple[Pair, ...]
    otherwise: tuple[Figure, ...]


@cache
def published() -> Published:
    """Read the figures that come with the package."""
    found = json.loads((files("editguard.study") / "published.json").read_text(encoding="utf-8"))
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["figures"]]
    figures = tuple(Figure(**{**row, "notes": tuple(row["notes"])}) for row in rows)
    return Published(figures, **{name: found[name] for name in ("protocols", "sources", "notes", "data", "left_out")})


def model_key(name: str) -> str:
    """A model's name without owner, folders, case, punctuation, and the ending of converted weights.

    "meta-llama/Llama-2-7b-hf", "models/Llama-2-7B/" and "Llama-2-7B" are one; "Llama-2-7b-chat-hf" is another.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return _NO_NAME.sub("", _SUFFIX.sub("", last).lower())


def data_key(note: Mapping[str, Any] | None) -> str | None:
    """The published name of a study's data set, by its note (see `described`); None where it is none of these."""
    if not note or note.get("form") is None:
        return None
    file = str(note.get("file", "")).lower()
    for name, known in published().data.items():
        parts = known.get("file")
        target = known.get("target")
        if (
            known["form"] == note["form"]
            and (target is None or note.get("options", {}).get("target") == target)
            and (parts is None or any(part in file for part in parts))
        ):
            return name
    return None


def compared(notes: Mapping[str, Any], rows: Sequence[Row]) -> Comparison:
    """Find what was published about the cells of a study.

    notes: those of its header, with the model's name and the note of its data set.
    """
    model, data = model_key(str(notes.get("model", ""))), data_key(notes.get("data"))
    by_cell: dict[tuple[str, str, int], Row] = {(row.cell.method, row.cell.mode, row.cell.size): row for row in rows}
    pairs, otherwise = [], []
    for figure in published().figures:
        row = by_cell.get((figure.method, figure.mode, figure.edits))
        if row is None or figure.data != data or model_key(figure.model) != model:
            continue
        own = {(metric, protocol): (value, cases) for metric, protocol, value, cases in _ours(row)}
        if (figure.metric, figure.protocol) in own:
            pairs.append(Pair(figure, row.cell, *own[figure.metric, figure.protocol]))
        else:
            otherwise.append(figure)
    return Comparison(tuple(pairs), tuple(otherwise))


def _ours(row: Row) -> Iterator[tuple[str, str, float, int]]:
    """Of a row's figures those that have a published counterpart: metric, protocol, percent, number of cases."""
    for metric, title in _MEASURES.items():
        number = row.numbers.get(title)
        if number is None:
            continue
        for protocol, name in ((FORCED, "token_accuracy"), (DECODED, "mean")):
            if number.get(name) is not None:
                yield metric, protocol, 100 * number[name], number["cases"]
