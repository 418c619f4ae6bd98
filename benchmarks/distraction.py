"""Does a statement in front of a question about somebody else sway the model, before any edit is made?

    python benchmarks/distraction.py [--edits 200] [--times 1 3]

The distracting neighbourhood asks an edited model about others with the edit's statement in front. Where the unedited
model's answers do not move with it, no edited model can be expected to lean on it either. Counts the neighbourhood
questions of the pocket world's edits whose answer changes, and those answered by the statement's target before and
after.
"""

from __future__ import annotations

import argparse

from tabulate import tabulate

from editguard.models import load_model
from editguard.probes import distracting
from editguard.probes.pocket import INVERTIBLE, PEOPLE_RELATIONS, pocket_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 3], help="how often the statement is repeated")
    options = parser.parse_args()
    model = load_model("pocket")
    cases = pocket_cases(1_000, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))[: options.edits]
    asked = [(case.request, probe) for case in cases for probe in case.probes if probe.kind == "neighbourhood"]

    def answers(times: int) -> list[str]:
        prompts = []
        for request, probe in asked:
            statement = distracting(request, probe).prompt.removesuffix(probe.prompt)
            prompts.append(statement * times + probe.prompt)
        return [answer.text for answer in model.generate(prompts, max_new_tokens=12)]

    plain, rows = answers(0), []
    for times in options.times:
        swayed = answers(times)
        changed = sum(before != after for before, after in zip(plain, swayed, strict=True))
        to_target = (
            sum(answer == request.target for answer, (request, _) in zip(found, asked, strict=True))
            for found in (plain, swayed)
        )
        rows.append([times, len(asked), changed, *to_target])
    print(tabulate(rows, headers=["statements in front", "questions", "changed", "target before", "target after"]))


if __name__ == "__main__":
    main()
