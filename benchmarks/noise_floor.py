"""By how much measurements differ when the same edited model is asked again: the noise floor of each property.

python benchmarks/noise_floor.py
python benchmarks/noise_floor.py --model pocket-t5 --dtypes float32 bfloat16 --method calinet
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.measurements import ModelUnderTest, noise_floors
from editguard.methods import registry
from editguard.models import load_model
from editguard.probes.pocket import pocket_cases, pocket_tasks


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="an embedded model, whose world the questions are about")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--method", default="ft-l", help="one that needs no preparation")
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for dtype in options.dtypes:
        model = load_model(options.model, dtype=dtype, batch_size=options.batch_size)
        unedited = EditedModel.original(model)
        cases = pocket_cases(options.edits, seed=0, neighbours=5)
        method = registry.create(options.method, {}, model)
        edited = method.apply(unedited, [case.request for case in cases])
        under_test = ModelUnderTest(
            edited,
            original=ModelUnderTest(unedited),
            cases=cases,
            method=options.method,
            mode="batch",
            tasks=pocket_tasks(10),
        )
        start = time.perf_counter()
        rows: list[list[object]] = []
        for name, floor in noise_floors(under_test).items():
            flips = [f"{repeat.variant}: {repeat.flips}" for repeat in floor.repeats]
            rows.append([name, floor.cases, floor.flips, f"{floor.difference:.3f}", ", ".join(flips)])
        print(f"\n{dtype}, {time.perf_counter() - start:.0f} s")
        print(tabulate(rows, headers=["property", "cases", "most flips", "floor", "by comparison"]), flush=True)


if __name__ == "__main__":
    main()
