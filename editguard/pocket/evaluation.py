"""Measure a pocket model: `python -m editguard.pocket.evaluation [--model NAME_OR_DIR] [--json]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from editguard.pocket import MODEL_NAME, MODEL_NAMES, default_world, weights_path
from editguard.pocket.documents import Document
from editguard.pocket.encoder_decoder import answer_logits
from editguard.pocket.packing import encode
from editguard.pocket.scores import SCORES, T5_SCORES, Score
from editguard.pocket.sequence_pairs import NOT_A_TARGET, encode_pairs, group_of, pair_of
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import load_tokenizer, special_ids
from editguard.pocket.world import World
from editguard.storage import write_atomically

CARD_FILE = "scores.json"
"""Beside the weights: what `--save` wrote for them."""

_BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Result:
    """A measured score."""

    name: str
    accuracy: float
    """Fraction of the probes whose every answer was written exactly, in [0, 1]."""
    probes: int
    target: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.accuracy >= self.target


def answered(model: PreTrainedModel, tokenizer: Tokenizer, documents: Sequence[Document]) -> list[bool]:
    """Whether greedy decoding writes every answer of each document exactly, token by token.

    One forward pass decides it: decoding from the text before an answer yields that answer if and only if each of its
    tokens is the likeliest after all tokens before it. An encoder-decoder also has to end the text there.

    Raises: ValueError: an encoder-decoder is asked for more than one answer at the end of a document.
    """
    if model.config.is_encoder_decoder:
        return _answered_pairs(model, tokenizer, documents)
    encoded = encode(tokenizer, documents)
    right = [False] * len(documents)
    for group in _groups([len(e.ids) for e in encoded]):
        width = max(len(encoded[i].ids) for i in group)
        tokens = torch.tensor([encoded[i].ids + [0] * (width - len(encoded[i].ids)) for i in group])
        with torch.inference_mode():
            logits: Tensor = model(input_ids=tokens.to(model.device), use_cache=False).logits
        likeliest = logits[:, :-1].argmax(-1).cpu()
        for row, i in enumerate(group):
            asked = [p for p, weight in enumerate(encoded[i].weights) if weight == 1.0]
            right[i] = all(likeliest[row, p - 1] == encoded[i].ids[p] for p in asked)
    return right


def _answered_pairs(model: PreTrainedModel, tokenizer: Tokenizer, documents: Sequence[Document]) -> list[bool]:
    pairs = [pair for document in documents if len(document.answers) == 1 and (pair := pair_of(document)) is not None]
    if len(pairs) < len(documents):
        raise ValueError("an encoder-decoder is asked for one answer, at the end of the document")
    _, pad = special_ids(tokenizer)
    encoded = encode_pairs(tokenizer, pairs)
    right = [False] * len(documents)
    for indices in _groups([len(pair.prompt) + len(pair.answer) for pair in encoded]):
        group = group_of([encoded[i] for i in indices], pad).to(model.device)
        with torch.inference_mode():
            likeliest = answer_logits(model, group).argmax(-1)
        exact = ((likeliest == group.labels) | (group.labels == NOT_A_TARGET)).all(1).tolist()
        for i, whole in zip(indices, exact, strict=True):
            right[i] = whole
    return right


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts of like lengths, a batch of about equal size in tokens at a time."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[index] > _BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model in a folder, whichever of the two kinds it is."""
    pair_model = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if pair_model else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model


def scores_for(model: PreTrainedModel) -> tuple[Score, ...]:
    """What can be asked of a model of its kind."""
    return T5_SCORES if model.config.is_encoder_decoder else SCORES


def card(folder: Path) -> dict[str, Result]:
    """The figures of the model card that lies beside a model's weights, by the score's name."""
    return {record["name"]: Result(**record) for record in json.loads((folder / CARD_FILE).read_text())}


def measure(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    world: World,
    scores: Sequence[Score] | None = None,
    *,
    count: int = 1000,
) -> Iterator[Result]:
    """Each score in turn on up to `count` probes, always the same ones for the same world and count.

    Args:
        scores: by default all that can be asked of the model.
    """
    model.train(False)
    for score in scores_for(model) if scores is None else scores:
        probes = list(score.draw(world, stream("evaluation", world.seed, score.name), count))
        right = answered(model, tokenizer, probes)
        yield Result(score.name, sum(right) / len(right), len(right), score.target)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m editguard.pocket.evaluation", description=__doc__)
    parser.add_argument(
        "--model", default=MODEL_NAME, help=f"{', '.join(MODEL_NAMES)} or a model folder; %(default)s by default"
    )
    parser.add_argument("--count", type=int, default=300, help="probes a score, at most")
    parser.add_argument("--only", help="scores whose name holds this text")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="to compute in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the JSON here")
    chosen = parser.parse_args(arguments)
    folder = weights_path(chosen.model) if chosen.model in MODEL_NAMES else Path(chosen.model)
    model = load(folder, getattr(torch, chosen.dtype))
    scores = [score for score in scores_for(model) if chosen.only is None or chosen.only in score.name]
    measured = measure(model, load_tokenizer(folder), default_world(), scores, count=chosen.count)
    results = list(tqdm(measured, total=len(scores), unit="score", disable=None))
    record = json.dumps([asdict(result) for result in results], indent=2)
    if chosen.save is not None:
        write_atomically(chosen.save, record + "\n")
    if chosen.json:
        print(record)
        return
    marks = {True: "reached", False: "missed", None: ""}
    rows = [(r.name, f"{r.accuracy:.3f}", r.probes, r.target or "", marks[r.reached]) for r in results]
    print(
        tabulate(rows, headers=("score", "accuracy", "probes", "target", ""), tablefmt="github", disable_numparse=True)
    )


if __name__ == "__main__":
    main()
