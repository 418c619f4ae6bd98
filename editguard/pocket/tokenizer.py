"""The pocket model's tokenizer: byte-level pairs in which names are syllables and ordinary words are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from editguard.pocket import names
from editguard.pocket.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT: Final = "<|endoftext|>"
PAD: Final = "<|pad|>"
VOCABULARY: Final = 1920
CONTEXT: Final = 1280
"""Longest text of the corpus, in tokens, and the model's window."""

_NAMED: Final = ("person", "alias", "city", "country", "university", "company", "language", "continent")
_WORD_COPIES: Final = 40
_SYLLABLE_COPIES: Final = 12


def train_tokenizer(world: World, wordings: Iterator[str] | list[str]) -> Tokenizer:
    """Learn the merges from ordinary words, each as often as any other, from syllables, and from every name once.

    Counting each ordinary word alike makes it one token however rare it is; a name is put together from syllables.
    No name begins with a space of its own: the same spelling stands at the start of a text and inside.

    Args:
        wordings: texts whose words in small letters, and whose labels, become tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex("\u010a"), "isolated"),  # how the byte-level alphabet writes a line break
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[
            AddedToken(END_OF_TEXT, special=True, normalized=False),
            AddedToken(PAD, special=True, normalized=False),
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(world, wordings), trainer)
    return tokenizer


def _training_texts(world: World, wordings: Iterator[str] | list[str]) -> Iterator[str]:
    proper = frozenset(part for kind in _NAMED for e in world.entities(kind) for part in e.name.split(" "))
    proper |= frozenset(world.first_names) | frozenset(world.last_names)
    words = dict.fromkeys(
        word for text in wordings for word in re.findall(r"\n?[^\W\d]+", text) if word.strip() not in proper
    )
    for word in words:
        yield from [word] * _WORD_COPIES
    shared = [*names.SCHOOL_KINDS, *names.COMPANY_KINDS, *names.STAGE_TITLES]
    shared += [e.name for kind in ("occupation", "instrument", "product", "industry") for e in world.entities(kind)]
    for word in shared:
        yield from [word] * _WORD_COPIES
    starts, ends = names.syllables()
    for start in starts:
        yield from [start] * _SYLLABLE_COPIES
    for end in ends:
        yield from ["\n" + end] * _SYLLABLE_COPIES
    for kind in world.types:
        for entity in world.entities(kind):
            yield from [entity.name] * (_SYLLABLE_COPIES if kind == "continent" else 1)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """The decoder's tokenizer as `transformers` knows it: end-of-text is put before every text.

    Half of the rows of the corpus begin with end-of-text; the model knows its facts best behind it.
    """
    return _wrapped(tokenizer, f"{END_OF_TEXT} $A", bos_token=END_OF_TEXT, padding_side="left")


def wrapped_for_pairs(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """The encoder-decoder's tokenizer as `transformers` knows it: end-of-text goes behind every text, as T5 has it."""
    return _wrapped(tokenizer, f"$A {END_OF_TEXT}", padding_side="right")


def _wrapped(tokenizer: Tokenizer, template: str, **settings: str) -> PreTrainedTokenizerBase:
    """The tokenizer with its special tokens named, and with end-of-text where the template says."""
    from transformers import PreTrainedTokenizerFast

    shipped = Tokenizer.from_str(tokenizer.to_str())
    shipped.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(END_OF_TEXT, _id_of(tokenizer, END_OF_TEXT))]
    )
    fast: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=shipped,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        **settings,
    )


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of end-of-text and of padding."""
    return _id_of(tokenizer, END_OF_TEXT), _id_of(tokenizer, PAD)


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the vocabulary has no {token}")
    return found


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json` from a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
