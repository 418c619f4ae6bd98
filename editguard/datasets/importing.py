"""From a source of records to edit cases: the form found, every record translated or counted, a sample drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record
from editguard.datasets.forms import form_named, form_of
from editguard.datasets.jsonl import case_from, case_record, probe_from, probe_record
from editguard.datasets.sampling import sample
from editguard.datasets.source import Source
from editguard.datasets.spool import Spool
from editguard.edits import EditCase, EditRequest, Probe, content_id
from editguard.errors import ConfigurationError, InvalidEdit, MalformedRecord, UnusableRecord

SKIPPING = "Leave such records out, counted and listed, with --skip-bad."


@dataclass(frozen=True)
class Skip:
    """A record that was left out: its position, the reason in one word, and the problem."""

    position: str
    reason: str
    problem: str


@dataclass(frozen=True)
class Note:
    """What was changed, left out or remarkable in a record that is used."""

    position: str
    name: str
    text: str


@dataclass(frozen=True)
class Conflict:
    """One fact for which several targets are wanted.

    Attributes:
        subject: as first written.
        about: the relation, or the prompt where the relation is unknown.
        targets: each with the labels of the cases that want it.
    """

    subject: str
    about: str
    targets: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a source.

    Attributes:
        form: the records' form, and `options` it was read with.
        cases, tasks: the edits, or items of another task, in the source's order: a tuple, or a `Spool`.
        read: how many records the source has.
        usable: how many of them could have been taken.
        skipped: the others.
        notes: about the records that were taken.
        about: what identifies the source.
    """

    form: Form
    options: Mapping[str, str]
    about: Mapping[str, str]
    cases: Collection[EditCase] = ()
    tasks: Collection[Probe] = ()
    read: int = 0
    usable: int = 0
    skipped: tuple[Skip, ...] = ()
    notes: tuple[Note, ...] = ()

    @cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Facts for which the cases want several targets."""
        return conflicts(self.cases)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the cases, as plain data."""
        return {
            "form": self.form.name,
            "options": dict(self.options),
            "source": dict(self.about),
            "records": self.read,
            "usable": self.usable,
            "cases": len(self.cases),
            "tasks": len(self.tasks),
            "skipped": dict(Counter(skip.reason for skip in self.skipped)),
            "noted": dict(Counter(note.name for note in self.notes)),
            "conflicts": [asdict(conflict) for conflict in self.conflicts],
            "subjects_edited_more_than_once": repeated_subjects(self.cases),
            "skipped_records": [asdict(skip) for skip in self.skipped],
            "notes": [asdict(note) for note in self.notes],
        }


def import_records(
    source: Source,
    *,
    form: str | None = None,
    options: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    on_disk: bool = False,
) -> Imported:
    """Translate the records of a source.

    Without `limit` the source is read once. With it, it is read twice: of the first reading no more is kept than an id
    of each record. What is taken is held in memory, or in a temporary file.

    Args:
        source: the records.
        form: the name of their form; by default it is told by the first record's keys.
        options: of the form, e.g. {"target": "answers"}.
        limit: take a sample of so many records, balanced by relation or number of hops where records have them.
        seed: of the sample.
        skip_bad: leave out records that cannot be used, and count them, instead of stopping at the first.
        on_disk: keep what is taken in a temporary file, so that memory holds one record, whatever their number.

    Raises: ConfigurationError: no form or several fit, the form or an option is unknown, or nothing is left.
        InvalidEdit: the file cannot be read. MalformedRecord: a record cannot be used, and `skip_bad` is false; or
        the file is damaged, which ends an import in any case.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit is a number of records from 1 on, not {limit}.")
    chosen = form_named(form) if form is not None else _detected(source)
    reading = _Reading(source, chosen, _options(chosen, options or {}), skip_bad)
    cases: list[EditCase] | Spool[EditCase] = Spool(case_record, case_from) if on_disk else []
    tasks: list[Probe] | Spool[Probe] = Spool(probe_record, _task_from) if on_disk else []
    places: frozenset[int] | None = None
    usable, kept = 0, reading
    if limit is not None:
        known = [(record.stratum, name) for name, record in reading.records()]
        usable, places = len(known), sample(known, limit, seed) if known else frozenset()
        kept = replace(reading, skip_bad=True, skipped=[], notes=[])
    for place, (_, record) in enumerate(kept.records(places)):
        if places is None or place in places:
            cases.extend(record.cases)
            tasks.extend(record.tasks)
        usable += places is None
    if not usable:
        told = f", {len(reading.skipped)} of {reading.read} were left out: {_counted(reading.skipped)}"
        raise ConfigurationError(f"{source.name} has no record to import{told if reading.skipped else ''}.")
    return Imported(
        form=chosen,
        options=reading.options,
        about=source.about,
        cases=cases if isinstance(cases, Spool) else tuple(cases),
        tasks=tasks if isinstance(tasks, Spool) else tuple(tasks),
        read=reading.read,
        usable=usable,
        skipped=tuple(reading.skipped),
        notes=tuple(kept.notes),
    )


def conflicts(cases: Collection[EditCase]) -> tuple[Conflict, ...]:
    """Facts (subject, and relation or prompt) for which several targets are wanted, in the order of their mention."""
    first: dict[tuple[str, str], str] = {}
    contested = {
        case.request.fact_key
        for case in cases
        if first.setdefault(case.request.fact_key, case.request.target.strip()) != case.request.target.strip()
    }
    facts: dict[tuple[str, str], tuple[EditRequest, dict[str, list[str]]]] = {}
    for case in cases if contested else ():
        if case.request.fact_key in contested:
            _, targets = facts.setdefault(case.request.fact_key, (case.request, {}))
            targets.setdefault(case.request.target.strip(), []).append(case.label or case.id)
    return tuple(
        Conflict(request.subject, request.relation or request.prompt, {name: tuple(by) for name, by in targets.items()})
        for request, targets in facts.values()
    )


def repeated_subjects(cases: Iterable[EditCase]) -> dict[str, int]:
    """Subjects of several edits: where relations are unknown, these may contradict each other in other words."""
    count = Counter(case.request.subject for case in cases)
    return {subject: edits for subject, edits in count.items() if edits > 1}


@dataclass
class _Reading:
    """One pass over a source; what was read, skipped and noted is complete when it is through."""

    source: Source
    form: Form
    options: Mapping[str, str]
    skip_bad: bool
    read: int = 0
    skipped: list[Skip] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def records(self, noted: frozenset[int] | None = None) -> Iterator[tuple[str, Record]]:
        """Yield each usable record with its id; notes are kept of those at the places `noted`, by default of all."""
        self.read, place = 0, 0
        seen: set[str] = set()
        for position, raw in self.source.records():
            self.read += 1
            try:
                name, record, notes = self._translated(position, raw)
                if name in seen:
                    what = "id" if record.id is not None else "request"
                    raise UnusableRecord("duplicate_id", f"an earlier record has the same {what} ({name}).")
            except InvalidEdit as mistake:
                self._skip(position, mistake)
                continue
            seen.add(name)
            if noted is None or place in noted:
                self.notes += [Note(position, *note) for note in notes]
            place += 1
            yield name, record

    def _translated(self, position: str, raw: object) -> tuple[str, Record, list[tuple[str, str]]]:
        assert self.form.translate is not None
        fields = Fields(raw)
        record = self.form.translate(fields, **self.options)
        content = [case.id for case in record.cases] + [probe.id for probe in record.tasks]
        name = content_id("record", content) if record.id is None else record.id
        if not self.form.own:
            record = replace(record, cases=tuple(self._named(record, position, fields)))
        return name, record, fields.notes

    def _named(self, record: Record, position: str, fields: Fields) -> Iterator[EditCase]:
        """The cases with their label and origin; what has no place elsewhere stands with the first."""
        label = f"{self.form.name}/{position if record.id is None else record.id}"
        origin: dict[str, Any] = {"form": self.form.name, "id": record.id, "record": position, **self.source.about}
        if self.options:
            origin["options"] = dict(self.options)
        if self.form.gives == "instances":
            origin["instance"] = label
        kept = {"fields": rest} if (rest := fields.rest()) else {}
        several = len(record.cases) > 1
        for number, case in enumerate(record.cases, start=1):
            extra = kept if number == 1 else {}
            name = f"{label} ({number} of {len(record.cases)})" if several else label
            yield replace(case, label=name, origin={**origin, **extra})

    def _skip(self, position: str, mistake: InvalidEdit) -> None:
        """Count a record that cannot be used; without `skip_bad` it ends the import."""
        reason = mistake.reason if isinstance(mistake, UnusableRecord) else "malformed"
        if self.skip_bad:
            self.skipped.append(Skip(position, reason, str(mistake)))
            return
        shape = (
            f" The right shape: {json.dumps(self.form.example, ensure_ascii=False)}." if reason == "malformed" else ""
        )
        problem = f"{mistake}{shape} {SKIPPING}"
        raise MalformedRecord(self.source.name, position, problem, reason) from mistake


def _detected(source: Source) -> Form:
    for _, record in source.records():
        return form_of(record, source.name)
    raise ConfigurationError(f"{source.name} has no record.")


def _options(form: Form, given: Mapping[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if name not in form.options:
            raise ConfigurationError(f"the form {form.name} has no option {name!r}.")
        if value not in form.options[name]:
            raise ConfigurationError(f"{name} is one of {', '.join(form.options[name])}, not {value!r}.")
    return {name: given.get(name, values[0]) for name, values in form.options.items()}


def _task_from(record: object) -> Probe:
    return probe_from(record, "a probe")


def _counted(skipped: Iterable[Skip]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(skip.reason for skip in skipped).most_common())
