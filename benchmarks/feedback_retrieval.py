"""Which remembered question MemPrompt finds: hits in scope and out of scope, for each way to look and each threshold.

    python benchmarks/feedback_retrieval.py --edits 60
    python benchmarks/feedback_retrieval.py --edits 20 --forms

All edits are in one memory; no model answers. "right" is the share of rephrases, of questions and of the requests' own
prompts that are above the threshold and meet their own edit; "false" the share of prompts about other relations of the
same subject, other people with its name, and other subjects, that are above it. The rule for the default is the largest
mean of right (all rephrases and questions) and 1 - false.

With `--forms` the embedded model answers statements with the edit's own feedback in each of some templates, two prompts
of a kind and edit: shares of right answers.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from tabulate import tabulate

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edited.searching import Encoder
from editguard.edits import EditCase
from editguard.edits.asked import asked
from editguard.methods.edit_distance import EditDistanceEncoder
from editguard.methods.mem_prompt import by_question
from editguard.methods.quoting import PromptTemplate
from editguard.methods.retrieval import encoder
from editguard.models import load_model
from editguard.probes.pocket import pocket_cases

VALIDATION_SEED = 1_000
IN_SCOPE = ("request", "rephrase", "trained_rephrase", "question")
OUT_OF_SCOPE = ("other_relation", "name_neighbour", "neighbourhood")
STATEMENTS = ("request", "rephrase", "trained_rephrase", "other_relation", "name_neighbour")
FORMS = (
    "Feedback: {feedback}.\n{prompt}",
    "New fact: {feedback}.\nPrompt: {prompt}",
    "New fact: {feedback}. {prompt}",
    "New fact: {feedback}.\n{prompt}",
    "Question: {prompt}\nFeedback: {feedback}.\nAnswer:",
)


def forms(cases: Sequence[EditCase]) -> list[list[object]]:
    """Shares of right answers by template and kind of prompt."""
    model = load_model("pocket")
    rows: list[list[object]] = []
    for text in FORMS:
        template = PromptTemplate("form", text, ("feedback", "prompt"))
        row: list[object] = [repr(text)]
        for kind in STATEMENTS:
            asked_of = [
                (case, prompt, answer)
                for case in cases
                for prompt, answer in (
                    [(case.request.text, case.request.target)]
                    if kind == "request"
                    else [(probe.prompt, probe.answers[0]) for probe in case.probes if probe.kind == kind][:2]
                )
            ]
            texts = [template.filled(feedback=case.request.statement, prompt=prompt) for case, prompt, _ in asked_of]
            made = model.generate(texts, max_new_tokens=10)
            row.append(mean(one.text == answer for one, (_, _, answer) in zip(made, asked_of, strict=True)))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--ways", nargs="+", default=["closest", "tf-idf", "mean-pooled"])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--forms", action="store_true", help="compare templates instead")
    options = parser.parse_args()
    cases = pocket_cases(options.edits, seed=VALIDATION_SEED)
    if options.forms:
        print(tabulate(forms(cases), headers=["template", *STATEMENTS], tablefmt="github", floatfmt=".2f"))
        return
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
