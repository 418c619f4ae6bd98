"""One ROME edit's optimisation: continued from the subject at the edited layer, against whole forward passes.

Both ways run the same steps on the same rows in one process, taking turns; whole passes run every block at every
position and compute logits everywhere, as the released code does. Run: python benchmarks/rome_speed.py
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from tabulate import tabulate
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from editguard.edits import EditRequest
from editguard.methods import create
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.rome import Rome
from editguard.methods.value_optimisation import MakePasses, OptimisedValue, optimise_values, value_problem
from editguard.models import LanguageModel, load_model
from editguard.models.continuation import FullForward, continued
from editguard.pocket import default_world, weights_path

SHAPES = {"tiny-8x192": (8, 192), "tiny-12x384": (12, 384), "tiny-24x512": (24, 512)}
"""Random GPT-2s by (layers, d_model), with the pocket model's tokenizer."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket", help=f"pocket, a directory, a hub name, or {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way runs; medians are printed")
    parser.add_argument("--edits", type=int, default=3, help="how many different edits")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    model = random_model(*SHAPES[options.model]) if options.model in SHAPES else load_model(options.model)
    method = create("rome", {"stop_below": 0.0}, model)
    assert isinstance(method, Rome)
    settings = method.settings.value_settings()
    contexts = prefix_contexts(model, lengths=method.settings.context_lengths, seed=method.settings.seed)
    ways: dict[str, MakePasses] = {"whole passes": FullForward, "continued": continued}
    table = []
    for request in requests(options.edits):
        problem = value_problem(model, request, contexts)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, OptimisedValue] = {}
        for _ in range(options.rounds):
            for way, make_passes in ways.items():
                started = time.perf_counter()
                [found[way]] = optimise_values(model, [problem], settings, make_passes=make_passes)
                seconds[way].append(time.perf_counter() - started)
        whole, short = (statistics.median(seconds[way]) for way in ways)
        one, other = (found[way].value for way in ways)
        gap = float((one - other).norm() / one.norm())
        table.append([request.text, f"{whole:.3f}", f"{short:.3f}", f"{whole / short:.2f}", f"{gap:.1e}"])
    print(
        f"{model.name}: layer {settings.layer} of {model.anatomy.layers}, {settings.steps} passes, "
        f"{len(contexts)} contexts, {options.threads} threads, {model.device}, medians of {options.rounds}"
    )
    print(tabulate(table, headers=["edit", "whole passes (s)", "continued (s)", "times faster", "relative gap of v*"]))


def random_model(layers: int, d_model: int) -> LanguageModel:
    """A GPT-2 with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(weights_path(), local_files_only=True)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=d_model, n_head=d_model // 32, vocab_size=len(tokenizer))
    return LanguageModel(GPT2LMHeadModel(config), tokenizer, name=f"random GPT-2, {layers} x {d_model}")


def requests(count: int) -> list[EditRequest]:
    """Edits of the pocket world's facts."""
    world = default_world()
    facts = world.facts[:: len(world.facts) // count][:count]
    return [
        EditRequest(
            prompt=world.trained_templates(fact)[0].text,
            subject=fact.subject,
            target=next(other for other in world.objects(fact.relation) if other != fact.object),
        )
        for fact in facts
    ]


if __name__ == "__main__":
    main()
