"""How much faster 1,000 probes are answered in batches than one by one, on the same model, in one run.

    python benchmarks/evaluation_batching.py [--model pocket] [--probes 1000] [--rounds 3]

The two ways alternate; the medians and their ratio are printed, and the answers are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from tabulate import tabulate

from editguard.models.language_model import LanguageModel
from editguard.models.loading import load_model
from editguard.pocket import default_world


def prompts(count: int) -> list[str]:
    """Questions about the first facts of the world, in all their trained wordings."""
    world = default_world()
    texts = (
        world.statement(template, fact.subject) for fact in world.facts for template in world.trained_templates(fact)
    )
    return [text for text, _ in zip(texts, range(count), strict=False)]


def answers(model: LanguageModel, texts: Sequence[str], batch_size: int) -> tuple[list[str], float]:
    """Answer all prompts; returns the answers and the seconds it took."""
    model.batch_size = batch_size
    start = time.perf_counter()
    found = [generation.text for generation in model.generate(texts)]
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    model = load_model(options.model)
    texts = prompts(options.probes)
    answers(model, texts[:8], 8)
    seconds: dict[str, list[float]] = {"one by one": [], f"batches of {options.batch_size}": []}
    for _ in range(options.rounds):
        alone, slow = answers(model, texts, 1)
        batched, fast = answers(model, texts, options.batch_size)
        for spent, value in zip(seconds.values(), (slow, fast), strict=True):
            spent.append(value)
    slow_median, fast_median = (statistics.median(spent) for spent in seconds.values())
    rows = [[name, statistics.median(spent), len(texts) / statistics.median(spent)] for name, spent in seconds.items()]
    print(tabulate(rows, headers=["way", "median seconds", "probes per second"], floatfmt=".2f"))
    same = sum(one == other for one, other in zip(alone, batched, strict=True))
    print(f"batched is {slow_median / fast_median:.1f}x faster; {same} of {len(texts)} answers are the same text")


if __name__ == "__main__":
    main()
