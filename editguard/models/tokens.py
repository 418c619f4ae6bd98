"""From text to token ids: prompts, answers, and the position of a subject.

The special tokens that a tokenizer puts in front (a BOS for some families, nothing for others) are
found once and added here, so that they can neither be missing nor double. No setting of the
tokenizer is ever changed.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from editguard.errors import AmbiguousTokens, ConfigurationError

_NEUTRAL_WORDS = ("a", "the", ":")


class TextEncoder:
    """What a model reads for a text.

    Args:
        tokenizer: of the model; its padding side and pad token are neither read nor changed.
        chat: put every prompt into the tokenizer's chat template, as the user's only message.
        closes: texts are whole, as an encoder and the decoder behind it read and write them: the special tokens that
            the tokenizer puts behind a text belong to it. A decoder alone goes on where a prompt ends.

    Attributes:
        prefix: the special tokens in front of every text.
        closing: those behind it; none unless `closes`.

    Raises: ConfigurationError: `chat` for a tokenizer that has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool = False, closes: bool = False) -> None:
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigurationError(
                "the chat template is switched on, but the model's tokenizer has none: "
                "set the chat template to 'off' or 'auto'."
            )
        self.tokenizer = tokenizer
        self.chat = chat
        self.prefix, behind = _special_frame(tokenizer)
        self.closes = closes
        self.closing = behind if closes else ()

    def render(self, prompt: str) -> str:
        """The text that the model reads for a prompt: the filled-in chat template, or the prompt
        itself.

        Templates that ask for a date or for a thinking phase get a fixed date and no thinking, so
        that the same prompt is the same text on every day.
        """
        if not self.chat:
            return prompt
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            date_string="1 January 2025",
            enable_thinking=False,
        )
        assert isinstance(rendered, str)
        return rendered

    def encode(self, prompt: str) -> list[int]:
        """Ids of the rendered prompt, with the tokenizer's BOS in front where it has one; closed where texts are."""
        return self._framed(self._plain(self.render(prompt)), chat=self.chat)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a running text as it stands, never rendered as a chat, with BOS as for a
        prompt."""
        return self._framed(self._plain(text), chat=False)

    def encode_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, and ids of the answer as they follow it; the answer's hold no special
        tokens.

        One blank stands between prompt and answer, whether or not the answer brings it along; none
        where the rendered prompt already ends in white space. Where the ids of the whole text begin
        with those of the prompt, the rest are the answer's; else the answer's are those that it has
        after a neutral word, so that the prompt is read the same with and without an answer.

        Where texts are whole (`closes`), the answer is a text of its own without white space around it, and its ids end
        with `closing`: that is how its writer says that it ends.

        Raises: AmbiguousTokens: the answer has no tokens at all.
        """
        if self.closes:
            written = self._plain(answer.strip())
            if not written:
                raise AmbiguousTokens(f"the answer {answer!r} has no tokens.")
            return self.encode(prompt), [*written, *self.closing]
        rendered = self.render(prompt)
        before = self._plain(rendered)
        spaced = not rendered or rendered[-1].isspace()
        tail = answer.lstrip() if spaced else " " + answer.lstrip()
        whole = self._plain(rendered + tail)
        follows = whole[len(before) :] if whole[: len(before)] == before else self._alone(tail)
        if not follows:
            raise AmbiguousTokens(f"the answer {answer!r} has no tokens of its own after the prompt {prompt!r}.")
        return self._framed(before, chat=self.chat), follows

    def subject_end(self, text: str, subject: str, *, start: int | None = None) -> int:
        """Index in `encode(text)` of the last token that overlaps the subject.

        Args:
            text: the filled-in prompt, not yet rendered.
            subject: as it stands in the text.
            start: character at which the subject begins; may be left out where it occurs only once.

        Raises: AmbiguousTokens: the subject does not stand there, occurs several times while `start` is not given, the
            tokenizer has no character offsets, or its tokens do not decode to the text.
        """
        start = _occurrence(text, subject, start)
        rendered = self.render(text)
        shift = rendered.rfind(text)
        if shift < 0:
            stripped = text.strip()
            shift = rendered.rfind(stripped) - (len(text) - len(text.lstrip()))
            if stripped not in rendered:
                raise AmbiguousTokens(
                    f"the chat template changes the prompt {text!r}, so the subject cannot be found in it: "
                    "set the chat template to 'off'."
                )
        begin = start + shift + len(subject) - len(subject.lstrip())
        end = start + shift + len(subject.rstrip())
        ids, spans = self._with_offsets(rendered)
        inside = [index for index, (low, high) in enumerate(spans) if low < end and max(low, begin) < high]
        if not inside:
            raise AmbiguousTokens(f"no token of {text!r} covers the subject {subject!r}.")
        last = inside[-1]
        self._check_end(ids, last, spans[last], rendered, end)
        return last + len(self._front(ids, chat=self.chat))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens and exactly as the tokens spell it."""
        decoded = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(decoded, str)
        return decoded

    # ---- inner working

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _front(self, ids: Sequence[int], *, chat: bool) -> tuple[int, ...]:
        """The special tokens to put before `ids`: none where a chat template or the text itself has
        written them."""
        if chat or (self.prefix and tuple(ids[: len(self.prefix)]) == self.prefix):
            return ()
        return self.prefix

    def _framed(self, ids: list[int], *, chat: bool) -> list[int]:
        """The ids between the special tokens that belong to a text."""
        closed = self.closing and tuple(ids[-len(self.closing) :]) == self.closing
        return [*self._front(ids, chat=chat), *ids, *(() if closed else self.closing)]

    def _alone(self, tail: str) -> list[int]:
        """Ids of the tail of a text as they are after a word that keeps its own tokens."""
        for word in _NEUTRAL_WORDS:
            base, joined = self._plain(word), self._plain(word + tail)
            if tail[:1].isspace() and joined[: len(base)] == base:
                return joined[len(base) :]
        return self._plain(tail)

    def _with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if not self.tokenizer.is_fast:
            raise AmbiguousTokens(
                f"the tokenizer {type(self.tokenizer).__name__} has no character offsets, so the subject's tokens "
                "cannot be found: use the model's fast tokenizer (a tokenizer.json)."
            )
        encoded: Any = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]

    def _check_end(self, ids: Sequence[int], last: int, span: tuple[int, int], text: str, end: int) -> None:
        """Assert by decoding that the tokens up to `last` end with, or cover, the subject's last
        character."""
        decoded = _plain_form(self.decode(ids[: last + 1]))
        covered = _plain_form(text[: max(end, span[1])])
        wanted = covered[-1:]
        if not wanted or not decoded.endswith(wanted):
            raise AmbiguousTokens(
                f"the tokens up to the subject's end in {text!r} decode to {decoded!r}: "
                "the tokenizer's offsets do not fit its tokens."
            )


def _special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before a text, and those that it puts behind."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for at in range(len(full) - len(plain) + 1):
        if full[at : at + len(plain)] == plain:
            return tuple(full[:at]), tuple(full[at + len(plain) :])
    return (), ()


def _occurrence(text: str, subject: str, start: int | None) -> int:
    if start is not None:
        if subject and text[start : start + len(subject)] == subject:
            return start
        raise AmbiguousTokens(f"the subject {subject!r} does not stand at character {start} of {text!r}.")
    count = text.count(subject) if subject else 0
    if count == 0:
        raise AmbiguousTokens(f"the subject {subject!r} does not occur in {text!r}.")
    if count > 1:
        raise AmbiguousTokens(
            f"the subject {subject!r} occurs {count} times in {text!r}: say at which character it starts."
        )
    return text.find(subject)


def _plain_form(text: str) -> str:
    """Text without what tokenizers' normalisers may change: case, accents, compatibility forms, blanks."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if not letter.isspace() and not unicodedata.combining(letter))
