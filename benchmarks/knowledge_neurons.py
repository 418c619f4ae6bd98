"""KN's attribution: all points of all layers in batches, against the two ways of a direct implementation.

Layer by layer: one whole forward and backward pass for each point of each layer and answer token, a layer's vector
scaled at once, which gives the same figures as ours (their gap is printed). It is timed in full.

Neuron by neuron: the paper's formula taken literally, one neuron scaled at a time, so that every neuron needs passes of
its own. It is timed on some neurons of every layer, spread evenly, and multiplied by the number of neurons over those
timed, since each neuron of a layer costs the same passes. It is another quantity than the joint one, so only its time
is compared.

All ways run in one process and take turns. What is timed is the attribution on the bare prompt, where nearly all of an
edit's time goes; the seconds of whole edits are printed beside it. Run: python benchmarks/knowledge_neurons.py
"""

import argparse
import time
from collections.abc import Sequence

import torch
from tabulate import tabulate
from torch import Tensor

from editguard.edited import EditedModel
from editguard.methods import Preparation, create
from editguard.methods.knowledge_neurons import Prediction, attributions, path, predictions
from editguard.models import LanguageModel, load_model, replaced
from editguard.probes.pocket import pocket_cases


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket", help="pocket, a directory, or a hub name")
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=2, help="timed neurons per layer, of those one at a time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    model = load_model(options.model, device=options.device)
    requests = [case.request for case in pocket_cases(options.edits)]
    wanted = [predictions(model, *model.encode_answer(fact.text, str(fact.previous))) for fact in requests]
    attributions(model, wanted[0], steps=options.steps)  # warm
    ours = layerwise = single = 0.0
    gap = 0.0
    for of_fact in wanted:
        started = seconds(model)
        batched = attributions(model, of_fact, steps=options.steps)
        ours += seconds(model) - started
        started = seconds(model)
        whole = torch.stack([layer_by_layer(model, each, options.steps) for each in of_fact])
        layerwise += seconds(model) - started
        gap = max(gap, float((batched - whole).abs().max() / whole.abs().max()))
        started = seconds(model)
        for each in of_fact:
            neuron_by_neuron(model, each, options.steps, options.neurons)
        single += seconds(model) - started
    extrapolated = single * model.anatomy.d_ff / options.neurons

    method = create("kn", {"steps": options.steps, "refines": False}, model)
    method.prepare(model, Preparation())
    started = seconds(model)
    for request in requests:
        method.apply(EditedModel.original(model), [request])
    edits = seconds(model) - started

    rows = [
        ["batched (ours)", "in full", f"{ours:.2f}", "1"],
        ["layer by layer, whole passes", "in full", f"{layerwise:.2f}", f"{layerwise / ours:.1f}"],
        [
            "neuron by neuron, whole passes",
            f"{options.neurons} of {model.anatomy.d_ff} neurons per layer, multiplied",
            f"{extrapolated:.0f}",
            f"{extrapolated / ours:.0f}",
        ],
    ]
    print(
        f"{model.name}: attribution of {len(wanted)} facts, {sum(map(len, wanted))} answer tokens, "
        f"{options.steps} steps, {model.anatomy.layers} layers, {options.threads} threads, {model.device}"
    )
    print(tabulate(rows, headers=["way", "measured", "seconds", "times ours"], disable_numparse=True))
    print(f"largest gap between the first two, relative to the largest score: {gap:.1e}")
    print(f"{len(requests)} whole edits on the bare prompt: {edits:.2f} s")


def seconds(model: LanguageModel) -> float:
    """A clock that has waited for the device."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def layer_by_layer(model: LanguageModel, wanted: Prediction, steps: int) -> Tensor:
    """Scores (layers, d_ff), one whole pass for every point of every layer."""
    return torch.stack(
        [
            now * sum(gradient(model, wanted, layer, alpha * now) for alpha in path(steps, "left").tolist()) / steps
            for layer in range(model.anatomy.layers)
            for now in [activation(model, wanted, layer)]
        ]
    )


def neuron_by_neuron(model: LanguageModel, wanted: Prediction, steps: int, count: int) -> Tensor:
    """Scores (layers, count) of some neurons of every layer, one whole pass for every point of every neuron."""
    chosen = torch.linspace(0, model.anatomy.d_ff - 1, count).long().tolist()
    scores = torch.zeros(model.anatomy.layers, count)
    for layer in range(model.anatomy.layers):
        now = activation(model, wanted, layer)
        for number, neuron in enumerate(chosen):
            total = 0.0
            for alpha in path(steps, "left").tolist():
                point = now.clone()
                point[neuron] *= alpha
                total += float(gradient(model, wanted, layer, point)[neuron])
            scores[layer, number] = float(now[neuron]) * total / steps
    return scores


def activation(model: LanguageModel, wanted: Prediction, layer: int) -> Tensor:
    """The last position's activations (d_ff,), by a whole pass."""
    seen: list[Tensor] = []

    def keep(entering: Tensor) -> Tensor:
        seen.append(entering.reshape(-1, entering.shape[-1])[-1].clone())
        return entering

    ids = torch.tensor([wanted.before])
    with torch.no_grad(), replaced(model.anatomy.down_projection(layer).module, keep, at="input"):
        model.logits(ids, torch.ones_like(ids))
    return seen[0]


def gradient(model: LanguageModel, wanted: Prediction, layer: int, point: Tensor) -> Tensor:
    """dP(token)/dw (d_ff,) where the last position's activations are `point`, by a whole pass."""
    point = point.detach().requires_grad_()

    def put(entering: Tensor) -> Tensor:
        flat = entering.reshape(-1, entering.shape[-1])
        return torch.cat([flat[:-1], point[None]]).reshape(entering.shape)

    ids = torch.tensor([wanted.before])
    with torch.enable_grad(), replaced(model.anatomy.down_projection(layer).module, put, at="input"):
        probability = model.logits(ids, torch.ones_like(ids))[0, -1].softmax(-1)[wanted.token]
        return torch.autograd.grad(probability, [point])[0]


if __name__ == "__main__":
    main()
