"""Second moments of keys, C = E[k k^T]: what a layer's down projection sees on running text.

Uncentred, over every real token of a corpus, of the unedited model; one pass over the text serves
all layers and ends at the highest of them. Results are kept on disk under a key of everything that
determines them.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 3.1
and appendix E.1.
"""

import hashlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from editguard.edits.request import content_id
from editguard.errors import CacheError, MethodRefused, ModelChanged
from editguard.models.generation import right_padded
from editguard.models.hooks import capture, stop_after
from editguard.models.language_model import LanguageModel
from editguard.models.weights import tensor_sha256
from editguard.storage import write_atomically

CODE_VERSION: Final = 1
"""Part of every key: raised when the same input would give another result."""

LONGEST_TEXT: Final = 2048
"""Texts are cut to this many tokens, or to the model's context where that is shorter."""

_BLOCK: Final = 1024
_JITTERS: Final = (0.0, *(10.0**power for power in range(-10, -3)))

Progress = Callable[[int, int], None]
"""Called with the tokens that are done and the tokens that there are."""


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
        return (1 - alpha) * self.matrix + alpha * self.scale * torch.eye(self.d_ff, dtype=torch.float64)

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
        unit = self.scale * torch.eye(self.d_ff, dtype=torch.float64)
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
) -> dict[int, SecondMoment]:
    """The second moment of the keys of each layer, from disk where it is known already.

    Args:
        model: without any weight edit in force.
        layers: blocks whose down projection's input is meant.
        texts: the corpus; drawn from in the order that the seed gives, until `tokens` are reached.
        tokens: how many tokens to see; the last text is cut so that there are not more. All of the
            corpus is used where it holds fewer.
        cache_dir: where results are kept between runs; None keeps nothing.
        max_length: texts are cut to this many tokens; see `LONGEST_TEXT`.
        on_progress: called after every batch.

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
    length = min(max_length or LONGEST_TEXT, model.context_length or LONGEST_TEXT)
    data = (_digest(corpus), tokens, seed, length)
    parts = (model.fingerprint(), str(model.dtype), *data, CODE_VERSION)
    keys = {layer: content_id("second moment", layer, *parts) for layer in sorted(set(layers))}
    for layer in keys:
        model.anatomy.down_projection(layer)  # an unknown layer is refused before anything runs

    if cache_dir is None:
        return _computed(model, keys, _drawn(model, corpus, tokens, seed, length), on_progress)
    cache = _Cache(Path(cache_dir) / "second-moments")
    found = cache.load(keys)
    if found.keys() != keys.keys():
        with cache.lock(content_id(*parts)):
            found |= cache.load({layer: key for layer, key in keys.items() if layer not in found})
            missing = {layer: key for layer, key in keys.items() if layer not in found}
            if missing:
                rows = _drawn(model, corpus, tokens, seed, length)
                made = _computed(model, missing, rows, on_progress)
                for moment in made.values():
                    cache.store(moment)
                found |= made
    return {layer: found[layer] for layer in keys}


def _digest(corpus: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in corpus:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def _drawn(model: LanguageModel, corpus: Sequence[str], tokens: int, seed: int, length: int) -> list[list[int]]:
    """Token rows of texts in the order of the seed, `tokens` in all."""
    order = list(range(len(corpus)))
    random.Random(seed).shuffle(order)
    rows: list[list[int]] = []
    left = tokens
    for index in order:
        if left <= 0:
            break
        row = model.encode_text(corpus[index])[: min(length, left)]
        if row:
            rows.append(row)
            left -= len(row)
    if not rows:
        raise MethodRefused(
            "the text for the second moments is empty, or no tokens of it are asked for: "
            "give a corpus of running text and a positive number of tokens."
        )
    return rows


def _computed(
    model: LanguageModel,
    keys: dict[int, str],
    rows: Sequence[Sequence[int]],
    on_progress: Progress | None,
) -> dict[int, SecondMoment]:
    """One pass over the rows for all layers, ended at the highest one's down projection."""
    modules = {layer: model.anatomy.down_projection(layer).module for layer in keys}

    def states(batch: list[int]) -> list[Tensor]:
        ids, mask = right_padded([rows[index] for index in batch])
        with ExitStack() as hooks:
            captured = [hooks.enter_context(capture(each, "input")) for each in modules.values()]
            hooks.enter_context(stop_after(modules[max(keys)], "input"))
            model.forward(ids, mask)
        real = mask.bool().reshape(-1)
        return [each.value.reshape(len(real), -1)[real.to(each.value.device)] for each in captured]

    sums: dict[int, Tensor] = {}
    done, total = 0, sum(len(row) for row in rows)
    for batch, found in model.batches([len(row) for row in rows], states):
        for layer, batch_keys in zip(modules, found, strict=True):
            sums[layer] = sums.get(layer, 0) + sum_of_outer_products(batch_keys)
        done += sum(len(rows[index]) for index in batch)
        if on_progress is not None:
            on_progress(done, total)
    return {
        layer: SecondMoment(((gram + gram.T) / 2 / total).cpu(), total, keys[layer]) for layer, gram in sums.items()
    }


def sum_of_outer_products(keys: Tensor) -> Tensor:
    """sum_i k_i k_i^T for keys (tokens, d_ff); blocks in float32 or better, their sum in
    float64."""
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    total = torch.zeros(keys.shape[1], keys.shape[1], dtype=torch.float64, device=keys.device)
    with _full_precision():
        for block in torch.split(wide, _BLOCK):
            total += block.T @ block
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


@dataclass(frozen=True)
class _Cache:
    """Second moments on disk, one safetensors file each, named by its key."""

    folder: Path
    _name: str = field(default="second_moment", repr=False)

    def load(self, keys: dict[int, str]) -> dict[int, SecondMoment]:
        """Those that are there and whole; a damaged file is warned about and left to be
        replaced."""
        found = {}
        for layer, key in keys.items():
            path = self._path(key)
            try:
                if path.is_file():
                    found[layer] = self._read(path, key)
            except (SafetensorError, OSError, KeyError, ValueError) as failure:
                warnings.warn(
                    f"the cached second moment {path} is damaged ({failure}); computing it again.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return found

    def store(self, moment: SecondMoment) -> None:
        metadata = {
            "key": moment.key,
            "tokens": str(moment.tokens),
            "sha256": tensor_sha256(moment.matrix),
        }
        write_atomically(self._path(moment.key), save({self._name: moment.matrix}, metadata))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time compute the same thing; a killed process leaves no lock behind.

        Raises: CacheError: the folder cannot be written.
        """
        lock = FileLock(self.folder / f"{name}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as failure:
            raise CacheError(
                f"the cache folder {self.folder} cannot be written ({failure.strerror or failure}): "
                "make it writable, or choose another one."
            ) from failure
        try:
            yield
        finally:
            lock.release()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _read(self, path: Path, key: str) -> SecondMoment:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            matrix: Tensor = file.get_tensor(self._name)
        if metadata["key"] != key or metadata["sha256"] != tensor_sha256(matrix):
            raise ValueError("its content does not match its checksum")
        return SecondMoment(matrix, int(metadata["tokens"]), key)
