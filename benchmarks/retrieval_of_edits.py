"""Which encoder, and which text of an edit, finds the edit that a question of the pocket's world is about.

For memories of several sizes and kinds of probes: the share of questions of which the nearest row is the edit that they
were made for. Edits are drawn with `pocket_cases`, and the questions of the first ones are asked.

    python benchmarks/retrieval_of_edits.py
    python benchmarks/retrieval_of_edits.py --encoders tf-idf sentences:all-MiniLM-L6-v2 --sizes 10 100
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

import torch
from tabulate import tabulate

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edits import EditCase
from editguard.methods.in_context import SEARCHED_BY, nearest_edits
from editguard.methods.retrieval import encoder
from editguard.models import load_model
from editguard.probes import probes_of
from editguard.probes.pocket import INVERTIBLE, PEOPLE_RELATIONS, pocket_cases

KINDS = ("request", "rephrase", "question", "subject_replace", "reversed_relation", "one_hop")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="whose states mean-pooled texts have")
    parser.add_argument("--encoders", nargs="+", default=["tf-idf", "mean-pooled"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1_000], help="edits in the memory")
    parser.add_argument("--asked", type=int, default=300, help="most questions of each kind")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    cases = pocket_cases(max(options.sizes), seed=0, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))

    table = []
    for size in options.sizes:
        memory = EditMemory(MemoryRow.of(case.request) for case in cases[:size])
        asked = {kind: found[: options.asked] for kind, found in questions(cases[:size]).items()}
        for name in options.encoders:
            for searched_by, texts in SEARCHED_BY.items():
                searches = [Search(encoder(name, model), text) for text in texts]
                shares = [right(memory, searches, asked.get(kind, [])) for kind in KINDS]
                table.append([size, name, searched_by, *shares])
        table.append([size, "", "questions", *(len(asked.get(kind, [])) for kind in KINDS)])
    headers = ["edits", "encoder", "compared with", *KINDS]
    print(f"{model.name}: % of questions that find their edit")
    print(tabulate(table, headers=headers, floatfmt=".1f"))


def questions(cases: Sequence[EditCase]) -> dict[str, list[tuple[str, str]]]:
    """(question, id of its edit) by kind of probe."""
    found = defaultdict(list)
    for case in cases:
        for name in ("reliability", "generalization", "portability"):
            for probe in probes_of(case, name):
                found[probe.kind].append((probe.prompt, case.request.id))
    return found


def right(memory: EditMemory, searches: Sequence[Search], asked: Sequence[tuple[str, str]]) -> float | None:
    """Percent of the questions of which the nearest row is their edit; None where there are no questions."""
    if not asked:
        return None
    nearest = nearest_edits(memory, searches, [question for question, _ in asked])
    return 100 * sum(row.id == wanted for (row, _), (_, wanted) in zip(nearest, asked, strict=True)) / len(asked)


if __name__ == "__main__":
    main()
