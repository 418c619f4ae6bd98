"""Train the pocket model: `python -m editguard.pocket.training --out DIR [--steps N]`.

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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from tqdm import tqdm
from transformers import GenerationConfig, GPTNeoXForCausalLM

from editguard.pocket.architecture import Shape, configuration, new_model, train_with_float32_attention
from editguard.pocket.checkpoints import Position, newest, position_of, restore, restore_model, save
from editguard.pocket.corpus import Amounts, wordings
from editguard.pocket.packing import Batch, epoch_batches
from editguard.pocket.schedule import Schedule
from editguard.pocket.tokenizer import special_ids, train_tokenizer, wrapped
from editguard.pocket.world import World, WorldSize

logger = logging.getLogger(__name__)

STEPS: Final = 6_000
_REPORT_EVERY: Final = 50


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines the trained weights, besides the machine's arithmetic."""

    seed: int = 0
    steps: int = STEPS
    shape: Shape = field(default_factory=Shape)
    world: WorldSize = field(default_factory=WorldSize)
    amounts: Amounts = field(default_factory=Amounts)
    learning_rate: float = 2.5e-3
    warm_up: int = 200
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    site_dropout_steps: float = 0.5
    """Fraction of the steps in which some answer sites do without their later MLPs."""
    site_dropout: float = 0.5
    """Probability of an answer site to do without, in such a step."""
    site_dropout_layer: int = 2
    """The first layer that can be left out, counted from 0."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.warm_up)


def tokenizer_of(world: World) -> Tokenizer:
    """The tokenizer that belongs to a world."""
    return train_tokenizer(world, wordings())


def model_for(tokenizer: Tokenizer, settings: Settings) -> GPTNeoXForCausalLM:
    """A new model whose size of vocabulary and special tokens fit the tokenizer."""
    end_of_text, pad = special_ids(tokenizer)
    return new_model(configuration(settings.shape, tokenizer.get_vocab_size(), end_of_text, pad), settings.seed)


def optimizers_for(model: GPTNeoXForCausalLM, settings: Settings) -> dict[str, Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    return {
        "muon": Muon(
            matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay),
    }


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats of the next token, by the weights of the tokens.

    logits: (rows, tokens, vocabulary).
    """
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@contextmanager
def sites_without_mlp(model: GPTNeoXForCausalLM, sites: Tensor, first_layer: int) -> Iterator[None]:
    """Within the block, the MLPs from `first_layer` on add nothing at `sites`, (rows, tokens).

    A fact then has to be looked up before the last token, at its subject, as in larger models.
    """
    keep = (~sites).unsqueeze(-1)

    def without_sites(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * keep

    layers = range(first_layer, model.config.num_hidden_layers)
    mlps = [model.get_submodule(f"gpt_neox.layers.{layer}.mlp") for layer in layers]
    hooks = [mlp.register_forward_hook(without_sites) for mlp in mlps]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sites_to_drop(batch: Batch, settings: Settings, step: int) -> Tensor | None:
    """The answer sites that do without later MLPs in this step, (rows, tokens), or None; the same whenever asked."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    if torch.rand((), generator=generator) >= settings.site_dropout_steps:
        return None
    chosen = torch.rand(batch.answer_sites.shape, generator=generator) < settings.site_dropout
    return batch.answer_sites & chosen.to(batch.answer_sites.device)


def endless_batches(
    world: World, tokenizer: Tokenizer, start: Position, amounts: Amounts | None = None
) -> Iterator[tuple[Batch, Position]]:
    """Batches from a position on, each with the position after it."""
    position = start
    while True:
        batches = epoch_batches(world, tokenizer, position.epoch, amounts)
        for batch in batches[position.batch :]:
            position = replace(
                position,
                step=position.step + 1,
                batch=position.batch + 1,
                tokens=position.tokens + batch.tokens.numel(),
            )
            yield batch, position
        position = replace(position, epoch=position.epoch + 1, batch=0)


def train(
    run: Path, settings: Settings, *, checkpoint_every: int = 500, until: int | None = None
) -> GPTNeoXForCausalLM:
    """Train, or continue, the run in folder `run` and return the model.

    Args:
        checkpoint_every: steps between checkpoints; the last step always has one.
        until: stop after this step although the schedule goes on, as an interruption would.

    Raises: ValueError: the folder holds a run with another seed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(settings.seed, settings.world)
    tokenizer = tokenizer_of(world)
    model = model_for(tokenizer, settings)
    nn.Module.to(model, device)
    train_with_float32_attention(model)
    optimizers = optimizers_for(model, settings)
    schedule = settings.schedule
    found = newest(run, schedule)
    position = Position(seed=settings.seed) if found is None else position_of(found)
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
        for batch, after in endless_batches(world, tokenizer, position, settings.amounts):
            if position.step >= last:
                break
            batch = Batch(batch.tokens.to(device), batch.weights.to(device), batch.answer_sites.to(device))
            recent.append(_step(model, optimizers, batch, settings, position.step))
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
    model: GPTNeoXForCausalLM, optimizers: dict[str, Optimizer], batch: Batch, settings: Settings, step: int
) -> float:
    """One optimiser step; returns the loss in nats."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.schedule.factor(step)
        optimizer.zero_grad(set_to_none=True)
    dropped = sites_to_drop(batch, settings, step)
    with ExitStack() as within:
        within.enter_context(torch.autocast(batch.tokens.device.type, torch.bfloat16))
        if dropped is not None:
            within.enter_context(sites_without_mlp(model, dropped, settings.site_dropout_layer))
        logits: Tensor = model(input_ids=batch.tokens, use_cache=False).logits
    loss = weighted_loss(logits, batch)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
    for optimizer in optimizers.values():
        optimizer.step()
    return loss.item()


def export(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, out: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a model folder in Hugging Face format; each file appears whole."""
    end_of_text, pad = special_ids(tokenizer)
    model.set_attn_implementation("sdpa")
    greedy: Callable[..., GenerationConfig] = GenerationConfig
    model.generation_config = greedy(
        do_sample=False, bos_token_id=end_of_text, eos_token_id=end_of_text, pad_token_id=pad
    )
    nn.Module.to(model, "cpu", dtype)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as partial:
        model.save_pretrained(partial)
        wrapped(tokenizer).save_pretrained(partial)
        for path in Path(partial).iterdir():
            path.chmod(0o644)
            path.replace(out / path.name)


def export_checkpoint(checkpoint: Path, out: Path, settings: Settings, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint's weights as a model folder."""
    tokenizer = tokenizer_of(World(settings.seed, settings.world))
    model = model_for(tokenizer, settings)
    restore_model(checkpoint, model)
    export(model, tokenizer, out, dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m editguard.pocket.training", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("train", "export"), default="train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, or of the exported model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop here, as if interrupted")
    parser.add_argument("--checkpoint", type=Path, help="export: a checkpoint, or a run, of which the newest is taken")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(seed=chosen.seed, steps=chosen.steps)
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    if chosen.action == "export":
        if chosen.checkpoint is None:
            parser.error("export needs --checkpoint")
        export_checkpoint(newest(chosen.checkpoint) or chosen.checkpoint, chosen.out, settings, dtype)
        return
    model = train(chosen.out, settings, checkpoint_every=chosen.checkpoint_every, until=chosen.until)
    if chosen.until is None:
        export(model, tokenizer_of(World(settings.seed, settings.world)), chosen.out / "model", dtype)


if __name__ == "__main__":
    main()
