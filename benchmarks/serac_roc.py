"""A picture of SERAC's scope classifier: hits in scope against false hits, on pairs held out of its training.

    python benchmarks/serac_roc.py editguard/pocket/weights/editors/serac.safetensors --out roc.png

The figures are those of the record beside the file; the picture is made of the scores that the file holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from editguard.methods.editor_store import load_editor
from editguard.methods.scope_calibration import RATES, area, roc_point, threshold_for


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the points and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("editor", type=Path, help="a file of trained networks")
    parser.add_argument("--out", type=Path, default=Path("serac_roc.png"))
    options = parser.parse_args(arguments)
    state, identity = load_editor(options.editor)
    inside, outside = (state[name].float() for name in ("in_scope_scores", "out_of_scope_scores"))
    for rate in RATES:
        point = roc_point(inside, outside, threshold_for(outside, rate))
        print(f"false hits at most {rate:g}: threshold {point.threshold:.4g}, hits {point.hits:.4f}")
    thresholds = torch.cat([inside, outside, torch.tensor([0.0, 1.0])]).unique().tolist()
    points = [roc_point(inside, outside, threshold) for threshold in thresholds]
    chosen = roc_point(inside, outside, 0.5)
    figure = Figure(figsize=(5, 4.4), dpi=130, layout="constrained")
    axis = figure.subplots()
    axis.step([p.false_hits for p in points], [p.hits for p in points], where="post", color="#1f4e79")
    axis.plot(chosen.false_hits, chosen.hits, "o", color="#b3541e", label="threshold 0.5")
    axis.set(xlabel="false hits (share of pairs out of scope)", ylabel="hits (share of pairs in scope)", ylim=(0, 1.02))
    axis.legend(loc="lower right")
    axis.set_title(
        f"Scope classifier for the model {identity['model']}\narea {area(inside, outside):.4f}, "
        f"{len(inside)} pairs in scope, {len(outside)} out of scope",
        fontsize=9,
    )
    figure.savefig(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
