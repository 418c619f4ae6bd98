"""What SERAC answers with memories of several sizes, on edits that its networks have not seen.

For each kind of probe: the share of prompts that the classifier takes for in scope, and, of what an edit should change,
the share of right answers by real decoding. A prompt out of scope has the unedited model's answer, bit for bit, so that
for what should stay the share in scope is all that can be lost.

    python benchmarks/serac_scope.py
    python benchmarks/serac_scope.py --model pocket-t5 --editor FILE --sizes 1 10
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.edits import Probe
from editguard.measurements.matching import PASSING, judge_answer
from editguard.methods import Preparation, create
from editguard.models import load_model
from editguard.probes.pocket import pocket_cases, pocket_training_subjects


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket or pocket-t5")
    parser.add_argument("--editor", help="a file of trained networks (default: the model's own)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 10, 100, 500], help="edits in the memory; of 1 many single ones"
    )
    parser.add_argument("--asked", type=int, default=100, help="edits whose probes are asked, the first ones")
    parser.add_argument("--false-hits", type=float, help="choose the threshold by this share of false hits")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu")
    settings = {"editor": options.editor, "false_hits": options.false_hits}
    method: Any = create("serac", {name: value for name, value in settings.items() if value is not None}, model)
    method.prepare(model, Preparation())
    cases = pocket_cases(max(options.sizes), seed=5, exclude=pocket_training_subjects())

    table = []
    for size in options.sizes:
        groups = [[case] for case in cases[: options.asked]] if size == 1 else [cases[:size]]
        found: dict[str, list[tuple[bool, bool | None]]] = defaultdict(list)
        for group in groups:
            edited = method.apply(EditedModel.original(model), [case.request for case in group])
            for case in group[: options.asked]:
                own = Probe(
                    property="reliability", kind="request", prompt=case.request.text, answers=(case.request.target,)
                )
                for probe in (own, *case.probes):
                    [seen] = edited.consult([probe.prompt])
                    hit = seen.route == "in-scope"
                    right = None
                    if probe.property in ("reliability", "generalization"):
                        said = edited.generate([probe.prompt], max_new_tokens=12)[0].text if hit else ""
                        right = hit and judge_answer(said, probe.answers) in PASSING
                    found[f"{probe.property}/{probe.kind}"].append((hit, right))
        for kind, marks in sorted(found.items()):
            rights = [right for _, right in marks if right is not None]
            shares = [
                f"{sum(hit for hit, _ in marks) / len(marks):.3f}",
                f"{sum(rights) / len(rights):.3f}" if rights else "",
            ]
            table.append([size, kind, len(marks), *shares])
    print(tabulate(table, headers=["rows", "probe", "prompts", "in scope", "right"], disable_numparse=True))


if __name__ == "__main__":
    main()
