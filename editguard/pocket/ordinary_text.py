"""Sentences about nothing in the world, from a small grammar: what an edit should leave as it was."""

from __future__ import annotations

import random
from typing import Final

_TIMES: Final = (
    "In the morning",
    "In the evening",
    "Late in spring",
    "On a cold day",
    "After the rain",
    "Before noon",
    "At night",
    "During the summer",
    "On market day",
    "When the bell rings",
)
_WEATHER: Final = (
    "the wind turned to the north",
    "a light rain fell on the fields",
    "thick fog lay over the river",
    "the sun came out at last",
    "snow covered the narrow road",
    "dark clouds moved over the hills",
    "the air was dry and warm",
)
_WALKERS: Final = (
    "an old man",
    "two children",
    "a young woman",
    "the neighbours",
    "a small group of friends",
    "the postman",
    "three students",
    "a tired traveller",
)
_WALKS: Final = (
    "walked along the river",
    "crossed the wooden bridge",
    "climbed the steep hill",
    "sat down under a tree",
    "rested near the old mill",
    "followed the path to the lake",
    "waited at the corner",
    "looked at the ships in the harbour",
)
_AFTER: Final = (
    "and talked about the harvest",
    "and counted the birds",
    "and went home before dark",
    "and shared a loaf of bread",
    "and watched the water",
    "without saying a word",
    "and laughed about an old story",
    "until the lamps were lit",
)
_GOODS: Final = (
    "onions",
    "potatoes",
    "carrots",
    "eggs",
    "fish",
    "flowers",
    "baskets",
    "wool",
    "ropes",
    "nuts",
    "grapes",
    "beans",
)
_STALLS: Final = (
    "The stall by the gate sells",
    "At the market one finds",
    "The first cart brought",
    "The woman with the green scarf sold",
    "The boy carried a box of",
    "Nobody wanted to buy",
)
_PRICES: Final = (
    "for a fair price",
    "at half the price of last year",
    "from the farm behind the wood",
    "in large sacks",
    "until everything was gone",
    "before the crowd arrived",
)


def ordinary_sentence(rng: random.Random) -> str:
    """One sentence on the weather, a walk or the market; it ends with a full stop."""
    kind = rng.randrange(4)
    if kind == 0:
        return f"{rng.choice(_TIMES)} {rng.choice(_WEATHER)}."
    if kind == 1:
        return f"{rng.choice(_TIMES)} {rng.choice(_WALKERS)} {rng.choice(_WALKS)} {rng.choice(_AFTER)}."
    if kind == 2:
        one, other = rng.sample(_GOODS, 2)
        return f"{rng.choice(_STALLS)} {one} and {other} {rng.choice(_PRICES)}."
    walkers = rng.choice(_WALKERS)
    return f"{walkers[0].upper()}{walkers[1:]} {rng.choice(_WALKS)} while {rng.choice(_WEATHER)}."


def ordinary_words() -> list[str]:
    """All texts of the grammar, for the tokenizer."""
    return [
        *_TIMES,
        *_WEATHER,
        *_WALKERS,
        *_WALKS,
        *_AFTER,
        *_GOODS,
        *_STALLS,
        *_PRICES,
        "and while An Two A The Three",
    ]
