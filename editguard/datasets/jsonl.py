"""Edit cases in our own format: one JSON object per line.

    {"prompt": "The capital of {} is", "subject": "Velloria", "target": "Oskar", "previous": "Tamrin",
     "relation": "capital", "label": "moved capital",
     "probes": [{"property": "generalization", "kind": "rephrase",
                 "prompt": "Velloria's capital city is", "answers": ["Oskar"]}]}

"previous", "relation", "label" and "probes" may be missing; a probe may also have "choices", and "knows" as a list
of [prompt, answer] pairs; "origin" is an object that says where an imported case comes from. Blank lines are skipped.
`edit_case.schema.json` beside this file says the same as a JSON Schema. A file of probes alone, one per line, holds
items of other tasks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from editguard.datasets.fields import Fields, shown
from editguard.datasets.streams import parse_line
from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import InvalidEdit, MalformedRecord
from editguard.storage import write_atomically

CASE_FIELDS: Final = ("prompt", "subject", "target", "previous", "relation", "label", "probes", "origin")
PROBE_FIELDS: Final = ("property", "kind", "prompt", "answers", "choices", "knows")

Path_ = str | os.PathLike[str]
_Read = TypeVar("_Read")


def load_cases(path: Path_, *, base: Path_ | None = None) -> tuple[EditCase, ...]:
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


def read_cases(path: Path_, *, base: Path_ | None = None) -> Iterator[EditCase]:
    """Yield the cases of a file in order, one line in memory; arguments and errors as for `load_cases`."""
    return _read(_resolved(path, base), case_from, "edit cases")


def load_tasks(path: Path_, *, base: Path_ | None = None) -> tuple[Probe, ...]:
    """Read a file of items of other tasks, one probe per line; arguments and errors as for `load_cases`."""
    found = tuple(_read(_resolved(path, base), lambda record: probe_from(record, "a probe"), "probes"))
    if not found:
        raise InvalidEdit(f"{_resolved(path, base)} holds no probe.")
    return found


def write_cases(path: Path_, cases: Iterable[EditCase]) -> None:
    """Write cases to a file that `load_cases` reads back; replaces the file in one step.

    Raises: InvalidEdit: the file cannot be written.
    """
    lines = (json.dumps(case_record(case), ensure_ascii=False) + "\n" for case in cases)
    write_atomically(path, lines, error=InvalidEdit)


def write_tasks(path: Path_, probes: Iterable[Probe]) -> None:
    """Write probes to a file that `load_tasks` reads back; replaces the file in one step.

    Raises: InvalidEdit: the file cannot be written.
    """
    lines = (json.dumps(probe_record(probe), ensure_ascii=False) + "\n" for probe in probes)
    write_atomically(path, lines, error=InvalidEdit)


def case_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one case."""
    text = files("editguard.datasets").joinpath("edit_case.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def case_from(record: object) -> EditCase:
    """Translate one record.

    Raises: InvalidEdit: it is no case; the message names the field.
    """
    fields = Fields(record, "an edit case").refuse_unknown("an edit case", CASE_FIELDS)
    request = EditRequest(
        prompt=fields.text("prompt"),
        subject=fields.text("subject"),
        target=fields.text("target"),
        previous=fields.optional_text("previous"),
        relation=fields.optional_text("relation"),
    )
    if request.previous is not None and not request.previous.strip():
        raise InvalidEdit("the field 'previous' is empty: leave it out when it is unknown.")
    probes = tuple(probe_from(probe, f"probe {place}") for place, probe in enumerate(fields.items("probes"), start=1))
    origin = fields.optional_object("origin")
    return EditCase(
        request=request,
        probes=probes,
        label=fields.optional_text("label") or "",
        origin={} if origin is None else origin.rest(),
    )


def probe_from(record: object, where: str) -> Probe:
    """Translate one probe; errors as for `case_from`, and they begin with `where`."""
    fields = Fields(record, where).refuse_unknown(where, PROBE_FIELDS)
    try:
        return Probe(
            property=fields.text("property"),  # type: ignore[arg-type]  # checked by Probe
            kind=fields.text("kind"),
            prompt=fields.text("prompt"),
            answers=fields.texts("answers"),
            choices=fields.texts("choices"),
            knows=tuple(_pair(pair) for pair in fields.items("knows")),
        )
    except InvalidEdit as mistake:
        raise InvalidEdit(f"{where}: {mistake}") from mistake


def case_record(case: EditCase) -> dict[str, Any]:
    """A case as one JSON object, without the fields that say nothing."""
    request = case.request
    return _without_empty(
        {
            "prompt": request.prompt,
            "subject": request.subject,
            "target": request.target,
            "previous": request.previous,
            "relation": request.relation,
            "label": case.label or None,
            "probes": [probe_record(probe) for probe in case.probes],
            "origin": dict(case.origin) or None,
        }
    )


def probe_record(probe: Probe) -> dict[str, Any]:
    """A probe as one JSON object, without the fields that say nothing."""
    return _without_empty(
        {
            "property": probe.property,
            "kind": probe.kind,
            "prompt": probe.prompt,
            "answers": list(probe.answers),
            "choices": list(probe.choices),
            "knows": [list(pair) for pair in probe.knows],
        }
    )


def _resolved(path: Path_, base: Path_ | None) -> Path:
    start = Path.cwd() if base is None else Path(base)
    return (start.parent if start.is_file() else start) / path


def _read(file: Path, translate: Callable[[object], _Read], what: str) -> Iterator[_Read]:
    """Translate line by line; every mistake names file and line."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    record = parse_line(file, number, line)
                    try:
                        yield translate(record)
                    except InvalidEdit as mistake:
                        raise MalformedRecord(file, number, str(mistake)) from mistake
    except OSError as failure:
        raise InvalidEdit(
            f"cannot read the {what} of {file}: {failure.strerror or failure}. "
            "Give a path from the working directory, or Path(__file__).parent / name."
        ) from failure


def _pair(value: object) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        prompt, answer = Fields({"knows": value}).texts("knows")
        return (prompt, answer)
    raise InvalidEdit(f"the field 'knows' is a list of [prompt, answer] pairs, but holds {shown(value)}.")


def _without_empty(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None and value != []}
