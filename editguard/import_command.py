"""`editguard import`: a published data set becomes a suite that runs at once, and a file of edit cases."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard.errors import ConfigurationError
from editguard.storage import write_atomically

if TYPE_CHECKING:
    from editguard.datasets.importing import Imported
    from editguard.edits import EditCase, Property

CHECKPOINTS: Final = (1, 10, 100, 1_000)
SHOWN: Final = 10
"""Records that are listed on the terminal; the file beside the cases lists all."""
ASKED: Final[tuple[Property, ...]] = ("generalization", "portability", "locality", "other_tasks")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "import",
        help="make a suite of a published data set",
        description="Translate the records of a published data set into edit cases, and write a suite, the cases, and "
        "a record of what was imported and what was left out. The form of the records is told by their keys.",
    )
    parser.add_argument(
        "source", metavar="FILE", help="a file (.json, .jsonl, .csv), or hub:NAME of the Hugging Face hub"
    )
    parser.add_argument("--form", metavar="NAME", help="the form of the records, where it cannot be told by the keys")
    parser.add_argument("--out", type=Path, default=Path("suites"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--name", help="of the written files (default: that of the source)")
    parser.add_argument("--limit", type=int, metavar="N", help="take a sample of N records")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out, and list, records that cannot be used")
    parser.add_argument("--target", help="ZsRE: edit towards 'alt' (default; a falsehood) or 'answers' (the truth)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labels of multiple-choice items, one per line")
    parser.add_argument("--split", help="of a data set of the hub (default: train)")
    parser.add_argument("--revision", help="of a data set of the hub")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace) -> str:
    """Import as the options say; returns what to print.

    Raises: ConfigurationError: a wrong option, or a file that exists already. EditguardError: see `import_records`.
        Nothing is written then.
    """
    from editguard.datasets.importing import import_records
    from editguard.datasets.source import source_of

    source = source_of(options.source, labels=options.labels, split=options.split, revision=options.revision)
    name = _file_name(options.name or source.stem)
    suite = options.out / f"test_{name}.py"
    data = options.out / "cases" / f"{name}.jsonl"
    record = options.out / "cases" / f"{name}.import.json"
    _refuse_existing((suite, data, record), force=options.force)
    imported = import_records(
        source,
        form=options.form,
        options={} if options.target is None else {"target": options.target},
        limit=options.limit,
        seed=options.seed,
        skip_bad=options.skip_bad,
        on_disk=True,
    )
    text = suite_for(imported, f"cases/{data.name}", limit=options.limit, seed=options.seed)
    _write_data(imported, data)
    told = {**imported.as_dict(), "limit": options.limit, "seed": options.seed}
    write_atomically(record, json.dumps(told, indent=1, ensure_ascii=False) + "\n", error=ConfigurationError)
    write_atomically(suite, text, error=ConfigurationError)
    written = [f"wrote {path}" for path in (suite, data, record)]
    return "\n".join([*report(imported), *written, f"run it with: pytest {suite}"])


def suite_for(imported: Imported, data: str, *, limit: int | None, seed: int) -> str:
    """The text of the suite for what was imported; `data` is the file of cases as seen from the suite."""
    from editguard.datasets.suite_text import instances_suite, sequence_suite, tasks_suite

    title, about = f"Imported: {imported.form.title}", _about(imported, limit, seed)
    if imported.form.gives == "tasks":
        return tasks_suite(title=title, about=about, data=data)
    if imported.form.gives == "instances":
        from editguard.datasets.mquake import each_instance

        shared = list(ASKED)
        for group in each_instance(imported.cases):
            found = _kinds(group)
            shared = [property for property in shared if property in found]
        return instances_suite(title=title, about=about, data=data, properties=shared)
    return sequence_suite(
        title=title, about=about, data=data, kinds=_kinds(imported.cases), checkpoints=checkpoints(imported.cases)
    )


def checkpoints(cases: Collection[EditCase]) -> tuple[int, ...]:
    """Numbers of edits to look at: 1, 10, 100, 1000 and all, as far as every kind of probe can be asked there."""
    everything, start = _kinds(cases), list(islice(cases, CHECKPOINTS[-1]))
    return (*(point for point in CHECKPOINTS if point < len(cases) and _kinds(start[:point]) == everything), len(cases))


def report(imported: Imported) -> list[str]:
    """Lines for the terminal: what was taken, left out, changed, and what contradicts each other."""
    from editguard.datasets.form import NOTES, REASONS

    taken = f"{len(imported.tasks)} items" if imported.form.gives == "tasks" else f"{len(imported.cases)} edit cases"
    lines = [f"{imported.form.title}: {taken} of {imported.read} records, {imported.usable} of them usable"]
    if imported.form.warning:
        lines += textwrap.wrap(f"note: {imported.form.warning}", 110, subsequent_indent="  ")
    for name, count in Counter(skip.reason for skip in imported.skipped).most_common():
        lines.append(f"left out, {name}: {count} ({REASONS[name]})")
    lines += _listed([f"  record {skip.position}: {skip.problem}" for skip in imported.skipped])
    for name, count in Counter(note.name for note in imported.notes).most_common():
        lines.append(f"noted, {name}: {count} ({NOTES[name]})")
    found = imported.conflicts
    if found:
        lines.append(f"contradictory: {len(found)} facts have several targets; in a sequence the last one counts")
        lines += _listed([f"  {each.subject}, {each.about}: {', '.join(each.targets)}" for each in found])
    return lines


def _listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"  and {more} more, all in the .import.json file"] if more > 0 else [])]


def _kinds(cases: Iterable[EditCase]) -> Mapping[Property, list[str]]:
    """The kinds of probes that can be asked of the cases in force, by property."""
    from editguard.probes import probes_of

    of_fact: dict[tuple[str, str], frozenset[tuple[Property, str]]] = {}
    once: dict[frozenset[tuple[Property, str]], frozenset[tuple[Property, str]]] = {}
    for case in cases:  # a later case on the same fact takes the place of an earlier one
        found = frozenset((property, probe.kind) for property in ASKED for probe in probes_of(case, property))
        of_fact[case.request.fact_key] = once.setdefault(found, found)
    asked = {pair for pairs in set(of_fact.values()) for pair in pairs}
    every = {property: sorted(kind for of, kind in asked if of == property) for property in ASKED}
    return {property: kinds for property, kinds in every.items() if kinds}


def _about(imported: Imported, limit: int | None, seed: int) -> str:
    source = ", ".join(f"{name} {value}" for name, value in imported.about.items())
    options = "".join(f", --{name} {value}" for name, value in imported.options.items())
    sample = "" if limit is None else f", a sample of {limit} with seed {seed}"
    text = f"Source: {source}; form {imported.form.name}{options}{sample}."
    warning = imported.form.warning
    paragraphs = [text, *([f"{warning[0].upper()}{warning[1:]}"] if warning else [])]
    return "\n\n".join(textwrap.fill(each, 118, break_long_words=False) for each in paragraphs)


def _write_data(imported: Imported, path: Path) -> None:
    from editguard.datasets.spool import Spool

    taken = imported.tasks if imported.form.gives == "tasks" else imported.cases
    assert isinstance(taken, Spool)
    write_atomically(path, taken.lines(), error=ConfigurationError)


def _file_name(given: str) -> str:
    """The name in lower case, with an underscore for what a module's name cannot have.

    Raises: ConfigurationError: nothing is left of it.
    """
    name = re.sub(r"[^a-z0-9]+", "_", given.casefold().removesuffix(".py").removeprefix("test_")).strip("_")
    if not name:
        raise ConfigurationError(f"{given!r} names no file: give a name of letters and digits with --name.")
    return name


def _refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Raise ConfigurationError when a file to write exists and is not to be replaced."""
    for path in paths:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a directory; choose another --name or --out.")
        if path.exists() and not force:
            raise ConfigurationError(f"{path} exists already; nothing was written. Replace it with --force.")
