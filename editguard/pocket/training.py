"""Train a pocket model: `python -m editguard.pocket.training [--model opt|t5] [--size small|large] --out DIR`.

The same command after an interruption continues the run. A finished or a running one can also be brought to an end at
fewer steps: the same command with a smaller N continues from the last checkpoint that both have in common.
`python -m editguard.pocket.training export --checkpoint DIR --out DIR` writes a checkpoint as a model folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel

from editguard.pocket.architecture import new_model
from editguard.pocket.arithmetic import native_precision
from editguard.pocket.checkpoints import Position, newest, position_of, restore, restore_model, save
from editguard.pocket.corpus import wordings
from editguard.pocket.kinds import KINDS, TrainingBatch
from editguard.pocket.settings import SIZES, ModelKind, Settings, settings_of
from editguard.pocket.tokenizer import special_ids, train_tokenizer
from editguard.pocket.world import World

logger = logging.getLogger(__name__)

_REPORT_EVERY: Final = 50


def tokenizer_of(world: World) -> Tokenizer:
    """The tokenizer that belongs to a world."""
    return train_tokenizer(world, wordings())


def model_for(tokenizer: Tokenizer, settings: Settings) -> PreTrainedModel:
    """A new model whose size of vocabulary and special tokens fit the tokenizer."""
    return new_model(KINDS[settings.model].configuration(tokenizer, settings), settings.seed)


def optimizers_for(model: PreTrainedModel, settings: Settings) -> dict[str, Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    kind = KINDS[settings.model]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and kind.is_block_matrix(name) else others).append(parameter)
    return {
        "muon": Muon(
            matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": AdamW(
            others, lr=settings.embedding_learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        ),
    }


def endless_batches(
    world: World, tokenizer: Tokenizer, start: Position, settings: Settings
) -> Iterator[tuple[TrainingBatch, Position]]:
    """Batches from a position on, each with the position after it."""
    position = start
    while True:
        batches = KINDS[settings.model].epoch_batches(world, tokenizer, position.epoch, settings)
        for batch in batches[position.batch :]:
            position = replace(
                position,
                step=position.step + 1,
                batch=position.batch + 1,
                tokens=position.tokens + batch.tokens_read,
            )
            yield batch, position
        position = replace(position, epoch=position.epoch + 1, batch=0)


def train(run: Path, settings: Settings, *, checkpoint_every: int = 500, until: int | None = None) -> PreTrainedModel:
    """Train, or continue, the run in folder `run` and return the model.

    Args:
        checkpoint_every: steps between checkpoints; the last step always has one.
        until: stop after this step although the schedule goes on, as an interruption would.

    Raises: ValueError: the folder holds a run of the other model or with another seed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(settings.seed, settings.world)
    tokenizer = tokenizer_of(world)
    model = model_for(tokenizer, settings)
    nn.Module.to(model, device)
    KINDS[settings.model].prepare(model)
    optimizers = optimizers_for(model, settings)
    schedule = settings.schedule
    found = newest(run, schedule)
    position = Position(seed=settings.seed, model=settings.name) if found is None else position_of(found)
    if position.model != settings.name:
        raise ValueError(f"{run} holds a run of the model {position.model}, not {settings.name}")
    if position.seed != settings.seed:
        raise ValueError(f"{run} holds a run with seed {position.seed}, not {settings.seed}")
    if found is not None:
        restore(found, model, optimizers)
    position = replace(position, steps=settings.steps)
    last = min(settings.steps, until if until is not None else settings.steps)
    logger.info("training from step %d to %d on %s", position.step, last, device)
    run.mkdir(parents=True, exist_ok=True)
    progress = tqdm(total=settings.steps, initial=position.step, unit="step", mininterval=10.0, smoothing=0.02)
    recent: list[float] = []
    with progress, (run / "log.jsonl").open("a") as log:
        for batch, after in endless_batches(world, tokenizer, position, settings):
            if position.step >= last:
                break
            recent.append(_step(model, optimizers, batch.to(device), settings, position.step))
            position = after
            progress.update()
            if position.step % _REPORT_EVERY == 0:
                mean = sum(recent) / len(recent)
                recent.clear()
                progress.set_postfix(loss=f"{mean:.4f}", epoch=position.epoch, refresh=False)
                line = {
                    "step": position.step,
                    "epoch": position.epoch,
                    "tokens": position.tokens,
                    "loss": round(mean, 5),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
            if position.step % checkpoint_every == 0 or position.step == last:
                save(run, model, optimizers, position)
    return model


def _step(
    model: PreTrainedModel, optimizers: dict[str, Optimizer], batch: TrainingBatch, settings: Settings, step: int
) -> float:
    """One optimiser step; returns the loss in nats."""
    peaks = {"muon": settings.learning_rate, "adamw": settings.embedding_learning_rate}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = peaks[name] * settings.schedule.factor(step)
        optimizer.zero_grad(set_to_none=True)
    loss = KINDS[settings.model].backward(model, batch, settings, step)
    nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
    with native_precision(model.device):
        for optimizer in optimizers.values():
            optimizer.step()
    return loss


def export(
    model: PreTrainedModel, kind: ModelKind, tokenizer: Tokenizer, out: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write a model folder in Hugging Face format; each file appears whole."""
    end_of_text, pad = special_ids(tokenizer)
    model.set_attn_implementation("sdpa")
    greedy: Callable[..., GenerationConfig] = GenerationConfig
    model.generation_config = greedy(
        do_sample=False,
        bos_token_id=end_of_text if kind != "t5" else None,
        decoder_start_token_id=pad if kind == "t5" else None,
        eos_token_id=end_of_text,
        pad_token_id=pad,
    )
    nn.Module.to(model, "cpu", dtype)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as partial:
        model.save_pretrained(partial)
        KINDS[kind].wrapped(tokenizer).save_pretrained(partial)
        for path in Path(partial).iterdir():
            path.chmod(0o644)
            path.replace(out / path.name)


def export_checkpoint(checkpoint: Path, out: Path, settings: Settings, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint's weights as a model folder."""
    tokenizer = tokenizer_of(World(settings.seed, settings.world))
    model = model_for(tokenizer, settings)
    restore_model(checkpoint, model)
    export(model, settings.model, tokenizer, out, dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m editguard.pocket.training", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("train", "export"), default="train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, or of the exported model")
    parser.add_argument("--model", choices=get_args(ModelKind), default="decoder")
    parser.add_argument("--size", choices=SIZES, default="standard", help="of a decoder")
    parser.add_argument("--steps", type=int, help="length of the run; that of the shipped model by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop here, as if interrupted")
    parser.add_argument("--checkpoint", type=Path, help="export: a checkpoint, or a run, of which the newest is taken")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if chosen.model == "t5" and chosen.size != "standard":
        parser.error("the T5 has one size: leave --size out")
    settings = settings_of(chosen.model, size=chosen.size, seed=chosen.seed, steps=chosen.steps)
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    if chosen.action == "export":
        if chosen.checkpoint is None:
            parser.error("export needs --checkpoint")
        export_checkpoint(newest(chosen.checkpoint) or chosen.checkpoint, chosen.out, settings, dtype)
        return
    model = train(chosen.out, settings, checkpoint_every=chosen.checkpoint_every, until=chosen.until)
    if chosen.until is None:
        tokenizer = tokenizer_of(World(settings.seed, settings.world))
        export(model, settings.model, tokenizer, chosen.out / "model", dtype)


if __name__ == "__main__":
    main()
