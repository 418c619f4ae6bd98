"""Which share of what edits brought, and of what they left alone, is left after what happens to a model before use.

OMP_NUM_THREADS=1 python benchmarks/survival.py
python benchmarks/survival.py --methods rome --fates int4 torchao-int4 --edits 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, Final

from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.measurements import Measurement, ModelUnderTest
from editguard.methods import registry
from editguard.models import load_model
from editguard.probes.materials import preparation_for
from editguard.probes.pocket import pocket_cases, pocket_texts
from editguard.release.further_training import FurtherTraining
from editguard.release.survival import FATES, Fate, aged, named_fate

STRONGER: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "fine-tuning x10": ("fine-tuning", {"learning_rate": 5e-4}),
    "lora-merge x10": ("lora-merge", {"learning_rate": 2e-3}),
}
"""The trainings at ten times their learning rate."""
PROPERTIES: Final = ("reliability", "generalization", "locality")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="an embedded model, whose world the questions are about")
    parser.add_argument("--methods", nargs="+", default=["ft-l", "rome", "memit", "grace"])
    parser.add_argument("--fates", nargs="+", default=[*FATES, *STRONGER])
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the edits")
    options = parser.parse_args(arguments)
    model = load_model(options.model, device="cpu", dtype="float32")
    cases = pocket_cases(options.edits, options.seed, neighbours=2)
    requests = [case.request for case in cases]
    subjects = {request.subject for request in requests}
    texts = [text for text in pocket_texts(count=400) if not any(subject in text for subject in subjects)][:240]
    rest = EditedModel.original(model)

    def fate_of(name: str) -> Fate:
        plain, more = STRONGER.get(name, (name, {}))
        return named_fate(plain, otherwise=texts, **more)

    def asked(edited: EditedModel, base: ModelUnderTest) -> list[Measurement]:
        under_test = ModelUnderTest(edited, original=base, cases=cases, method="any", mode="batch")
        return [getattr(under_test, name)() for name in PROPERTIES]

    bases = {name: ModelUnderTest(aged(rest, fate_of(name))) for name in options.fates}
    for fate in (each for name in options.fates if isinstance(each := fate_of(name), FurtherTraining)):
        with rest:
            before = float(sum(loss().item() for loss in fate.losses(model))) / fate.steps
        start = time.perf_counter()
        after = aged(rest, fate)
        seconds = time.perf_counter() - start
        with after:
            left = float(sum(loss().item() for loss in fate.losses(model))) / fate.steps
        print(f"{fate.label}: {before:.3f} to {left:.3f} nats per token on its text, unedited model, {seconds:.1f} s")
    for name in options.methods:
        start = time.perf_counter()
        method = registry.create(name, {}, model)
        if prepare := getattr(method, "prepare", None):
            files: dict[str, Any] = dict.fromkeys(("corpus", "demonstrations", "training", "cache_dir"))
            prepare(model, preparation_for(options.model, requests, **files, seed=0, on_progress=lambda _: None))
        edited = method.apply(rest, requests)
        plain = asked(edited, ModelUnderTest(rest))
        counts = ", ".join(f"{one.n} of {one.name}" for one in plain)
        rows: list[list[str]] = [["nothing", *(f"{one.mean:.2f}" for one in plain)]]
        for fate in options.fates:
            found = asked(aged(edited, fate_of(fate)), bases[fate])
            rows.append([fate, *(survived(*pair) for pair in zip(plain, found, strict=True))])
        print(f"\n{name}, {options.edits} edits, probes: {counts}; {time.perf_counter() - start:.0f} s")
        print(tabulate(rows, headers=["after", *PROPERTIES], disable_numparse=True), flush=True)


def survived(before: Measurement, after: Measurement) -> str:
    """The mean, and of the probes that held before the share that still does."""
    left = {value.probe: value.value for value in after.values}
    held = [left.get(value.probe) or 0.0 for value in before.valid if value.value]
    return f"{after.mean:.2f} ({100 * sum(held) / len(held):.0f} %)" if held else f"{after.mean:.2f}"


if __name__ == "__main__":
    main()
