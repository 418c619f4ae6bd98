"""Try editing layers, and other settings of a method, on validation edits, none of which a suite makes.

    python benchmarks/choose_settings.py rome --layers 0 1 2 3 4
    python benchmarks/choose_settings.py ft-l --layers 1 2 3 --settings norm_constraint=0.005,step_size=0.005
    python benchmarks/choose_settings.py memit --layers 0 0-1 0-2 --vary second_moment_weight=0.03,0.1,0.3,1

Prints reliability, rephrases, other subjects and other relations of the same subject, each edit alone. What a model's
own `editguard.toml` says was chosen from such a table; the rule is the largest harmonic mean of the four.
"""

from __future__ import annotations

import argparse
from statistics import harmonic_mean

from tabulate import tabulate
from tqdm import tqdm

from editguard.edited import EditedModel
from editguard.edits import EditCase
from editguard.errors import MethodRefused
from editguard.measurements import ModelUnderTest
from editguard.methods import Preparation, create
from editguard.models import LanguageModel, load_model
from editguard.probes.pocket import pocket_cases, pocket_demonstrations, pocket_texts

VALIDATION_SEED = 1_000


def measured(
    model: LanguageModel, method: str, settings: dict[str, object], cases: tuple[EditCase, ...]
) -> list[float]:
    """Mean over the edits of the four measures, in the order of the table."""
    editor = create(method, settings, model)
    subjects = {case.request.subject for case in cases}
    editor.prepare(model, Preparation(texts=pocket_texts(), demonstrations=pocket_demonstrations(exclude=subjects)))
    rest = EditedModel.original(model)
    original = ModelUnderTest(rest)
    sums = [0.0] * 4
    for case in tqdm(cases, leave=False):
        try:
            edited = editor.apply(rest, [case.request])
        except MethodRefused:
            continue
        after = ModelUnderTest(edited, original=original, cases=(case,), method=method)
        found = (
            after.reliability(),
            after.generalization(),
            after.locality(kind="neighbourhood"),
            after.locality(kind="other_relation"),
        )
        sums = [total + one.mean for total, one in zip(sums, found, strict=True)]
    return [total / len(cases) for total in sums]


def layer_settings(text: str) -> dict[str, object]:
    """The setting that "3" or, for methods that edit several layers, "0-2" stands for."""
    first, dash, last = text.partition("-")
    return {"layers": list(range(int(first), int(last) + 1))} if dash else {"layer": int(first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--layers", nargs="+", default=[""], metavar="N|N-N")
    parser.add_argument("--settings", default="", help="name=value, separated by commas")
    parser.add_argument("--vary", default="=", metavar="NAME=VALUE,VALUE", help="try each value of one more setting")
    parser.add_argument("--edits", type=int, default=20)
    options = parser.parse_args()
    extra = dict(pair.split("=") for pair in options.settings.split(",") if pair)
    name, _, varied = options.vary.partition("=")
    model = load_model("pocket")
    cases = pocket_cases(options.edits, seed=VALIDATION_SEED)
    rows = []
    for layers in options.layers:
        for value in varied.split(","):
            chosen = {**extra, **(layer_settings(layers) if layers else {}), **({name: value} if name else {})}
            means = measured(model, options.method, chosen, cases)
            rows.append([layers, value, *means, harmonic_mean(means)])
    headers = ["layers", name, "reliability", "rephrases", "other subjects", "same subject", "harmonic mean"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".2f", disable_numparse=[0, 1]))


if __name__ == "__main__":
    main()
