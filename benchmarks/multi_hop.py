"""Questions over two and three facts, one of which is edited: MeLLo against other methods, by real decoding.

    python benchmarks/multi_hop.py --edits 60 --single 20
    python benchmarks/multi_hop.py --verdicts 30

Asked directly ("Answer:") and step by step ("Think:"), about the embedded model's world. "single": each edit alone,
asked about itself; "all": every edit in one chain. A question counts when the whole answer is right. For MeLLo the
table shows how its loops ended, and its tokens a question beside those of the others. `--verdicts` asks instead, in the
middle of transcripts of the corpus's form about held-out subjects, whether a retrieved fact contradicts.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import mean

from tabulate import tabulate
from tqdm import tqdm

from editguard.edited import EditedModel
from editguard.edits import EditCase, Probe
from editguard.measurements.decoding import decode
from editguard.measurements.matching import normalise
from editguard.methods import Preparation, create
from editguard.models import LanguageModel, load_model
from editguard.pocket import default_world
from editguard.pocket.contexts import ContextWriter
from editguard.pocket.splits import stream
from editguard.probes.pocket import pocket_cases, pocket_demonstrations, pocket_texts

KINDS = ("one_hop", "one_hop_think", "two_hop", "two_hop_think")
HEADERS = ("two facts", "two, Think:", "three facts", "three, Think:")
SEED = 2_000
VERDICT = "Retrieved fact"


class Tally:
    """Marks of questions by kind, tokens a question, and how loops ended."""

    def __init__(self) -> None:
        self.marks: dict[str, list[bool]] = defaultdict(list)
        self.tokens: list[int] = []
        self.outcomes: Counter[str] = Counter()

    def ask(self, edited: EditedModel, cases: Sequence[EditCase]) -> None:
        """Ask every question over several facts about the cases."""
        probes = [probe for case in cases for probe in case.probes if probe.kind in KINDS]
        prompts = [probe.prompt for probe in probes]
        for probe, decoded in zip(probes, decode(edited, prompts), strict=True):
            self.marks[probe.kind].append(right(probe, decoded.text))
        for consulted in edited.consult(prompts):
            text = len(edited.model.encode(consulted.prompt))
            self.tokens.append(consulted.read + consulted.written + text)
            self.outcomes[consulted.outcome] += bool(consulted.outcome)

    def row(self) -> list[object]:
        """Shares by kind with their counts, tokens, outcomes."""
        shares = [f"{mean(marks):.2f} ({len(marks)})" if (marks := self.marks[kind]) else "" for kind in KINDS]
        ended = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common() if count)
        return [*shares, round(mean(self.tokens)), ended]


def right(probe: Probe, text: str) -> bool:
    """Whether an answer is one of those expected."""
    return normalise(text) in map(normalise, probe.answers)


def measured(model: LanguageModel, name: str, cases: Sequence[EditCase], single: int) -> list[list[object]]:
    """The rows of one method."""
    editor = create(name, {}, model)
    subjects = {case.request.subject for case in cases}
    editor.prepare(model, Preparation(texts=pocket_texts(), demonstrations=pocket_demonstrations(exclude=subjects)))
    rest = EditedModel.original(model)
    alone, together = Tally(), Tally()
    for case in tqdm(cases[:single], desc=name, leave=False, disable=None):
        alone.ask(editor.apply(rest, [case.request]), [case])
    together.ask(editor.apply(rest, [case.request for case in cases]), cases)
    return [[name, f"single, {single}", *alone.row()], [name, f"all, {len(cases)}", *together.row()]]


def verdicts(model: LanguageModel, count: int) -> list[list[object]]:
    """How often the model says that a fact contradicts, where it does and where it does not."""
    writer = ContextWriter(default_world(), stream("verdicts", SEED), held_out=True)
    asked: dict[bool, list[str]] = {True: [], False: []}
    while sum(map(len, asked.values())) < count:
        text = writer.trace().text
        places = {text.find(f"{VERDICT} {word}"): word == "contradicts" for word in ("contradicts", "does not")}
        first = min(place for place in places if place >= 0)
        asked[places[first]].append(text[:first] + VERDICT)
    rows: list[list[object]] = []
    for contradicts, texts in asked.items():
        words = [dict(likely) for likely in model.next_tokens(texts, k=2)]
        said = [max(likely, key=lambda word: likely[word]).strip() for likely in words]
        share = mean(likely.get(" contradicts", 0.0) for likely in words)
        rows.append(["contradicts" if contradicts else "does not", len(texts), said.count("contradicts"), share])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--single", type=int, default=20, help="edits that are asked about alone, the first ones")
    parser.add_argument("--methods", nargs="+", default=["mello", "ike", "rome", "memit"])
    parser.add_argument("--verdicts", type=int, metavar="N", help="ask for this many verdicts, and nothing else")
    options = parser.parse_args()
    model = load_model("pocket")
    if options.verdicts:
        headers = ["the fact", "texts", "the model says contradicts", "mean probability of it"]
        print(tabulate(verdicts(model, options.verdicts), headers=headers, tablefmt="github", floatfmt=".2f"))
        return
    cases = pocket_cases(options.edits, seed=SEED)
    unedited = Tally()
    unedited.ask(EditedModel.original(model), cases)
    rows = [["unedited", f"all, {len(cases)}", *unedited.row()]]
    for name in options.methods:
        rows += measured(model, name, cases, options.single)
        print(rows[-2:], flush=True)
    headers = ["method", "edits", *HEADERS, "tokens read and written", "loops"]
    print(tabulate(rows, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
