"""Does an answer match? One normalisation, one list of outcomes.

The normalisation is the usual one of question answering (case, punctuation, articles, blanks) with two
exceptions that keep numbers apart: a sign in front of a digit and a decimal point between digits stay.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal, get_args

Outcome = Literal[
    "exact", "alias", "prefix", "contains", "contradiction", "empty", "repetition", "truncated", "other", "invalid"
]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
PASSING: Final[frozenset[str]] = frozenset({"exact", "alias"})

_ARTICLES: Final = frozenset({"a", "an", "the"})
_KEPT: Final = frozenset("#%&@")
"""Punctuation that tells answers apart ("C" and "C#", "5" and "5%")."""
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def normalise(text: str) -> str:
    """Return the text in the form in which answers are compared.

    NFKC, case folded, without punctuation and articles, single blanks. A text of nothing but articles keeps them
    ("A" may be an option's letter), and one of nothing but punctuation keeps that.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = _THOUSANDS.sub("", folded)
    bare = "".join(
        character
        for position, character in enumerate(folded)
        if not unicodedata.category(character).startswith("P") or _stays(folded, position)
    )
    words = bare.split()
    without_articles = [word for word in words if word not in _ARTICLES]
    return " ".join(without_articles or words or folded.split())


def _stays(text: str, position: int) -> bool:
    """Whether the punctuation at `position` belongs to a number or tells answers apart."""
    character = text[position]
    before, after = text[position - 1 : position], text[position + 1 : position + 2]
    if character in "-\u2212":
        return after.isdigit() and not before.strip()
    if character == ".":
        return before.isdigit() and after.isdigit()
    return character in _KEPT


def judge_answer(
    answer: str, accepted: Sequence[str], *, candidates: Sequence[str] = (), stopped: bool = True
) -> Outcome:
    """Name what an answer is, against the accepted ones.

    Args:
        answer: generated text after the stop rule.
        accepted: the gold answer first, then its aliases.
        candidates: other answers that would contradict: the old target, the other options.
        stopped: whether the model ended the answer itself, rather than the limit of tokens.

    Returns: the first that fits of: "exact" (equals the gold answer), "alias" (another accepted one), "empty",
        "repetition" (a unit again and again), "contradiction" (names a candidate that is not accepted), "prefix"
        (an accepted answer followed by more words), "contains", "truncated", "other". Only the first two pass: a
        substring alone would also accept "not Paris" and "Paris or Rome".
    Raises: ValueError: no accepted answer was given.
    """
    if not accepted:
        raise ValueError("an answer is judged against at least one accepted answer")
    given = normalise(answer)
    golds = [normalise(gold) for gold in accepted]
    if given == golds[0]:
        return "exact"
    if given in golds[1:]:
        return "alias"
    words = given.split()
    if not words:
        return "empty"
    if repeats(words):
        return "repetition"
    others = [other for other in map(normalise, candidates) if other and other not in golds]
    if any(_mentions(words, other) and not _inside(other, golds, given) for other in others):
        return "contradiction"
    if any(gold and words[: len(gold.split())] == gold.split() for gold in golds):
        return "prefix"
    if any(gold and _mentions(words, gold) for gold in golds):
        return "contains"
    return "other" if stopped else "truncated"


def mentions(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text, at word boundaries and after normalisation of both."""
    return names_each(text, ((phrase,),))


def names_each(answer: str, required: Sequence[Sequence[str]]) -> bool:
    """Whether a text names each required answer by one of its names, at word boundaries and after normalisation.

    As lenient as substrings are: "not Paris" names Paris. A requirement without names is never met.
    """
    words = normalise(answer).split()
    return bool(required) and all(
        any(_mentions(words, name) for name in map(normalise, names) if name) for names in required
    )


def repeats(words: Sequence[str]) -> bool:
    """Whether the words are one unit said twice or more, or end in a unit said three times or more."""
    count = len(words)
    for unit in range(1, count // 2 + 1):
        if count % unit == 0 and list(words) == list(words[:unit]) * (count // unit):
            return True
        if unit * 3 <= count and list(words[-3 * unit :]) == list(words[-unit:]) * 3:
            return True
    return False


def _mentions(words: Sequence[str], phrase: str) -> bool:
    """Whether the phrase stands in the words, at word boundaries."""
    wanted = phrase.split()
    return any(list(words[start : start + len(wanted)]) == wanted for start in range(len(words) - len(wanted) + 1))


def _inside(other: str, golds: Sequence[str], given: str) -> bool:
    """Whether a candidate is only mentioned because an accepted answer in the text has it as a part."""
    return any(
        gold and _mentions(gold.split(), other) and not _mentions(given.replace(gold, " ").split(), other)
        for gold in golds
    )
