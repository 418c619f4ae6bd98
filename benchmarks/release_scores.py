"""How far the scores of one release move with batch size, threads and device: what `verify` has to allow.

    python benchmarks/release_scores.py [--device cuda]

For each number type: the largest difference of a score, in nats per token of the answer, from one reference (batches
of 32, one thread, the CPU), over rephrases and prompts of thirty facts of the embedded model; and how many texts
differ.
"""

from __future__ import annotations

import argparse

import torch

from editguard.edited import EditedModel
from editguard.models.loading import load_model
from editguard.probes.pocket import pocket_cases
from editguard.release.answers import TOLERANCES, ask, questions


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    asked = questions(pocket_cases(30, 7))
    print(f"{len(asked)} questions")
    print(f"{'dtype':<10} {'device':<6} {'batch':>5} {'threads':>7} {'nats/token':>11} {'texts':>5}")
    for dtype in ("float32", "bfloat16", "float16"):
        torch.set_num_threads(1)
        model = load_model("pocket", device="cpu", dtype=dtype, batch_size=32)
        reference = ask(EditedModel.original(model), asked)
        runs = [("cpu", 1, 1), ("cpu", 7, 1), ("cpu", 128, 1), ("cpu", 32, 2)]
        runs += [(device, batch, 1) for batch in (1, 32, 128)] if device != "cpu" else []
        for place, batch, threads in runs:
            torch.set_num_threads(threads)
            other = load_model("pocket", device=place, dtype=dtype, batch_size=batch)
            found = ask(EditedModel.original(other), asked)
            moved = max(
                abs((now.log_prob or 0.0) - (before.log_prob or 0.0)) / before.tokens
                for before, now in zip(reference, found, strict=True)
            )
            texts = sum(now.answer != before.answer for before, now in zip(reference, found, strict=True))
            row = f"{dtype:<10} {place:<6} {batch:>5} {threads:>7} {moved:>11.2e} {texts:>5}"
            print(f"{row}  allowed {TOLERANCES[dtype]:g}", flush=True)


if __name__ == "__main__":
    main()
