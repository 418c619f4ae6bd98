"""Second moments of keys, C = E[k k^T]: what a layer's down projection sees on running text.

Uncentred, over every real token of a corpus, of the unedited model; one pass over the text serves
all layers and ends at the highest of them. Results are kept on disk under a key of everything that
determines them.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 3.1
and appendix E.1.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from editguard.edits.request import content_id
from editguard.errors import MethodRefused, ModelChanged
from editguard.models.generation import right_padded
from editguard.models.hooks import capture, stop_after
from editguard.models.language_model import LanguageModel
from editguard.models.moment_cache import MomentCache, PartialSums
from editguard.models.running_text import corpus_digest, drawn_rows, longest_text

CODE_VERSION: Final = 2
"""Part of every key: raised when the same input would give another result."""

_BLOCK: Final = 1024
_PANELS: Final = 8
_JITTERS: Final = (0.0, *(10.0**power for power in range(-10, -3)))

SAVE_SECONDS: Final = 30.0
"""The sums of a pass are kept on disk at most this often, unless the caller says after how many tokens."""

SAVE_SHARE: Final = 0.05
"""And writing them takes at most about this share of the time: they are large where keys are wide."""

Progress = Callable[[int, int], None]
"""Called with the tokens that are done and the tokens that there are: first before any is seen by this process, which
goes on where a killed one has ended, then after every batch. `Pace` makes text of it."""


class Pace:
    """From calls of a `Progress` to text with the tokens per second of this process and the time that is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> str:
        """Such as "1200/7680 tokens, 850 tokens/s, 8 s left"; the first call sets the clock."""
        text, now = f"{done}/{total} tokens", self._clock()
        if self._start is None:
            self._start = (done, now)
        before, started = self._start
        if done == before or now == started:
            return text
        rate = (done - before) / (now - started)
        return f"{text}, {rate:.0f} tokens/s, {(total - done) / rate:.0f} s left"


@dataclass(frozen=True, eq=False)
class Factor:
    """A Cholesky factor of a regularised second moment, and what was done to obtain it.

    Attributes:
        lower: L with L L^T = (1 - a) C + (a + jitter) (tr C / d_ff) I; (d_ff, d_ff), float64.
        shrinkage: a, as asked for.
        jitter: what had to be added beyond it, in units of tr C / d_ff; 0 unless rounding made it
            necessary.
    """

    lower: Tensor
    shrinkage: float
    jitter: float

    def solve(self, right: Tensor) -> Tensor:
        """C^-1 right, for right (d_ff,) or (d_ff, columns); float64."""
        columns = right.to(self.lower)
        if columns.ndim == 1:
            return torch.cholesky_solve(columns[:, None], self.lower)[:, 0]
        return torch.cholesky_solve(columns, self.lower)


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """C = E[k k^T] of one layer.

    Attributes:
        matrix: C, (d_ff, d_ff), float64, symmetric, on the CPU.
        tokens: how many tokens the mean is over.
        key: content id of everything that determines it.
    """

    matrix: Tensor
    tokens: int
    key: str

    @property
    def d_ff(self) -> int:
        """Width of a key."""
        return self.matrix.shape[0]

    @property
    def scale(self) -> float:
        """tr C / d_ff, the mean square of a key's coordinate."""
        return float(self.matrix.diagonal().mean())

    @property
    def dead_units(self) -> int:
        """How many coordinates were zero in every key, as ReLU leaves them."""
        return int((self.matrix.diagonal() == 0).sum())

    def shrunk(self, alpha: float) -> Tensor:
        """(1 - alpha) C + alpha (tr C / d_ff) I; its condition number is at most d_ff / alpha.

        Raises: MethodRefused: alpha is not in [0, 1].
        """
        if not 0 <= alpha <= 1:
            raise MethodRefused(f"the shrinkage of a second moment lies in [0, 1], not at {alpha}.")
        identity = torch.eye(self.d_ff, dtype=torch.float64, device=self.matrix.device)
        return (1 - alpha) * self.matrix + alpha * self.scale * identity

    def condition_number(self, alpha: float = 0.0) -> float:
        """Largest over smallest eigenvalue of the shrunk matrix; infinity where it is singular to
        rounding."""
        values = torch.linalg.eigvalsh(self.shrunk(alpha))
        smallest, largest = float(values[0]), float(values[-1])
        rounding = self.d_ff * torch.finfo(torch.float64).eps * largest
        return largest / smallest if smallest > rounding else float("inf")

    def cholesky(self, alpha: float = 1e-4) -> Factor:
        """Factorise the shrunk matrix, with the least jitter out of 0, 1e-10, 1e-9 ... 1e-4 that it
        needs.

        alpha = 0 asks for C itself: then no jitter is added either.

        Raises: MethodRefused: the matrix is singular; the message says what makes it so.
        """
        shrunk = self.shrunk(alpha)
        unit = self.scale * torch.eye(self.d_ff, dtype=torch.float64, device=shrunk.device)
        for jitter in _JITTERS if alpha > 0 else _JITTERS[:1]:
            lower, failed = torch.linalg.cholesky_ex(shrunk + jitter * unit)
            if not failed and _well_conditioned(lower):
                return Factor(lower, alpha, jitter)
        raise MethodRefused(
            f"the second moment of the keys is singular (shrinkage {alpha:g}; {self.dead_units} of "
            f"{self.d_ff} units never fire, {self.tokens} tokens seen): use a larger shrinkage, "
            "for example 1e-4 (1e-2 for ReLU models), or more text."
        )


def _well_conditioned(lower: Tensor) -> bool:
    """The smallest pivot of a Cholesky factor stands out from rounding."""
    pivots = lower.diagonal() ** 2
    return bool(pivots.min() > len(pivots) * torch.finfo(torch.float64).eps * pivots.max())


def second_moments(
    model: LanguageModel,
    layers: Sequence[int],
    texts: Iterable[str],
    *,
    tokens: int,
    seed: int = 0,
    cache_dir: Path | None = None,
    max_length: int | None = None,
    on_progress: Progress | None = None,
    save_every: int | None = None,
) -> dict[int, SecondMoment]:
    """The second moment of the keys of each layer, from disk where it is known already.

    With a cache folder, a pass that was killed goes on where its sums were last kept, with the result of one that was
    not: equal to the last bit at the same batch size.

    Args:
        model: without any weight edit in force.
        layers: blocks whose down projection's input is meant.
        texts: the corpus; drawn from in the order that the seed gives, until `tokens` are reached.
        tokens: how many tokens to see; the last text is cut so that there are not more. All of the
            corpus is used where it holds fewer.
        cache_dir: where results are kept between runs; None keeps nothing.
        max_length: texts are cut to this many tokens; see `running_text.LONGEST_TEXT`.
        on_progress: called at the start and after every batch.
        save_every: after how many tokens the sums are kept in the cache folder; by default by the clock, see
            `SAVE_SECONDS`.

    Raises:
        ModelChanged: weight edits are in force.
        MethodRefused: the corpus or `tokens` is empty.
        CacheError: the folder cannot be written; nothing was computed.
    """
    if model.weights.depth:
        raise ModelChanged(
            f"second moments are those of the unedited model, but {model.weights.depth} weight edits "
            "are in force: take them back first."
        )
    corpus = list(texts)
    length = longest_text(model, max_length)
    data = (corpus_digest(corpus), tokens, seed, length)
    parts = (model.fingerprint(), str(model.dtype), *data, CODE_VERSION)
    keys = {layer: content_id("second moment", layer, *parts) for layer in sorted(set(layers))}
    for layer in keys:
        model.anatomy.down_projection(layer)  # an unknown layer is refused before anything runs

    if cache_dir is None:
        return _computed(model, keys, _rows(model, corpus, tokens, seed, length), on_progress)
    cache, run = MomentCache(Path(cache_dir) / "second-moments"), content_id(*parts)
    found = _known(cache, keys)
    if found.keys() != keys.keys():
        with cache.lock(run):
            found |= _known(cache, {layer: key for layer, key in keys.items() if layer not in found})
            missing = {layer: key for layer, key in keys.items() if layer not in found}
            if missing:
                rows = _rows(model, corpus, tokens, seed, length)
                made = _computed(model, missing, rows, on_progress, _Keeper(cache, run, save_every))
                for moment in made.values():
                    cache.store(moment.key, moment.matrix, moment.tokens)
                found |= made
                cache.drop_partial(run)
    else:
        cache.tidy(run)
    return {layer: found[layer] for layer in keys}


def _known(cache: MomentCache, keys: Mapping[int, str]) -> dict[int, SecondMoment]:
    loaded = {layer: cache.load(key) for layer, key in keys.items()}
    return {layer: SecondMoment(*one, keys[layer]) for layer, one in loaded.items() if one is not None}


def _rows(model: LanguageModel, corpus: Sequence[str], tokens: int, seed: int, length: int) -> list[list[int]]:
    return drawn_rows(model, corpus, tokens, seed, length, purpose="the second moments")


@dataclass
class _Keeper:
    """Keeps the sums of a pass on disk now and then, so that a killed one goes on where it was."""

    cache: MomentCache
    run: str
    every: int | None
    _since: int = 0
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def load(self, keys: Mapping[int, str]) -> PartialSums | None:
        """The sums of an earlier process for these layers."""
        return self.cache.load_partial(self.run, list(keys.values()))

    def offer(self, tokens: int, sums: Callable[[], PartialSums]) -> None:
        """Tell of so many more tokens; writes when that is due."""
        self._since += tokens
        if self.every is not None:
            due = self._since >= self.every
        else:
            due = time.monotonic() - self._last >= max(SAVE_SECONDS, self._cost / SAVE_SHARE)
        if due:
            started = time.monotonic()
            self.cache.store_partial(self.run, sums())
            self._since, self._last = 0, time.monotonic()
            self._cost = self._last - started


def _computed(
    model: LanguageModel,
    keys: Mapping[int, str],
    rows: Sequence[Sequence[int]],
    on_progress: Progress | None,
    keeper: _Keeper | None = None,
) -> dict[int, SecondMoment]:
    """One pass over the rows for all layers, ended at the highest one's down projection.

    The rows go longest first, which is the order in which batches are made of them: a pass that goes on behind some
    batch then makes the same batches, and the same sums to the last bit, as one that never stopped.
    """
    modules = {layer: model.anatomy.down_projection(layer).module for layer in keys}
    ordered = sorted(rows, key=len, reverse=True)
    begun = keeper.load(keys) if keeper is not None else None
    position = begun.rows if begun is not None else 0
    sums = {layer: begun.sums[key] for layer, key in keys.items()} if begun is not None else {}
    left = ordered[position:]

    def states(batch: list[int]) -> list[Tensor]:
        ids, mask = right_padded([left[index] for index in batch])
        real = mask.reshape(-1).nonzero()[:, 0]  # found on the CPU: the device need not be waited for

        def real_tokens(entering: Tensor) -> Tensor:
            return entering.reshape(mask.numel(), -1)[real.to(entering.device)]

        with ExitStack() as hooks:
            captured = [hooks.enter_context(capture(each, "input", real_tokens)) for each in modules.values()]
            hooks.enter_context(stop_after(modules[max(keys)], "input"))
            model.forward(ids, mask)
        return [each.value for each in captured]

    def so_far() -> PartialSums:
        return PartialSums({keys[layer]: gram for layer, gram in sums.items()}, position)

    total = sum(len(row) for row in ordered)
    done = total - sum(len(row) for row in left)
    if on_progress is not None:
        on_progress(done, total)
    for batch, found in model.batches([len(row) for row in left], states):
        for layer, batch_keys in zip(modules, found, strict=True):
            sums[layer] = add_outer_products(sums.get(layer), batch_keys)
        position += len(batch)
        seen = sum(len(left[index]) for index in batch)
        done += seen
        if keeper is not None:
            keeper.offer(seen, so_far)
        if on_progress is not None:
            on_progress(done, total)
    return {layer: SecondMoment(mirrored(gram).div_(total).cpu(), total, keys[layer]) for layer, gram in sums.items()}


def sum_of_outer_products(keys: Tensor) -> Tensor:
    """sum_i k_i k_i^T for keys (tokens, d_ff); blocks in float32 or better, their sum in float64."""
    return mirrored(add_outer_products(None, keys))


def add_outer_products(total: Tensor | None, keys: Tensor) -> Tensor:
    """Add sum_i k_i k_i^T of keys (tokens, d_ff) to a float64 total (d_ff, d_ff), in place and on the keys' device.

    The sum is symmetric, so that only its upper triangle is computed, panel by panel, at little more than half the
    cost: `mirrored` completes the total when all keys are in it. Blocks of keys are multiplied in float32 or better.
    None stands for zero.
    """
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    width = wide.shape[1]
    if total is None:
        total = torch.zeros(width, width, dtype=torch.float64, device=keys.device)
    total = total.to(keys.device)
    panel = math.ceil(width / _PANELS)
    with _full_precision():
        for block in torch.split(wide, _BLOCK):
            for start in range(0, width, panel):
                rows = slice(start, start + panel)
                total[rows, start:] += block[:, rows].T @ block[:, start:]
    return total


def mirrored(total: Tensor) -> Tensor:
    """Complete a square total by its upper triangle, in place: what is below the diagonal is overwritten."""
    total.triu_()
    total += total.triu(1).T
    return total


@contextmanager
def _full_precision() -> Iterator[None]:
    """No shortened mantissas in float32 products on GPUs, whatever the host program has chosen."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
