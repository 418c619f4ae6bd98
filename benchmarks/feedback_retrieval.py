"""Which remembered question MemPrompt finds: hits in scope and out of scope, for each way to look and each threshold.

    python benchmarks/feedback_retrieval.py --edits 60

All edits are in one memory; no model answers. "right" is the share of rephrases, of questions and of the requests' own
prompts that are above the threshold and meet their own edit; "false" the share of prompts about other relations of the
same subject, other people with its name, and other subjects, that are above it. The rule for the default is the largest
mean of right (all rephrases and questions) and 1 - false.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import mean

from tabulate import tabulate

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edited.searching import Encoder
from editguard.edits.asked import asked
from editguard.methods.edit_distance import EditDistanceEncoder
from editguard.methods.mem_prompt import by_question
from editguard.methods.retrieval import encoder
from editguard.models import load_model
from editguard.probes.pocket import pocket_cases

VALIDATION_SEED = 1_000
IN_SCOPE = ("request", "rephrase", "trained_rephrase", "question")
OUT_OF_SCOPE = ("other_relation", "name_neighbour", "neighbourhood")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--ways", nargs="+", default=["closest", "tf-idf", "mean-pooled"])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    options = parser.parse_args()
    cases = pocket_cases(options.edits, seed=VALIDATION_SEED)
    memory = EditMemory([MemoryRow.of(case.request) for case in cases])
    prompts = [(case, "request", case.request.text) for case in cases]
    prompts += [
        (case, probe.kind, probe.prompt)
        for case in cases
        for probe in case.probes
        if probe.kind in (*IN_SCOPE, *OUT_OF_SCOPE)
    ]
    rows = []
    for way in options.ways:
        nearness: Encoder = EditDistanceEncoder() if way == "closest" else encoder(way, load_model("pocket"))
        found = memory.nearest(Search(nearness, by_question), [asked(prompt).text for _, _, prompt in prompts])
        for threshold in options.thresholds:
            marks = defaultdict(list)
            for (case, kind, _), [(row, similarity)] in zip(prompts, found, strict=True):
                above = similarity > threshold
                marks[kind].append(above and (kind in OUT_OF_SCOPE or row.id == case.request.id))
            shares = {kind: mean(marks[kind]) for kind in (*IN_SCOPE, *OUT_OF_SCOPE)}
            right = mean(mark for kind in IN_SCOPE[1:] for mark in marks[kind])
            false = mean(mark for kind in OUT_OF_SCOPE for mark in marks[kind])
            rows.append([way, threshold, *shares.values(), right, false, (right + 1 - false) / 2])
    headers = ["way", "above", *IN_SCOPE, *OUT_OF_SCOPE, "right", "false", "mean"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
