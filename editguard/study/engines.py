"""Who carries out a study when it is not the command's own process: more processes here, or a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from editguard.errors import ConfigurationError
from editguard.pocket import MODEL_NAME, MODEL_NAMES
from editguard.study.folder import StudyFolder
from editguard.study.plan import Plan

if TYPE_CHECKING:
    from editguard.edits import EditCase
    from editguard.study.worker import Place, Setup

_PATHS = ("cases", "corpus", "demonstrations", "training", "cache_dir")


def refuse_engine(options: argparse.Namespace) -> None:
    """See that the options about processes go together.

    Raises: ConfigurationError: they do not, or Ray is wanted and missing.
    """
    for name in ("workers", "threads"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ConfigurationError(f"--{name} takes a number from 1 on, not {number}.")
    if options.gpus_per_worker is not None:
        gpus = options.gpus_per_worker
        if not 0 <= gpus < float("inf") or (gpus > 1 and gpus % 1):
            raise ConfigurationError(f"--gpus-per-worker takes a fraction of 1 or a whole number, not {gpus:g}.")
    if options.engine == "ray":
        from editguard.study.ray_crew import require_ray

        require_ray()
        return
    for name in ("ray_address", "gpus_per_worker"):
        if getattr(options, name) is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} is of --engine ray.")


def run_engine(
    options: argparse.Namespace,
    set_up: Callable[[argparse.Namespace, Place], Setup],
    plan: Plan,
    cases: Sequence[EditCase],
    folder: StudyFolder,
    told: Callable[[str], None],
) -> None:
    """Carry out a plan in several processes.

    Args:
        options: of the command.
        set_up: makes model and data in each process, from the options alone.
        plan, cases, folder, told: see `run_shared`.

    Raises: EditguardError: see `run_shared`.
    """
    from editguard.study.sharing import run_shared

    if options.engine == "local":
        from editguard.study.local_crew import LocalCrew

        build = partial(set_up, options)
        local = LocalCrew(build, folder.path.resolve(), workers=options.workers, threads=options.threads)
        run_shared(local, plan, cases, folder, workers=options.workers, told=told)
        return

    from editguard.study.ray_crew import RayCrew

    gpus = 0.0 if options.device == "cpu" else options.gpus_per_worker
    build = partial(set_up, _wherever(options))
    crew = RayCrew(build, folder.path.resolve(), threads=options.threads or 1, gpus=gpus)
    try:
        room = crew.connect(options.ray_address)
        run_shared(crew, plan, cases, folder, workers=options.workers or room, told=told)
    finally:
        crew.close()


def _wherever(options: argparse.Namespace) -> argparse.Namespace:
    """The same options for a process in another working directory."""
    found = argparse.Namespace(**vars(options))
    for name in _PATHS:
        path = getattr(found, name)
        if path is not None and path != Path(MODEL_NAME):
            setattr(found, name, path.resolve())
    if found.device_map is not None and Path(found.device_map).is_file():
        found.device_map = str(Path(found.device_map).resolve())
    if found.model not in MODEL_NAMES and Path(found.model).is_dir():
        found.model = str(Path(found.model).resolve())
    return found
