"""MEMIT, many edits in one batch: how long, and where the time is saved, all ways in one run with the same result.

    python benchmarks/memit_speed.py                                    # 100 edits of the pocket model
    python benchmarks/memit_speed.py --model gpt-j-6b --device cuda --dtype bfloat16 --edits 100 --only ours
    python benchmarks/memit_speed.py --model gpt-j-6b --device cuda --dtype float32 --edits 8

The ways differ in how target vectors are optimised: one edit at a time with whole forward passes and logits everywhere,
as the released code does; one at a time, continued from the subject and the edited layer; and together. Keys, solving
and writing are the same code in all of them and are timed apart. `gpt-j-6b` is a model of that shape with random
weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from tabulate import tabulate
from transformers import AutoTokenizer, GPTJConfig, GPTJForCausalLM

from editguard.edited import EditedModel, WeightDelta
from editguard.methods import Preparation, create
from editguard.methods import residual_spreading as spreading
from editguard.methods.value_optimisation import Outcome, ValueProblem, ValueSettings, attempt_values
from editguard.models import LanguageModel, load_model
from editguard.models.continuation import FullForward
from editguard.pocket import weights_path
from editguard.probes.pocket import pocket_cases, pocket_texts

SHAPES = {"gpt-j-6b": (28, 4096, 16), "gpt-j-tiny": (4, 64, 2)}
"""GPT-Js by (layers, d_model, heads)."""

Optimise = Callable[[LanguageModel, Sequence[ValueProblem], ValueSettings], list[Outcome]]


def one_at_a_time(optimise: Callable[..., list[Outcome]]) -> Optimise:
    """The same, edit by edit."""

    def alone(
        model: LanguageModel, problems: Sequence[ValueProblem], settings: ValueSettings, *_: Any
    ) -> list[Outcome]:
        return [optimise(model, [problem], settings)[0] for problem in problems]

    return alone


WAYS: dict[str, Optimise] = {
    "one at a time, whole passes": one_at_a_time(partial(attempt_values, make_passes=FullForward)),
    "one at a time, continued": one_at_a_time(attempt_values),
    "together, continued (ours)": attempt_values,
}


@contextmanager
def timed(optimise: Optimise, spent: list[float]) -> Iterator[None]:
    """Let MEMIT optimise its targets so, and note the seconds."""

    def measured(*arguments: Any) -> list[Outcome]:
        started = now()
        found = optimise(*arguments)
        spent.append(now() - started)
        return found

    with patch.object(spreading, "attempt_values", measured):
        yield


def now() -> float:
    """Seconds, once the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> LanguageModel:
    """A GPT-J with random weights, made on the device itself."""
    layers, d_model, heads = shape
    tokenizer = AutoTokenizer.from_pretrained(weights_path(), local_files_only=True)
    config = GPTJConfig(
        n_layer=layers,
        n_embd=d_model,
        n_head=heads,
        rotary_dim=min(64, d_model // heads),
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            module = GPTJForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(module, tokenizer, name=f"random GPT-J, {layers} x {d_model}", batch_size=128)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help=f"pocket, a directory, a hub name, or {', '.join(SHAPES)}")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1, help="how often each way runs, in turns; medians are printed")
    parser.add_argument("--only", choices=("all", "ours"), default="all", help="ours: the batch alone, for large runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    if options.model in SHAPES:
        dtype: torch.dtype = getattr(torch, options.dtype)
        model = random_model(SHAPES[options.model], "cpu" if device == "auto" else device, dtype)
    else:
        model = load_model(options.model, device=device, dtype=options.dtype)
    method = create("memit", {}, model)
    started = now()
    method.prepare(model, Preparation(texts=pocket_texts()))
    prepared = now() - started
    requests = [case.request for case in pocket_cases(options.edits, seed=7)]
    ways = WAYS if options.only == "all" else {name: way for name, way in WAYS.items() if "ours" in name}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    deltas: dict[str, dict[str, torch.Tensor]] = {}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for _ in range(options.rounds):
        for name, way in ways.items():
            spent: list[float] = []
            started = now()
            with timed(way, spent):
                edited = method.apply(EditedModel.original(model), requests)
            seconds[name].append((now() - started, spent[0]))
            [change] = [change for change in edited.changes if isinstance(change, WeightDelta)]
            deltas[name] = {parameter: delta.dense() for parameter, delta in change.deltas.items()}
    reference = next(iter(ways))
    whole = statistics.median(total for total, _ in seconds[reference])
    rows = []
    for name, figures in seconds.items():
        total, targets = (statistics.median(column) for column in zip(*figures, strict=True))
        gap = max(
            float((delta - deltas[reference][each]).norm() / deltas[reference][each].norm())
            for each, delta in deltas[name].items()
        )
        rows.append([name, total, targets, total - targets, options.edits / total, whole / total, f"{gap:.1e}"])
    print(
        f"{model.name}: {options.edits} edits of layers {', '.join(map(str, method.settings.layers))} of "  # type: ignore[attr-defined]
        f"{model.anatomy.layers}, {model.device}, {model.dtype}, {torch.get_num_threads()} threads, "
        f"prepared in {prepared:.1f} s, medians of {options.rounds}"
    )
    headers = ["way", "seconds", "targets", "the rest", "edits/s", "times faster", "gap of the update"]
    print(tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[6]))
    if torch.cuda.is_available():
        print(f"peak memory on the device: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
