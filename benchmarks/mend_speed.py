"""A MEND edit against a ROME edit, in turns in one run; and what training MEND's editor takes, part by part.

    python benchmarks/mend_speed.py                                  # the pocket model, with the editor it comes with
    python benchmarks/mend_speed.py --model gpt-j-6b --device cuda --dtype bfloat16
    python benchmarks/mend_speed.py --model gpt-j-tiny --steps 4          # the same program, in seconds

`gpt-j-6b` is a model of that shape with random weights, whose settings are the published ones; its editor is trained
for a few steps (`--steps`), enough for its speed and its memory. MEND runs under its own name, KE as `--method ke`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from memit_speed import SHAPES, now, random_model
from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.methods import EditMethod, Preparation, create
from editguard.models import LanguageModel, load_model
from editguard.probes.pocket import pocket_cases, pocket_texts, pocket_training_cases

FEW_TOKENS = 2_000
"""Of the second moment that ROME takes on a model of random weights; its figures are worth nothing there anyway."""


def trained(model: LanguageModel, method: str, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train an editor for some steps, and return its record."""
    short = {"validate_every": steps, "validation_edits": 10, "steps": steps}
    job: Any = create(method, {**settings, **short}, model)
    with tempfile.TemporaryDirectory() as folder:
        job.train(model, Preparation(training=pocket_training_cases(200), on_progress=print), Path(folder))
        record: dict[str, Any] = json.loads((Path(folder) / f"{method}.json").read_text())
    return {**record, "prepared": job, "edits_per_step": job.settings.edits_per_step}


def seconds_of(method: EditMethod, model: LanguageModel, edits: Sequence[Any]) -> list[float]:
    """Seconds of each edit alone on the unedited model, put in force."""
    spent = []
    for case in edits:
        rest = EditedModel.original(model)
        rest.activate()
        started = now()
        method.apply(rest, [case.request]).activate()
        spent.append(now() - started)
    EditedModel.original(model).activate()
    return spent


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help=f"pocket, a directory, a hub name, or {', '.join(SHAPES)}")
    parser.add_argument("--method", default="mend", choices=("mend", "ke"))
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs, in turns; medians are printed")
    parser.add_argument("--steps", type=int, default=10, help="of the training that is measured")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    random = options.model in SHAPES
    if random:
        dtype: torch.dtype = getattr(torch, options.dtype)
        model = random_model(SHAPES[options.model], "cpu" if device == "auto" else device, dtype)
    else:
        model = load_model(options.model, device=device, dtype=options.dtype)
    settings = dict(pair.split("=", 1) for pair in options.settings)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    record = trained(model, options.method, options.steps, settings)
    whole = time.perf_counter() - started
    rome = create("rome", {}, model)
    rome.prepare(model, Preparation(texts=pocket_texts(), second_moment_tokens=FEW_TOKENS if random else None))
    ours: EditMethod = record["prepared"]
    if not random and not settings:
        ours = create(options.method, {}, model)
        ours.prepare(model, Preparation(training=pocket_training_cases()))

    cases = pocket_cases(options.edits, seed=7)
    spent: dict[str, list[float]] = {"rome": [], options.method: []}
    for _ in range(options.rounds):
        for name, method in (("rome", rome), (options.method, ours)):
            spent[name] += seconds_of(method, model, cases)
    medians = {name: statistics.median(each) for name, each in spent.items()}
    print(
        f"{model.name}: {options.edits} edits in {options.rounds} rounds, {model.device}, {model.dtype}, "
        f"{torch.get_num_threads()} threads"
    )
    rows = [
        [name, f"{medians[name]:.3f}", f"{min(each):.3f} to {max(each):.3f}", f"{medians['rome'] / medians[name]:.1f}"]
        for name, each in spent.items()
    ]
    print(tabulate(rows, headers=["edit by", "seconds (median)", "range", "times faster"], disable_numparse=True))
    edits = record["steps"] * record["edits_per_step"]
    print(f"training: {edits} edits, validation included, in {record['seconds']:.1f} s of {whole:.1f} s")
    print(tabulate([[part, f"{size / 2**20:.1f}"] for part, size in record["memory_bytes"].items()], ["part", "MiB"]))


if __name__ == "__main__":
    main()
