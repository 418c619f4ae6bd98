"""`editguard study`: the command around `run`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Final

from editguard.device_map import chosen_devices
from editguard.errors import ConfigurationError
from editguard.pocket import MODEL_NAME, MODEL_NAMES
from editguard.study import side_by_side
from editguard.study.engines import refuse_engine
from editguard.study.folder import StudyFolder
from editguard.study.grid import studies
from editguard.study.parquet import require_pyarrow, write_parquet
from editguard.study.plan import Plan
from editguard.study.results import Results, read_results
from editguard.study.summary import Row, summarised, write_summary
from editguard.study.table import markdown, terminal

if TYPE_CHECKING:
    from editguard.edits import EditCase, Probe
    from editguard.study.forecast import Forecast
    from editguard.study.running import Materials
    from editguard.study.worker import Place, Setup

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""
_ENDLESS: Final = 10_000
EVERY: Final = 10.0
"""Seconds between two lines about the progress."""


def execute(
    options: argparse.Namespace,
    *,
    command: Sequence[str] | None = None,
    also: Callable[[StudyFolder, Sequence[Row]], None] | None = None,
    beside: Callable[[Path, Sequence[Results]], None] | None = None,
) -> int:
    """Run the command: a study of each model with each data set, one after another; returns its exit status.

    Args:
        options: as parsed.
        command: what was typed, for the hint after an interruption; the process's own by default.
        also: writes further files about a study, once its summary is there.
        beside: writes files about several studies into the folder that holds theirs.

    Raises: EditguardError: a mistake of the user's.
    """
    each = studies(options)
    for one in each:
        if len(each) > 1:
            print(f"\n{one.out.name}\n{'=' * len(one.out.name)}")
        status = _study(one, command, also)
        if status:
            return status
    if len(each) > 1 and not options.plan:
        found = [read_results(one.out) for one in each]
        if beside is not None:
            beside(options.out, found)
        print(side_by_side.terminal(side_by_side.side_by_side(found), get_terminal_size((_ENDLESS, 24)).columns))
    return 0


def _study(
    options: argparse.Namespace,
    command: Sequence[str] | None,
    also: Callable[[StudyFolder, Sequence[Row]], None] | None,
) -> int:
    """One study; returns an exit status."""
    folder = StudyFolder(options.out)
    if not options.table:
        refuse_engine(options)
    if options.plan:
        print(_forecast(options, folder, *_planned(options)).text())
        return 0
    if options.parquet:
        require_pyarrow()
    if not options.table:
        typed = shlex.join(command or ["editguard", *sys.argv[1:]])
        try:
            _run(options, folder)
        except KeyboardInterrupt:
            print(f"editguard: stopped; all complete parts are kept. Go on with: {typed}", file=sys.stderr)
            return INTERRUPTED
    rows = summarised(folder)
    write_summary(folder, rows, markdown(folder, rows))
    if options.parquet:
        write_parquet(folder)
    if also is not None:
        also(folder, rows)
    print(terminal(folder, rows))
    return 0


def _run(options: argparse.Namespace, folder: StudyFolder) -> None:
    chosen_devices(options)  # what they say wrong is said before anything is read
    plan, cases = _planned(options)
    told = _Printer()
    told(_forecast(options, folder, plan, cases).short(), now=True)

    if options.engine == "local" and options.workers in (None, 1):
        from editguard.study.running import run
        from editguard.study.worker import Place

        told(f"loading {options.model}", now=True)
        place = Place(threads=options.threads)
        place.use_threads()
        setup = set_up(options, place)
        run(setup.plan, setup.model, setup.cases, folder, materials=setup.materials, told=told)
    else:
        from editguard.study.engines import run_engine

        run_engine(options, set_up, plan, cases, folder, told)


def set_up(options: argparse.Namespace, place: Place) -> Setup:
    """What a study is run with, the same in every process; each has its own of several GPUs."""
    from editguard.models.loading import load_model
    from editguard.study.worker import Setup

    plan, cases = _planned(options)
    devices = chosen_devices(options)
    if "device" in devices:
        devices["device"] = place.device(devices["device"])
    model = load_model(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        batch_size=options.batch_size,
        offline=options.offline,
        **devices,
    )
    return Setup(plan, model, cases, _materials(options, cases))


def _planned(options: argparse.Namespace) -> tuple[Plan, tuple[EditCase, ...]]:
    """What the options ask for, and the data set.

    Raises: ConfigurationError: nothing to do, too few cases, or a setting of another form. UnknownMethod: no such
        method. InvalidEdit, MalformedRecord: see `load_cases`.
    """
    from editguard.methods.registry import default_methods, methods

    chosen: list[str] = []
    for name in options.methods:
        chosen += {"default": default_methods(), "all": tuple(methods())}.get(name, (name,))
    plan = Plan(
        methods=tuple(chosen),
        single=options.single,
        batches=options.batch,
        sequences=options.sequence,
        orders=options.orders,
        settings=_settings(options.settings),
        seed=options.seed,
        second_moment_tokens=options.tokens,
    )
    cases = _cases(options, plan.most)
    plan.refuse_too_few(cases)
    return plan, cases


def _forecast(options: argparse.Namespace, folder: StudyFolder, plan: Plan, cases: Sequence[EditCase]) -> Forecast:
    """What the plan comes to, by the costs of this folder and of the one that the options name.

    Raises: ConfigurationError: the folder holds a study of other cases, or the named one holds no costs.
    """
    from editguard.study.forecast import forecast
    from editguard.study.running import digest_of_cases

    measured = [folder]
    if options.costs is not None:
        measured.append(StudyFolder(options.costs))
        if not measured[-1].costs():
            raise ConfigurationError(
                f"{options.costs} holds no costs.jsonl: --costs names the folder of a study that has run."
            )
    folder.refuse_other_data(len(cases), digest_of_cases(cases))
    return forecast(plan, cases, folder, tasks=_tasks(options), measured=measured, workers=options.workers or 1)


def _tasks(options: argparse.Namespace) -> Sequence[Probe]:
    """Items of other tasks, which the embedded models' world has."""
    if not _of_the_world(options):
        return ()
    from editguard.probes.pocket import pocket_tasks

    return pocket_tasks()


def _cases(options: argparse.Namespace, needed: int) -> tuple[EditCase, ...]:
    """The data set: a file's cases, or those of the embedded models' world.

    Raises: ConfigurationError: the model has no cases of its own. InvalidEdit, MalformedRecord: see `load_cases`.
    """
    if options.limit is not None and options.limit < needed:
        raise ConfigurationError(f"--limit {options.limit} leaves too few cases: the study needs {needed}.")
    if options.cases is not None and not _of_the_world(options):
        from editguard.datasets.jsonl import load_cases

        return load_cases(options.cases)[: options.limit]
    if not _of_the_world(options):
        raise ConfigurationError(f"give the edit cases of {options.model} with --cases FILE, one JSON object per line.")
    from editguard.probes.pocket import INVERTIBLE, PEOPLE_RELATIONS, pocket_cases

    return pocket_cases(options.limit or needed, options.seed, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))


def _materials(options: argparse.Namespace, cases: Sequence[EditCase]) -> Materials:
    """What methods prepare from: the embedded models' texts, demonstrations, tasks and training cases, or files.

    Raises: ConfigurationError: a file cannot be read, or training cases share a subject with the evaluated ones.
    """
    from editguard.methods.materials import Lines, OnDemand, apart, read_demonstrations
    from editguard.study.running import Materials

    found: dict[str, Any] = {
        "cache_dir": options.cache_dir,
        "keeps_prompts": options.keep_prompts,
        "tasks": _tasks(options),
    }
    if options.cache_dir is None:
        from platformdirs import user_cache_path

        found["cache_dir"] = user_cache_path("editguard")
    subjects = [case.request.subject for case in cases]
    if _of_the_world(options):
        from editguard.probes import pocket

        found["texts"] = OnDemand(pocket.pocket_texts)
        found["demonstrations"] = pocket.pocket_demonstrations(exclude=set(subjects))
        found["training"] = OnDemand(
            lambda: apart(pocket.pocket_training_cases(), subjects, otherwise=pocket.KEEP_APART)
        )
    if options.corpus is not None:
        if not options.corpus.is_file():
            raise ConfigurationError(f"there is no file {options.corpus}: --corpus names running text.")
        found["texts"] = Lines(options.corpus)
    if options.demonstrations is not None:
        found["demonstrations"] = read_demonstrations(options.demonstrations)
    if options.training is not None:
        from editguard.datasets.jsonl import load_cases

        found["training"] = apart(load_cases(options.training), subjects)
    return Materials(**found)


def _of_the_world(options: argparse.Namespace) -> bool:
    """Whether the cases are those of the embedded models' world: for these models, and for others that know it."""
    return options.cases == Path(MODEL_NAME) or (options.cases is None and options.model in MODEL_NAMES)


def _settings(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """From "rome.layer=3" to {"rome": {"layer": "3"}}.

    Raises: ConfigurationError: the form is another.
    """
    found: dict[str, dict[str, str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        method, dot, setting = name.rpartition(".")
        if not (equals and dot and method and setting):
            raise ConfigurationError(f"--set takes METHOD.NAME=VALUE, for example rome.layer=3, not {text!r}.")
        found.setdefault(method, {})[setting] = value
    return found


class _Printer:
    """Lines about the progress on stderr, not more often than every few seconds; warnings and failures at once."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._warned: set[str] = set()

    def __call__(self, line: str, *, now: bool = False) -> None:
        if line.startswith("warning:"):
            if line in self._warned:
                return
            self._warned.add(line)
            now = True
        if now or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            print(f"editguard study: {line}", file=sys.stderr, flush=True)
