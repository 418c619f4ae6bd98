"""Edit cases in our own format: one JSON object per line.

    {"prompt": "The capital of {} is", "subject": "Velloria", "target": "Oskar", "previous": "Tamrin",
     "relation": "capital", "label": "moved capital",
     "probes": [{"property": "generalization", "kind": "rephrase",
                 "prompt": "Velloria's capital city is", "answers": ["Oskar"]}]}

"previous", "relation", "label" and "probes" may be missing; a probe may also have "choices", and "knows" as a list
of [prompt, answer] pairs. Blank lines are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import InvalidEdit, MalformedRecord, closest
from editguard.storage import write_atomically

_CASE_FIELDS: Final = ("prompt", "subject", "target", "previous", "relation", "label", "probes")
_PROBE_FIELDS: Final = ("property", "kind", "prompt", "answers", "choices", "knows")


def load_cases(path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> tuple[EditCase, ...]:
    """Read all cases of a file.

    Args:
        path: the file; a relative path starts at `base`, or at the working directory.
        base: a folder, or a file whose folder is meant (a suite passes `__file__`).

    Raises: InvalidEdit: there is no such file, it cannot be read, or it has no case.
        MalformedRecord: a line is no case; names file, line and field.
    """
    found = tuple(read_cases(path, base=base))
    if not found:
        raise InvalidEdit(f"{_resolved(path, base)} holds no edit case.")
    return found


def read_cases(path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> Iterator[EditCase]:
    """Yield the cases of a file in order, one line in memory; arguments and errors as for `load_cases`."""
    file = _resolved(path, base)
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _case(file, number, line)
    except OSError as failure:
        raise InvalidEdit(
            f"cannot read the edit cases of {file}: {failure.strerror or failure}. "
            "Give a path from the working directory, or Path(__file__).parent / name."
        ) from failure


def write_cases(path: str | os.PathLike[str], cases: Iterable[EditCase]) -> None:
    """Write cases to a file that `load_cases` reads back; replaces the file in one step.

    Raises: InvalidEdit: the file cannot be written.
    """
    lines = (json.dumps(_record(case), ensure_ascii=False) + "\n" for case in cases)
    write_atomically(path, "".join(lines), error=InvalidEdit)


def _resolved(path: str | os.PathLike[str], base: str | os.PathLike[str] | None) -> Path:
    start = Path.cwd() if base is None else Path(base)
    return (start.parent if start.is_file() else start) / path


def _case(file: Path, number: int, line: bytes) -> EditCase:
    """Translate one line; every mistake names file and line."""
    try:
        record = json.loads(line)
    except ValueError as mistake:  # of JSON, and of UTF-8
        raise MalformedRecord(file, number, f"not JSON: {mistake}") from mistake
    try:
        fields = _object(record, "an edit case", _CASE_FIELDS)
        request = EditRequest(
            prompt=_text(fields, "prompt"),
            subject=_text(fields, "subject"),
            target=_text(fields, "target"),
            previous=_optional_text(fields, "previous"),
            relation=_optional_text(fields, "relation"),
        )
        if request.previous is not None and not request.previous.strip():
            raise InvalidEdit("the field 'previous' is empty: leave it out when it is unknown.")
        probes = tuple(_probe(probe, position) for position, probe in enumerate(_list(fields, "probes"), start=1))
        return EditCase(request=request, probes=probes, label=_optional_text(fields, "label") or "")
    except InvalidEdit as mistake:
        raise MalformedRecord(file, number, str(mistake)) from mistake


def _probe(record: object, position: int) -> Probe:
    where = f"probe {position}"
    fields = _object(record, where, _PROBE_FIELDS)
    try:
        return Probe(
            property=_text(fields, "property"),  # type: ignore[arg-type]  # checked by Probe
            kind=_text(fields, "kind"),
            prompt=_text(fields, "prompt"),
            answers=_texts(fields, "answers"),
            choices=_texts(fields, "choices"),
            knows=tuple(_pair(pair) for pair in _list(fields, "knows")),
        )
    except InvalidEdit as mistake:
        raise InvalidEdit(f"{where}: {mistake}") from mistake


def _object(record: object, what: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise InvalidEdit(f"{what} is a JSON object, not {type(record).__name__}.")
    unknown = [name for name in record if name not in known]
    if unknown:
        raise InvalidEdit(f"unknown field {unknown[0]!r} of {what}.{closest(unknown[0], known)}")
    return record


def _text(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise InvalidEdit(f"the field {name!r} is missing.")
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidEdit(f"the field {name!r} is text, not {value!r}.")
    return value


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name)


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise InvalidEdit(f"the field {name!r} is a list, not {value!r}.")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = _list(fields, name)
    if not all(isinstance(value, str) for value in values):
        raise InvalidEdit(f"the field {name!r} is a list of texts, not {values!r}.")
    return tuple(values)


def _pair(value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise InvalidEdit(f"the field 'knows' is a list of [prompt, answer] pairs, but holds {value!r}.")
    return (value[0], value[1])


def _record(case: EditCase) -> dict[str, Any]:
    """A case as one JSON object, without the fields that say nothing."""
    request = case.request
    record: dict[str, Any] = {
        "prompt": request.prompt,
        "subject": request.subject,
        "target": request.target,
        "previous": request.previous,
        "relation": request.relation,
        "label": case.label or None,
        "probes": [
            _without_empty(
                {
                    "property": probe.property,
                    "kind": probe.kind,
                    "prompt": probe.prompt,
                    "answers": list(probe.answers),
                    "choices": list(probe.choices),
                    "knows": [list(pair) for pair in probe.knows],
                }
            )
            for probe in case.probes
        ],
    }
    return _without_empty(record)


def _without_empty(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None and value != []}
