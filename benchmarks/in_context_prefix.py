"""How much of IKE's evaluation is saved by reading what the prompts of one edit begin with once.

All probes of a case of the pocket's world are answered and scored through IKE, with the keys and values of the prompts'
common beginnings shared and with every prompt read anew. Both ways alternate; medians and their ratio are printed, and
answers and scores are compared.

    python benchmarks/in_context_prefix.py [--cases 3] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from tabulate import tabulate

from editguard.edited import EditedModel
from editguard.edits import PROPERTIES, EditCase
from editguard.methods import Preparation, create
from editguard.models import language_model, load_model
from editguard.probes import probes_of
from editguard.probes.pocket import pocket_cases, pocket_demonstrations

Found = tuple[list[tuple[int, ...]], list[tuple[float, ...]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    cases = pocket_cases(options.cases)
    method = create("ike", {}, model)
    method.prepare(model, Preparation(demonstrations=pocket_demonstrations(exclude={c.request.subject for c in cases})))

    shared_tokens = language_model.SHARED_TOKENS
    rows, ratios, same, gap, asked = [], [], 0, 0.0, 0
    for case in cases:
        edited = method.apply(EditedModel.original(model), [case.request])
        prompts = questions(case)
        edited.consult(prompts)  # written once in any case
        seconds: dict[str, list[float]] = {"shared": [], "anew": []}
        found: dict[str, Found] = {}
        for _ in range(options.rounds):
            for way, least in (("shared", shared_tokens), ("anew", 1 << 30)):
                language_model.SHARED_TOKENS = least
                start = time.perf_counter()
                found[way] = evaluated(edited, case, prompts)
                seconds[way].append(time.perf_counter() - start)
        once, anew = (statistics.median(seconds[way]) for way in ("shared", "anew"))
        ratios.append(anew / once)
        rows.append([case.label, len(prompts), once, anew, ratios[-1]])
        (answers, scores), (other_answers, other_scores) = found["shared"], found["anew"]
        same += sum(one == other for one, other in zip(answers, other_answers, strict=True))
        asked += len(prompts)
        gaps = [
            abs(a - b) for one, other in zip(scores, other_scores, strict=True) for a, b in zip(one, other, strict=True)
        ]
        gap = max(gap, *gaps)
    print(tabulate(rows, headers=["edit", "prompts", "shared (s)", "anew (s)", "times"], floatfmt=".2f"))
    print(f"median {statistics.median(ratios):.1f}x; {same} of {asked} answers equal; largest gap of a log p {gap:.1e}")


def questions(case: EditCase) -> list[str]:
    """The prompts of all of a case's probes."""
    return list(dict.fromkeys(probe.prompt for name in PROPERTIES for probe in probes_of(case, name)))


def evaluated(edited: EditedModel, case: EditCase, prompts: Sequence[str]) -> Found:
    """The answers' tokens, and the log probabilities of the target after every prompt."""
    answers = [answer.token_ids for answer in edited.generate(prompts)]
    scores = edited.score([(prompt, case.request.target) for prompt in prompts])
    return answers, [score.log_probs for score in scores]


if __name__ == "__main__":
    main()
