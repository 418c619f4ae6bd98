"""How long it takes to find the edits to blame in a long sequence, beside asking every single edit alone.

    python benchmarks/blame_speed.py --edits 500

The sequence is of rank-one updates of one down projection of the embedded model. Almost all are too small to change an
answer; planted are one that breaks other relations by itself, or a pair whose halves are harmless alone. The check asks
one probe of another relation for each case. The alternative, asking each edit by itself, finds no pair; its time is
that of a few edits, times their number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from editguard.blame import Replay, Trial
from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditCase, EditRequest
from editguard.measurements import ModelUnderTest
from editguard.models import LanguageModel
from editguard.models.loading import load_model
from editguard.models.weights import LowRank
from editguard.probes.pocket import pocket_cases

HARMLESS = 1e-4
LEVEL = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layer", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model("pocket", device="cpu")
    cases = pocket_cases(options.edits, seed=0, neighbours=1)
    requests = [case.request for case in cases]
    matrix = model.anatomy.down_projection(options.layer)
    generator = torch.Generator().manual_seed(0)
    harm = torch.randn(matrix.d_out, 1, generator=generator), torch.randn(matrix.d_in, 1, generator=generator)

    def update(place: int, planted: dict[int, float]) -> LowRank:
        if place in planted:
            return LowRank(harm[0] * planted[place], harm[1])
        own = torch.Generator().manual_seed(place)
        left, right = (torch.randn(width, 1, generator=own) for width in matrix.shape)
        return LowRank(left * HARMLESS, right)

    def edited_by(planted: dict[int, float]) -> tuple[EditedModel, Replay]:
        places = {request.id: place for place, request in enumerate(requests)}

        def apply(edited: EditedModel, chosen: Sequence[EditRequest]) -> EditedModel:
            for request in chosen:
                delta = update(places[request.id], planted)
                change = WeightDelta({matrix.name: delta})
                edited = edited.extended(AppliedEdit("planted", (request,), (change,)))
            return edited

        chain = apply(EditedModel.original(model), requests)
        return chain, Replay(chain, requests, apply, together=False)

    def fails(asked: ModelUnderTest) -> bool:
        return asked.locality(kind="other_relation").mean < LEVEL

    original = ModelUnderTest(EditedModel.original(model))
    size = harmful(model, cases, original, matrix.name, harm)
    first, second = options.edits // 5, options.edits * 3 // 5
    for title, planted in (("one edit", {second: size}), ("a pair", {first: size * 0.55, second: size * 0.55})):
        chain, replay = edited_by(planted)
        edited = ModelUnderTest(chain, original=original, cases=cases, method="planted", mode="sequence")
        started = time.perf_counter()
        failed = fails(edited)
        asking = time.perf_counter() - started
        finding = Trial(fails, replay, edited=edited, original=original, cases=cases).find("planted")
        numbers = [edit.number - 1 for edit in finding.blamed]
        print(
            f"{title}: failed {failed}, planted {sorted(planted)}, found {numbers}, minimal {finding.minimal}, "
            f"{finding.tried} subsets, {finding.seconds:.1f} s; asking the whole once took {asking:.1f} s"
        )
    started, few = time.perf_counter(), 5
    for place in range(few):
        alone = ModelUnderTest(
            replay.model((place,)), original=original, cases=cases, method="planted", mode="sequence"
        )
        fails(alone)
    each = (time.perf_counter() - started) / few
    print(
        f"each edit alone: {each:.1f} s an edit, {each * options.edits:.0f} s for {options.edits}, and no pair is found"
    )


def harmful(
    model: LanguageModel, cases: Sequence[EditCase], original: ModelUnderTest, name: str, harm: tuple[Tensor, Tensor]
) -> float:
    """The smallest of some sizes at which the planted update breaks the check, so that its half does not."""
    size = 0.001
    while True:
        delta = WeightDelta({name: LowRank(harm[0] * size, harm[1])})
        edited = EditedModel(model, [AppliedEdit("planted", (cases[0].request,), (delta,))])
        asked = ModelUnderTest(edited, original=original, cases=cases[:100], method="planted", mode="sequence")
        if asked.locality(kind="other_relation").mean < LEVEL - 0.1:
            return size
        size *= 1.25


if __name__ == "__main__":
    main()
