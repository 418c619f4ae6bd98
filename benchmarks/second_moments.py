"""Second moments of several layers: one pass over the text against one pass for each; and how few tokens suffice.

    python benchmarks/second_moments.py [--model pocket] [--layers 1 2 3 4 5] [--tokens 7680] [--rounds 3]
    python benchmarks/second_moments.py --suffice [--multiples 0.5 1 2 5 10 30] [--keys 20]

The first form lets both ways take turns in one process and compares their results. The second compares moments C_n of
n = multiple x d_ff tokens with that of the largest multiple, C_N: ||C_n - C_N|| / ||C_N||, and what an edit makes of
the difference, at a shrinkage as methods use it: the angle between C_n^-1 k and C_N^-1 k (ROME's direction), and how
much of the disturbance k'^T u of other keys k', which C^-1 is there to make small, is left over the smallest possible:
(u_n^T C_N u_n) / (u_N^T C_N u_N) - 1 for updates that map k alike, u = C^-1 k / (k^T C^-1 k). Keys k are those of
edits, at the last token of the subject.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import islice

import torch
from tabulate import tabulate
from torch import Tensor

from editguard.methods.keys import keys_and_outputs
from editguard.methods.value_optimisation import value_problem
from editguard.models import LanguageModel, load_model
from editguard.models.second_moment import Factor, SecondMoment, second_moments
from editguard.probes.pocket import pocket_cases, pocket_texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--layers", type=int, nargs="+", help="five from the first quarter on by default")
    parser.add_argument("--tokens", type=int, help="ten times d_ff by default")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs; medians are printed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--texts", help="text file, one document per line; the pocket world's sentences by default")
    parser.add_argument("--suffice", action="store_true", help="compare numbers of tokens instead")
    parser.add_argument("--multiples", type=float, nargs="+", default=[0.5, 1, 2, 5, 10, 30], help="of d_ff")
    parser.add_argument("--shrinkage", type=float, default=1e-4)
    parser.add_argument("--keys", type=int, default=20, help="edits whose keys are solved for")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    first = model.anatomy.layers // 4
    layers = options.layers or list(range(first, min(first + 5, model.anatomy.layers)))
    if options.texts:
        with open(options.texts, encoding="utf-8") as file:
            texts = [line.strip() for line in file if line.strip()]
    else:
        texts = pocket_texts(count=40_000 if options.suffice else 4_000)
    where = f"{model.name}, {model.device}, {model.dtype}, d_ff {model.anatomy.d_ff}, {options.threads} threads"
    if options.suffice:
        print(f"{where}; layer {layers[0]}, shrinkage {options.shrinkage:g}, medians over {options.keys} keys")
        print(sufficing(model, layers[0], texts, options.multiples, options.shrinkage, options.keys))
    else:
        tokens = options.tokens or 10 * model.anatomy.d_ff
        print(f"{where}; layers {layers}, {tokens} tokens, medians of {options.rounds}")
        print(passes(model, layers, texts, tokens, options.rounds))


def passes(model: LanguageModel, layers: Sequence[int], texts: Sequence[str], tokens: int, rounds: int) -> str:
    """One pass for all layers, and one for each, in turns."""
    seconds: dict[str, list[float]] = {"one pass": [], "one pass per layer": []}
    second_moments(model, layers, texts, tokens=min(tokens, 500))  # warm
    for _ in range(rounds):
        started = time.perf_counter()
        together = second_moments(model, layers, texts, tokens=tokens)
        _synchronise()
        between = time.perf_counter()
        apart = {layer: second_moments(model, [layer], texts, tokens=tokens)[layer] for layer in layers}
        _synchronise()
        for way, spent in zip(seconds, (between - started, time.perf_counter() - between), strict=True):
            seconds[way].append(spent)
    gap = max(_distance(together[layer], apart[layer]) for layer in layers)
    seen = together[layers[0]].tokens
    rows = [[way, statistics.median(spent), seen / statistics.median(spent)] for way, spent in seconds.items()]
    one, each = (statistics.median(spent) for spent in seconds.values())
    table = tabulate(rows, headers=["way", "median seconds", "tokens per second"], floatfmt=".2f")
    return f"{table}\none pass is {each / one:.2f}x faster; largest relative difference of the results {gap:.1e}"


def sufficing(
    model: LanguageModel,
    layer: int,
    texts: Sequence[str],
    multiples: Sequence[float],
    shrinkage: float,
    keys: int,
) -> str:
    """How far moments of few tokens are from the one of the most, and how far edits made with them."""
    wanted = [max(1, round(multiple * model.anatomy.d_ff)) for multiple in sorted(multiples)]
    moments = [second_moments(model, [layer], texts, tokens=tokens)[layer] for tokens in wanted]
    if moments[-1].tokens < wanted[-1]:
        print(f"the text has only {moments[-1].tokens} tokens; give more with --texts")
    best = moments[-1]
    asked = _keys(model, layer, keys)
    factor = best.cholesky(shrinkage)
    rows = []
    for multiple, moment in zip(sorted(multiples), moments, strict=True):
        mine = moment.cholesky(shrinkage)
        rows.append(
            [
                multiple,
                moment.tokens,
                f"{_distance(moment, best):.3g}",
                f"{statistics.median(_angle(mine.solve(key), factor.solve(key)) for key in asked):.3g}",
                f"{statistics.median(_excess(mine, factor, best.shrunk(shrinkage), key) for key in asked):.3g}",
                f"{moment.condition_number(shrinkage):.3g}",
                mine.jitter,
                moment.dead_units,
            ]
        )
    headers = ["x d_ff", "tokens", "relative error of C", "angle of u (degrees)", "excess disturbance"]
    return tabulate(rows, headers=[*headers, "condition number", "jitter", "dead units"], disable_numparse=True)


def _keys(model: LanguageModel, layer: int, count: int) -> list[Tensor]:
    """Keys of edits at the last token of their subjects, without a prefix."""
    matrix = model.anatomy.down_projection(layer)
    found = []
    for case in islice(pocket_cases(count), count):
        problem = value_problem(model, case.request, ("{}",))
        keys, _ = keys_and_outputs(model, matrix, problem.prompts)
        found.append(keys[0].double().cpu())
    return found


def _distance(one: SecondMoment, other: SecondMoment) -> float:
    return float((one.matrix - other.matrix).norm() / other.matrix.norm())


def _angle(one: Tensor, other: Tensor) -> float:
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).clamp(-1, 1)
    return float(torch.rad2deg(torch.acos(cosine)))


def _excess(mine: Factor, best: Factor, moment: Tensor, key: Tensor) -> float:
    """Disturbance of other keys by an update made with one factor, over that by one made with the best, minus 1."""

    def disturbance(factor: Factor) -> float:
        solved = factor.solve(key)
        direction = solved / (key @ solved)
        return float(direction @ moment @ direction)

    return disturbance(mine) / disturbance(best) - 1


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
