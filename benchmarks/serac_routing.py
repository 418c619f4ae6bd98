"""What SERAC's routing costs a prompt that no edit concerns: greedy answers and scores, with a memory and without.

Both ways take turns on the same prompts, each time with a fresh chain, which has decided nothing yet. Answers go on to
their last token whatever they say. Times are those of the processor: waiting for it does not count.

    python benchmarks/serac_routing.py
    python benchmarks/serac_routing.py --rows 100 --form cross-attention --editor FILE
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods import Preparation, create
from editguard.models import LanguageModel, StopRule, load_model
from editguard.probes.pocket import pocket_cases, pocket_texts

ENDLESS = StopRule(re.compile(r"(?!)"))
WARM = 4
"""Turns that are not counted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket, a directory, or a hub name")
    parser.add_argument("--editor", help="a file of trained networks (default: the model's own)")
    parser.add_argument("--form", default="embedding", help="of the classifier")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 10_000], help="edits in the memory")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--rounds", type=int, default=60, help="how often each way runs; medians are printed")
    parser.add_argument("--prompts", type=int, default=8, help="out-of-scope prompts, in turn one by one")
    parser.add_argument("--batch", type=int, default=32, help="pairs that are scored at once")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu")
    settings = {"form": options.form, **({"editor": options.editor} if options.editor else {})}
    method: Any = create("serac", settings, model)
    method.prepare(model, Preparation())

    table = []
    for rows in options.rows:
        started = time.perf_counter()
        edited = method.apply(EditedModel.original(model), requests(rows))
        applied = time.perf_counter() - started
        prompts = out_of_scope(edited, options.prompts + options.batch)
        single, many = prompts[: options.prompts], prompts[options.prompts :]
        pairs = [(prompt, "Oskar") for prompt in many]
        ways: list[tuple[str, Callable[[EditedModel, int], object]]] = [
            (
                f"answer, {options.tokens} tokens",
                lambda chain, turn, single=single: said(chain, single, turn, options.tokens),
            ),
            (
                "score of one pair",
                lambda chain, turn, single=single: chain.score([(single[turn % len(single)], "Oskar")]),
            ),
            (f"scores of {len(pairs)} pairs", lambda chain, _turn, pairs=pairs: chain.score(pairs)),
        ]
        for name, way in ways:
            plain, routed = taking_turns(model, edited, way, options.rounds)
            added = f"{100 * (routed / plain - 1):.1f} %"
            table.append([rows, f"{applied:.1f}", name, f"{1e3 * plain:.2f}", f"{1e3 * routed:.2f}", added])
    print(
        f"{model.name}, {model.dtype}, {options.form} form, {options.threads} threads, out of scope, medians of "
        f"{options.rounds}, seconds of the processor"
    )
    print(tabulate(table, headers=["rows", "apply (s)", "what", "without (ms)", "with memory (ms)", "added"]))


def requests(count: int) -> list[EditRequest]:
    """Edits about subjects that nobody asks about."""
    targets = ("Opelo Works", "Jetoro Labs", "Synium Works")
    return [
        EditRequest(prompt="{} works for", subject=f"Numbrek {number} Kolvost", target=targets[number % 3])
        for number in range(count)
    ]


def out_of_scope(edited: EditedModel, count: int) -> list[str]:
    """Prompts that the classifier takes for out of scope of every edit."""
    asked = [case.request.text for case in pocket_cases(4 * count, seed=3)]
    asked += [" ".join(text.split()[:8]) for text in pocket_texts(count=count)]
    found = [prompt for prompt, seen in zip(asked, edited.consult(asked), strict=True) if seen.route == "out-of-scope"]
    if len(found) < count:
        raise SystemExit(f"only {len(found)} of {len(asked)} prompts are out of scope.")
    return found[:count]


def said(chain: EditedModel, prompts: Sequence[str], turn: int, tokens: int) -> None:
    """One greedy answer."""
    chain.generate([prompts[turn % len(prompts)]], max_new_tokens=tokens, stop=ENDLESS)


def taking_turns(
    model: LanguageModel, edited: EditedModel, way: Callable[[EditedModel, int], object], rounds: int
) -> tuple[float, float]:
    """Median seconds without and with the memory; the first turns are not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + WARM):
        for edits, taken in zip(((), edited.edits), seconds, strict=True):
            chain = EditedModel(model, edits)
            started = time.process_time()
            way(chain, turn)
            taken.append(time.process_time() - started)
    return statistics.median(seconds[0][WARM:]), statistics.median(seconds[1][WARM:])


if __name__ == "__main__":
    main()
