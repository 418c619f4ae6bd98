"""The training of T-Patcher's neurons: on cached rows of the last block, against whole forward passes at every step.

All ways run the same updates of the same edits in one process, taking turns, and must find the same neurons. As
released: whole passes over eight copies of the edit, and gradients through every term of the memory's losses, of which
the 1,000 largest (eight times 125) count. Whole passes: one copy, every block, logits everywhere. The last block:
replayed at every token. Ours: the final norm and the head at the answer's tokens alone. The memory's losses are the
same code in the last three ways, and are timed apart.

    python benchmarks/t_patcher_speed.py
    python benchmarks/t_patcher_speed.py --model tiny-24x512 --edits 1
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from rome_speed import SHAPES, random_model
from tabulate import tabulate
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods import Preparation, patch_training
from editguard.methods.branch_training import Supervised, replayed, request_pairs, supervised
from editguard.methods.input_memory import InputMemories, InputMemory
from editguard.methods.patch_training import (
    PatchProblem,
    PatchSettings,
    TrainedPatch,
    memory_losses,
    own_activations,
    trained_patch,
)
from editguard.methods.t_patcher import TPatcher, TPatcherSettings, wrong_places
from editguard.models import LanguageModel, load_model
from editguard.models.answer_passes import answer_passes, whole_answer_passes
from editguard.probes.pocket import pocket_cases, pocket_texts

Way = Callable[[LanguageModel, EditRequest], Supervised]
COPIES = 8


def released(model: LanguageModel, request: EditRequest) -> Supervised:
    """Every block, at every token, of eight copies."""
    pairs = request_pairs(model, [request]) * COPIES
    return replayed(model, whole_answer_passes(model, pairs), pairs, [model.anatomy.layers - 1])


def released_memory_losses(
    memory: Tensor, keys: Tensor, biases: Tensor, own: Tensor, gap_margin: float, silence_margin: float, top: int
) -> tuple[Tensor, Tensor]:
    """All terms, for each of the copies."""
    activations = torch.nn.functional.linear(memory, keys, biases)[:, None]  # (states, 1, neurons)
    gaps = (activations - own.expand(COPIES, -1) + gap_margin).exp()
    silences = (activations.expand(-1, COPIES, -1) - silence_margin).exp()
    count = min(COPIES * top, gaps.numel())
    return gaps.flatten().topk(count).values.mean(), silences.flatten().topk(count).values.mean()


def whole(model: LanguageModel, request: EditRequest) -> Supervised:
    """Every block, at every token."""
    pairs = request_pairs(model, [request])
    return replayed(model, whole_answer_passes(model, pairs), pairs, [model.anatomy.layers - 1])


def continued(model: LanguageModel, request: EditRequest) -> Supervised:
    """The last block, at every token."""
    pairs, last = request_pairs(model, [request]), model.anatomy.layers - 1
    return replayed(model, answer_passes(model, pairs, last), pairs, [last])


def cached(model: LanguageModel, request: EditRequest) -> Supervised:
    """No block."""
    [tokens] = supervised(model, request_pairs(model, [request]), [model.anatomy.layers - 1])
    return tokens


WAYS: dict[str, Way] = {
    "as released": released,
    "whole passes": whole,
    "the last block": continued,
    "cached rows (ours)": cached,
}


def problem_of(model: LanguageModel, request: EditRequest, tokens: Supervised, memory: InputMemory) -> PatchProblem:
    """What the neurons of an edit are trained for, as T-Patcher has it."""
    last = model.anatomy.layers - 1
    [score] = model.score([(request.text, request.target)])
    one = len(model.encode_answer(request.text, request.target)[1])
    wrong = [place for place in wrong_places(score, tokens) if place < one][: TPatcherSettings().neurons]
    return PatchProblem(
        logits=lambda neurons: tokens.logits({last: neurons}),
        labels=tokens.labels,
        states=tokens.inputs[last].detach().float()[wrong],
        memory=memory.training,
        validation=memory.validation,
        activation=memory.activation or "relu",
    )


def silence_seconds(problem: PatchProblem, found: TrainedPatch, settings: PatchSettings, updates: int) -> float:
    """Seconds of the memory's losses, with their gradients, in so many updates."""
    keys, biases = (part.clone().requires_grad_() for part in (found.neurons.keys, found.neurons.biases))
    started = now()
    for _ in range(updates):
        own = own_activations(problem.states, keys, biases)
        gap, silence = memory_losses(
            problem.memory, keys, biases, own, settings.gap_margin, settings.silence_margin, settings.memory_top
        )
        torch.autograd.grad(gap + silence, [keys, biases])
    return now() - started


def now() -> float:
    """Seconds, once the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help=f"pocket, a directory, a hub name, or {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs; medians are printed")
    parser.add_argument("--edits", type=int, default=3, help="how many different edits")
    parser.add_argument("--updates", type=int, default=100, help="of each edit; no way ends before")
    parser.add_argument("--memory", type=int, default=TPatcherSettings().memory_tokens, help="states in the memory")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    model = random_model(*SHAPES[options.model]) if options.model in SHAPES else load_model(options.model)
    memories = InputMemories(TPatcher.name, options.memory, TPatcherSettings().validation_tokens)
    memories.prepare(model, model.anatomy.layers - 1, Preparation(texts=pocket_texts()))
    memory = memories.of(model)
    settings = PatchSettings(steps=options.updates, first_check=options.updates)
    EditedModel.original(model).activate()
    table = []
    for case in pocket_cases(options.edits, seed=7):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        memory_seconds: list[float] = []
        found: dict[str, TrainedPatch] = {}
        for _ in range(options.rounds):
            for way, make in WAYS.items():
                silence = released_memory_losses if make is released else memory_losses
                started = now()
                with patch.object(patch_training, "memory_losses", silence):
                    problem = problem_of(model, case.request, make(model, case.request), memory)
                    found[way] = trained_patch(problem, settings, _generator())
                seconds[way].append(now() - started)
            memory_seconds.append(silence_seconds(problem, found[way], settings, options.updates))
        reference = found["whole passes"]
        share = statistics.median(memory_seconds)
        slowest, plain = (statistics.median(seconds[way]) for way in ("as released", "whole passes"))
        for way, figures in seconds.items():
            took = statistics.median(figures)
            gap = max(
                float((getattr(found[way].neurons, part) - getattr(reference.neurons, part)).norm())
                / float(getattr(reference.neurons, part).norm())
                for part in ("keys", "values")
            )
            same = found[way].record["teacher_forced"] == reference.record["teacher_forced"]
            if not same or gap > 1e-2:
                raise SystemExit(f"{way} found something else for {case.request.statement!r}: gap {gap:.1e}")
            of_model = (plain - share) / (took - share) if way != "as released" else None
            row = [case.request.text, way, took, share if of_model else None, slowest / took, plain / took, of_model]
            table.append([*row, f"{gap:.1e}"])
    print(
        f"{model.name}: layer {model.anatomy.layers - 1}, {options.updates} updates, {len(memory.training)} states, "
        f"{options.threads} threads, {model.device}, medians of {options.rounds}"
    )
    headers = ["edit", "way", "seconds", "of which memory", "x released", "x whole", "x whole, memory left out", "gap"]
    print(tabulate(table, headers=headers, floatfmt=".2f", disable_numparse=[7]))


if __name__ == "__main__":
    main()
