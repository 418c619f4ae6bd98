"""A language model, a decoder alone or with an encoder, as everything else in editguard sees it."""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editguard.errors import ConfigurationError, PromptTooLong, UnsupportedModel
from editguard.models.anatomy import Anatomy
from editguard.models.decoding import Decoding
from editguard.models.fingerprint import fingerprint
from editguard.models.generation import (
    DEFAULT_STOP,
    Generation,
    StopRule,
    UndefinedByPaddingError,
    common_prefix,
    continue_greedily,
    right_padded,
)
from editguard.models.placement import device_of
from editguard.models.reading import Reading
from editguard.models.scoring import Score
from editguard.models.special_tokens import end_ids, opening
from editguard.models.streams import ForcedRow, Source
from editguard.models.tokens import TextEncoder
from editguard.models.weights import WeightLedger

_Result = TypeVar("_Result")


class Change(Protocol):
    """One thing that an edit has put in force on a model, and that can be taken back exactly.

    A change whose modules look at the prompt (`LanguageModel.reading`) says so by `reads_prompts = True`.
    """

    def install(self, model: "LanguageModel") -> None:
        """Put it in force on top of the changes already there."""

    def uninstall(self, model: "LanguageModel") -> None:
        """Take it back; it is the last one in force."""


SHARED_TOKENS: Final = 48
"""Rows that begin with so many equal tokens are batched together, and these tokens are run once."""


class LanguageModel:
    """Weights, tokenizer and device of one language model; the only thing that touches Hugging Face.

    A decoder alone continues prompts. Of an encoder-decoder model the encoder reads the prompt and the decoder writes
    the answer, a text of its own.

    Answers and scores do not depend on how prompts are batched, beyond the rounding of
    floating-point sums. The tokenizer's settings are never changed, and the model gets only
    arguments that are made here: ids, mask and positions.

    Attributes:
        module: the Hugging Face model, in evaluation mode and without gradients.
        tokenizer: its tokenizer.
        name: as the user gave it; `revision` of the hub, where one was asked for.
        anatomy: the model's parts by the names of the field.
        weights: the stack of weight updates in force.
        installed: the changes in force, kept by the edited model.
        opening: the tokens that the decoder behind an encoder reads before an answer; none for a decoder alone.
        reading: the prompts of the pass that is running; None where a pass has none, as over running text.
        offline: whether it was loaded without asking the network, as other models that a method loads for it are then.
        batch_size: rows of one forward pass; halved for the rest of the run when the device's
            memory is short.

    Raises: UnsupportedModel: see `Anatomy`; or nothing says with which token the decoder behind an encoder starts.
    ConfigurationError: a batch size below 1, or `chat` without a template.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        revision: str | None = None,
        batch_size: int = 32,
        chat: bool = False,
        offline: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"the batch size is {batch_size}; it must be 1 or more.")
        model.train(False)
        self.module = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.offline = offline
        self.batch_size = batch_size
        self.config = model.config
        self.anatomy = Anatomy(model)
        self.weights = WeightLedger(model)
        self.encoder = TextEncoder(tokenizer, chat=chat, closes=bool(self.anatomy.encoder_layers))
        self.opening = opening(model, self.encoder) if self.anatomy.encoder_layers else ()
        self.installed: list[Change] = []
        self.reading: Reading | None = None
        self._fingerprint: str | None = None
        taken = inspect.signature(self.anatomy.backbone.forward).parameters
        self._takes_positions = "position_ids" in taken
        self._end_ids = end_ids(model, tokenizer)
        self._slides = False

    # ---- what it is

    @property
    def device(self) -> torch.device:
        """Where token ids must go: the device of the embedding."""
        return device_of(self.anatomy.embedding)

    @property
    def devices(self) -> tuple[str, ...]:
        """Where its weights are, "offloaded" for those that are brought into memory for each call."""
        places = {parameter.device for parameter in self.module.parameters()}
        return tuple(sorted("offloaded" if place.type == "meta" else str(place) for place in places))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights that edits change."""
        return self.anatomy.down_projection(0).parameter.dtype

    @property
    def attention(self) -> str:
        """The implementation of attention that was chosen at loading; part of a run's
        environment."""
        return str(getattr(self.config, "_attn_implementation", None) or "default")

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self._end_ids

    @property
    def chat(self) -> bool:
        """Whether prompts are put into the tokenizer's chat template."""
        return self.encoder.chat

    @property
    def context_length(self) -> int | None:
        """How many tokens the model can read; None where nothing limits them."""
        length = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else None

    def fits(self, tokens: int, *, answer: int, limit: int | None = None) -> bool:
        """Whether a prompt of so many tokens leaves room for an answer, within the context and within `limit`.

        Behind an encoder, which reads the prompt alone, an answer takes no room.
        """
        limits = [each for each in (limit, self.context_length) if each is not None]
        return not limits or tokens + (0 if self.anatomy.encoder_layers else answer) <= min(limits)

    def fingerprint(self) -> str:
        """16 hex digits that identify pristine weights, configuration, tokenizer and chat
        template."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.module, self.tokenizer, self.weights.reference_digests())
        return self._fingerprint

    # ---- text and tokens

    def render(self, prompt: str) -> str:
        """The text that the model reads for a prompt; see `TextEncoder.render`."""
        return self.encoder.render(prompt)

    def encode(self, prompt: str) -> list[int]:
        """Ids of the rendered prompt, with BOS exactly once where the tokenizer adds it."""
        return self.encoder.encode(prompt)

    def encode_text(self, text: str) -> list[int]:
        """Ids of running text, never rendered as a chat; see `TextEncoder.encode_text`."""
        return self.encoder.encode_text(text)

    def encode_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the answer that follows it; see `TextEncoder.encode_answer`.

        With an encoder the answer's end with the tokens that close a text (`closing`), which `score` does not count.
        """
        return self.encoder.encode_answer(prompt, answer)

    @property
    def closing(self) -> tuple[int, ...]:
        """The tokens by which an answer ends; none for a decoder alone, whose texts go on."""
        return self.encoder.closing

    def unclosed(self, answer: Sequence[int]) -> list[int]:
        """An answer's own tokens: the ids that `encode_answer` gives, without `closing`."""
        return list(answer[: len(answer) - len(self.closing)])

    def forced_row(self, prompt: Sequence[int], fed: Sequence[int]) -> ForcedRow:
        """The row to run when the tokens `fed` of an answer follow a prompt."""
        if self.anatomy.encoder_layers:
            return ForcedRow(tuple(prompt), (*self.opening, *fed), len(self.opening) - 1)
        return ForcedRow((), (*prompt, *fed), len(prompt) - 1)

    def subject_end(self, text: str, subject: str, *, start: int | None = None) -> int:
        """Index in `encode(text)` of the last token of the subject; see
        `TextEncoder.subject_end`."""
        return self.encoder.subject_end(text, subject, start=start)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return self.encoder.decode(ids)

    # ---- running

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        past: Any = None,
        use_cache: bool = False,
        reading: Reading | None = None,
        source: Source | None = None,
    ) -> Any:
        """Run the backbone: its output holds `last_hidden_state` (rows, tokens, width) and
        `past_key_values`.

        Args:
            ids: shape (rows, tokens), padded at either side.
            mask: shape (rows, cached and new tokens), 1 for real tokens and 0 for padding.
            past: the attention cache that an earlier call with `use_cache` returned.
            reading: which of the tokens are prompts, for changes that look at them.
            source: what the encoder has made of the prompts, where the model has one; see `encoded`.

        Logits are `anatomy.unembed` of the states that are wanted. Gradients flow unless the caller
        stops them.

        Raises: UnsupportedModel: an encoder-decoder model cannot run over text that its encoder has not read.
        """
        ids, mask = ids.to(self.device), mask.to(self.device)
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache}
        if self._takes_positions:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            arguments["position_ids"] = positions[:, -ids.shape[1] :]
        if past is not None:
            arguments["past_key_values"] = past
        if source is not None:
            arguments["encoder_hidden_states"], arguments["encoder_attention_mask"] = source.states, source.mask
        elif self.anatomy.encoder_layers:
            raise UnsupportedModel(
                f"{self.name} is an encoder-decoder model: it answers prompts, and has no stream of running text."
            )
        return self._read(self.anatomy.backbone, arguments, reading)

    def encoded(self, prompts: Sequence[Sequence[int]], reading: Reading | None = None) -> Source:
        """What the encoder makes of prompts in tokens.

        Args:
            reading: is told which tokens the prompts are.
        """
        assert self.anatomy.encoder is not None
        ids, mask = (each.to(self.device) for each in right_padded(prompts))
        if reading is not None:
            reading.prompts = mask.bool()
        arguments = {"input_ids": ids, "attention_mask": mask}
        return Source(self._read(self.anatomy.encoder, arguments, reading).last_hidden_state, mask)

    def text_states(self, ids: Sequence[int]) -> Tensor:
        """Last hidden states (tokens, d_model) of a running text, of the encoder where there is one."""
        if self.anatomy.encoder_layers:
            return self.encoded([ids]).states[0]
        row = torch.tensor([list(ids)])
        states: Tensor = self.forward(row, torch.ones_like(row)).last_hidden_state[0]
        return states

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (rows, tokens, vocabulary) at every position."""
        return self.anatomy.unembed(self.forward(ids, mask).last_hidden_state)

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 24, stop: StopRule = DEFAULT_STOP
    ) -> list[Generation]:
        """The model's greedy answers, in the order of the prompts.

        Args:
            max_new_tokens: limit of an answer; shorter where the model's context ends.
            stop: where an answer ends.

        Raises: PromptTooLong: a prompt does not fit the model's context, or has no tokens at all.
        """
        if max_new_tokens < 1:
            raise ConfigurationError(f"an answer has at least one token; max_new_tokens is {max_new_tokens}.")
        unique = list(dict.fromkeys(prompts))
        rows = [self.encode(prompt) for prompt in unique]
        limits = [self._room(prompt, row, max_new_tokens) for prompt, row in zip(unique, rows, strict=True)]

        def finished(new: Sequence[int]) -> bool:
            return stop.ends(self.decode(new))

        def run(batch: list[int]) -> list[tuple[list[int], bool]]:
            chosen = [rows[index] for index in batch]
            past, cached = self._shared(chosen)
            decoding = Decoding(self, chosen, cached=cached)
            return continue_greedily(
                decoding,
                decoding.rows,
                limits=[limits[index] for index in batch],
                finished=finished,
                end_ids=self._end_ids,
                past=past,
                cached=cached,
                selected=decoding.select,
            )

        def run_safely(batch: list[int]) -> list[tuple[list[int], bool]]:
            try:
                return run(batch)
            except UndefinedByPaddingError:
                alike = defaultdict(list)
                for index in batch:
                    alike[len(rows[index])].append(index)
                made = {
                    index: result for group in alike.values() for index, result in zip(group, run(group), strict=True)
                }
                return [made[index] for index in batch]

        made = self.in_batches([len(row) for row in rows], run_safely, keys=self._beginnings(rows))
        answers: dict[str, Generation] = {}
        for prompt, row, (new, ended) in zip(unique, rows, made, strict=True):
            text, cut = stop.cut(self.decode(new))
            answers[prompt] = Generation(text, tuple(new), ended or cut, prompt, len(row))
        return [answers[prompt] for prompt in prompts]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Teacher-forced scores of (prompt, answer) pairs, in their order, without `closing`.

        Raises: PromptTooLong: a pair does not fit the model's context. AmbiguousTokens: an answer
        has no tokens.
        """
        unique = list(dict.fromkeys(pairs))
        encoded = [self.encode_answer(prompt, answer) for prompt, answer in unique]
        encoded = [(before, self.unclosed(after)) for before, after in encoded]
        forced = [self.forced_row(before, after[:-1]) for before, after in encoded]
        for (prompt, _), (before, _), row in zip(unique, encoded, forced, strict=True):
            self._check_length(prompt, before)
            self._check_length(prompt, row.stream)

        def run(batch: list[int]) -> list[Score]:
            logits = self.logits_at([forced[index] for index in batch])
            return [self._score(rows, encoded[index][1]) for rows, index in zip(logits, batch, strict=True)]

        lengths = [len(before) + len(after) for before, after in encoded]
        made = self.in_batches(lengths, run, keys=self._beginnings([before for before, _ in encoded]))
        scores = dict(zip(unique, made, strict=True))
        return [scores[pair] for pair in pairs]

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[list[tuple[str, float]]]:
        """The k most likely next tokens of each prompt with their probabilities, most likely first.

        Raises: PromptTooLong: a prompt does not fit the model's context.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            self._room(prompt, row, 1)

        def run(batch: list[int]) -> list[list[tuple[str, float]]]:
            tops: list[list[tuple[str, float]]] = []
            for logits in self.logits_at([self.forced_row(rows[index], ()) for index in batch]):
                likely = logits[0].float().softmax(-1).topk(min(k, logits.shape[-1]))
                pairs = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
                tops.append([(self._token_text(token), probability) for token, probability in pairs])
            return tops

        return self.in_batches([len(row) for row in rows], run, keys=self._beginnings(rows))

    def batches(
        self,
        lengths: Sequence[int],
        run: Callable[[list[int]], _Result],
        keys: Sequence[tuple[int, ...]] | None = None,
    ) -> Iterator[tuple[list[int], _Result]]:
        """Call `run`, without gradients, with the indices of rows of like length, longest first.

        When the device's memory is short the batch is halved and run again, so `run` must have no
        effect besides its result. Rows of different `keys` never share a batch.

        Yields: the indices of each batch, and what `run` returned for it.
        """
        kinds: Sequence[tuple[int, ...]] = keys if keys is not None else [()] * len(lengths)
        order = sorted(range(len(lengths)), key=lambda index: (kinds[index], -lengths[index]))
        while order:
            alike = (place for place, index in enumerate(order) if kinds[index] != kinds[order[0]])
            batch = order[: min(self.batch_size, next(alike, len(order)))]
            try:
                with torch.no_grad():
                    made = run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._halve(len(batch))
                continue
            yield batch, made
            order = order[len(batch) :]

    def in_batches(
        self,
        lengths: Sequence[int],
        run: Callable[[list[int]], list[_Result]],
        keys: Sequence[tuple[int, ...]] | None = None,
    ) -> list[_Result]:
        """Like `batches` for a `run` that returns one result per row: all results, in the rows'
        order."""
        results: dict[int, _Result] = {}
        for batch, made in self.batches(lengths, run, keys):
            results.update(zip(batch, made, strict=True))
        return [results[index] for index in range(len(lengths))]

    # ---- inner working

    def _read(self, stack: nn.Module, arguments: Mapping[str, Any], reading: Reading | None) -> Any:
        """Run one of the model's stacks while changes can see what is read."""
        outer, self.reading = self.reading, reading
        try:
            return stack(**arguments, return_dict=True)
        finally:
            self.reading = outer

    def _room(self, prompt: str, row: Sequence[int], wanted: int) -> int:
        """How many of the wanted tokens of an answer fit, once the model has read a prompt's row."""
        self._check_length(prompt, row)
        if self.context_length is None:
            return wanted
        return min(wanted, self.context_length - len(self.opening or row) + 1)

    def _check_length(self, prompt: str, row: Sequence[int]) -> None:
        """Raise `PromptTooLong` for a row that the model cannot read."""
        if not row or (self.context_length is not None and len(row) > self.context_length):
            raise PromptTooLong(prompt, len(row), self.context_length)

    def _score(self, logits: Tensor, answer: Sequence[int]) -> Score:
        """How an answer of these tokens is taken; logits: (tokens, vocabulary)."""
        log_probs = logits.float().log_softmax(-1)
        wanted = torch.tensor(answer, device=logits.device)
        picked = log_probs.gather(-1, wanted[:, None])[:, 0]
        texts = tuple(self._token_text(token) for token in answer)
        return Score(tuple(picked.tolist()), tuple(logits.argmax(-1).tolist()), tuple(answer), texts)

    def _token_text(self, token: int) -> str:
        text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def logits_at(self, rows: Sequence[ForcedRow]) -> list[Tensor]:
        """Logits (answer tokens, vocabulary) for each row; the head runs where answer tokens are predicted alone."""
        past, cached = self._shared([row.stream[: row.first + 1] for row in rows])
        ids, mask = right_padded([row.stream[cached:] for row in rows])
        mask = torch.cat([torch.ones(len(rows), cached, dtype=mask.dtype), mask], dim=1)
        if self.anatomy.encoder_layers:
            reading = Reading(None, in_encoder=True)
            source = self.encoded([row.source for row in rows], reading)
        else:
            ends = torch.tensor([row.first - cached for row in rows])
            reading, source = Reading(torch.arange(ids.shape[1]) <= ends[:, None]), None
        states = self.forward(ids, mask, past=past, reading=reading, source=source).last_hidden_state
        row_index = [number for number, row in enumerate(rows) for _ in row.read]
        place_index = [place - cached for row in rows for place in row.read]
        logits = self.anatomy.unembed(states[row_index, place_index])
        return list(torch.split(logits, [len(row.read) for row in rows]))

    def _beginnings(self, rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """What decides which rows are worth a common batch: their beginning, where much can follow it."""
        shares = not self.anatomy.encoder_layers
        return [tuple(row[:SHARED_TOKENS]) if shares and len(row) > 2 * SHARED_TOKENS else () for row in rows]

    def _shared(self, rows: Sequence[Sequence[int]]) -> tuple[Any, int]:
        """The attention cache of what all rows begin with, one copy per row, and how many tokens these are.

        A memory method puts the same demonstrations before every question; they are read once. (None, 0) where it
        does not pay, where attention looks through a sliding window (padding behind the cache would push it on), where
        an encoder reads the prompts, and where a change wants to see whole prompts.
        """
        if self.anatomy.encoder_layers:
            return None, 0
        cached = common_prefix(rows)
        whole = any(getattr(change, "reads_prompts", False) for change in self.installed)
        if len(rows) < 2 or cached < SHARED_TOKENS or self._slides or whole:
            return None, 0
        ids = torch.tensor([list(rows[0][:cached])])
        past = self.forward(ids, torch.ones_like(ids), use_cache=True).past_key_values
        if any(past.is_sliding):
            self._slides = True
            return None, 0
        past.batch_repeat_interleave(len(rows))
        return past, cached

    def _halve(self, rows: int) -> None:
        self.batch_size = max(1, rows // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"the device's memory does not hold {rows} rows at a time; going on with {self.batch_size}.",
            RuntimeWarning,
            stacklevel=4,
        )
