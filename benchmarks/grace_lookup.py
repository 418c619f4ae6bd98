"""GRACE's look-up in a codebook of many entries, against the forward pass that it is part of; and whether it is exact.

Passes with the codebook in force and without take turns on the same prompts, none of which is near a key. The keys are
the matrix's inputs at the ends of random prompts. A look-up (one matrix product, few candidates measured again) is
compared with measuring every distance by differences: how often both find the same entry, and the time of each.

    python benchmarks/grace_lookup.py
    python benchmarks/grace_lookup.py --shape gpt-j --device cuda

A shape has random weights, the pocket model's tokenizer and GRACE's published layer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTJConfig, PreTrainedConfig

from editguard.edited import AppliedEdit, EditedModel
from editguard.edited.codebook import Codebook, Entry, KeyBuffer
from editguard.methods import create
from editguard.methods.chosen_matrix import chosen_matrix
from editguard.methods.grace import Grace
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.models import LanguageModel, load_model
from editguard.models.reading import Reading
from editguard.pocket import weights_path

SHAPES: dict[str, PreTrainedConfig] = {
    "gpt-j": GPTJConfig(),
    "gpt2-xl": GPT2Config(n_layer=48, n_embd=1600, n_head=25),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket, a directory, or a hub name")
    parser.add_argument("--shape", choices=list(SHAPES), help="a model of this shape with random weights instead")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], help="prompts in a pass")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--rounds", type=int, default=15, help="how often each way runs; medians are printed")
    parser.add_argument("--queries", type=int, default=256, help="look-ups compared with measuring every distance")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    random_ids = torch.Generator().manual_seed(0)

    if options.shape:
        model = of_shape(options.shape, "cpu" if options.device == "auto" else options.device)
    else:
        model = load_model(options.model, device=options.device)
    method = create("grace", {}, model)
    assert isinstance(method, Grace)
    matrix = chosen_matrix(model, "grace", method.settings.layer, method.settings.matrix)

    def prompts(count: int) -> list[list[int]]:
        return torch.randint(3, len(model.tokenizer), (count, options.tokens), generator=random_ids).tolist()

    [keys] = at_prompt_ends(model, prompts(options.entries), [(matrix.module, "input")])
    entry = Entry(torch.zeros(matrix.d_out, device=keys.device), 0.0, (0,), ())
    codebook = Codebook(matrix, "replace_last", KeyBuffer(keys), dict.fromkeys(range(options.entries), entry))
    plain = EditedModel.original(model)
    edited = EditedModel(model, [AppliedEdit("grace", (), (codebook,))])

    table = []
    for rows in options.rows:
        ids = torch.tensor(prompts(rows))
        [queries] = at_prompt_ends(model, ids.tolist(), [(matrix.module, "input")])
        without, within, look_up = taking_turns(
            [
                lambda ids=ids: forward(plain, ids),
                lambda ids=ids: forward(edited, ids),
                lambda queries=queries: codebook.keys.nearest(codebook.size, queries),
            ],
            options.rounds,
            keys.device,
        )
        figures = [f"{1e3 * seconds:.3f}" for seconds in (without, within, look_up)]
        table.append([rows, *figures, f"{100 * look_up / without:.1f} %"])
    print(
        f"{model.name}: {model.anatomy.layers} layers, d_in {matrix.d_in} at layer {method.settings.layer}, "
        f"{model.dtype}, {options.entries} entries ({codebook.bytes() / 2**20:.0f} MiB), {options.tokens} tokens a "
        f"prompt, {options.threads} threads, {model.device}, medians of {options.rounds}"
    )
    headers = ["prompts", "pass without (ms)", "pass with codebook (ms)", "look-up alone (ms)", "look-up / pass"]
    print(tabulate(table, headers=headers))
    print(exactness(codebook, model, matrix.module, prompts(options.queries), keys))


def exactness(
    codebook: Codebook, model: LanguageModel, module: torch.nn.Module, prompts: list[list[int]], keys: Tensor
) -> str:
    """Compare look-ups with measuring every distance, for prompts and for the keys themselves."""
    [queries] = at_prompt_ends(model, prompts, [(module, "input")])
    queries = torch.cat([queries, keys[:: max(1, len(keys) // len(queries))]])
    started = time.perf_counter()
    distances, numbers = codebook.keys.nearest(codebook.size, queries)
    quick = time.perf_counter() - started
    started = time.perf_counter()
    measured = [torch.linalg.vector_norm(keys - query, dim=1).min(dim=0) for query in queries]
    slow = time.perf_counter() - started
    same = sum(int(one.indices) == number for one, number in zip(measured, numbers, strict=True))
    gap = max(abs(float(one.values) - distance) for one, distance in zip(measured, distances, strict=True))
    return (
        f"{same} of {len(queries)} look-ups find the entry that measuring every distance finds; largest gap of a "
        f"distance {gap:.1e}; {1e3 * quick / len(queries):.3f} against {1e3 * slow / len(queries):.3f} ms a query"
    )


def forward(edited: EditedModel, ids: Tensor) -> None:
    """One pass over prompts."""
    edited.activate()
    with torch.no_grad():
        edited.model.forward(ids, torch.ones_like(ids), reading=Reading(torch.ones_like(ids).bool()))


def taking_turns(ways: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each way."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds + 1):
        for way, taken in zip(ways, seconds, strict=True):
            started = now(device)
            way()
            taken.append(now(device) - started)
    return [statistics.median(taken[1:]) for taken in seconds]


def now(device: torch.device) -> float:
    """The clock, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def of_shape(name: str, device: str) -> LanguageModel:
    """A model with random weights, in bfloat16 on a GPU."""
    tokenizer = AutoTokenizer.from_pretrained(weights_path(), local_files_only=True)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(SHAPES[name], dtype=dtype)
    return LanguageModel(module, tokenizer, name=f"random {name}")


if __name__ == "__main__":
    main()
