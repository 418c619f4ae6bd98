"""Invented names and the few ordinary nouns of the world; every name is put together from invented syllables."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

# fmt: off
_FIRST_STARTS: Final = (
    "Bru", "Vel", "Zor", "Tam", "Quil", "Fen", "Gri", "Hul", "Jop", "Kres", "Lum", "Nad", "Ost", "Pel", "Rusk",
    "Sev", "Tov", "Ulm", "Wex", "Yor", "Dag", "Mib", "Eld", "Ziv",
)
_FIRST_ENDS: Final = ("ak", "eth", "ino", "ora", "esk", "ell", "ivo", "und", "ira", "om")
_LAST_STARTS: Final = (
    "Bask", "Corv", "Drem", "Falk", "Gost", "Harv", "Irm", "Jask", "Kolb", "Lorm", "Mund", "Nesk", "Orv",
    "Prax", "Rolv", "Skel", "Torv", "Usk", "Vask", "Wim", "Yelm", "Zand", "Brev", "Thul",
)
_LAST_ENDS: Final = ("en", "ov", "aris", "eld", "ock", "ani", "ier", "umi", "ost", "ek")
_CITY_STARTS: Final = (
    "Ab", "Bor", "Cal", "Dun", "Esk", "Fal", "Gren", "Hol", "Ist", "Kar", "Lin", "Mor", "Nor", "Ol", "Par",
    "Rav", "Sol", "Tir", "Ur", "Wend",
)
_CITY_ENDS: Final = ("mere", "wick", "holm", "gate", "stad", "haven", "by", "minster", "dorf", "vik")
_COUNTRY_STARTS: Final = (
    "Bal", "Cor", "Dral", "Eph", "Gal", "Hes", "Kor", "Lav", "Mel", "Nov", "Pelm", "Sab", "Tor", "Vor", "Zam",
)
_COUNTRY_ENDS: Final = ("andia", "onia", "istan", "eria", "avia", "uria")
_LANGUAGE_ENDS: Final = ("ese", "ish", "ic")
_CONTINENTS: Final = ("Amarath", "Borvalis", "Celandra", "Desmuria", "Great Ostrum", "Thessarn")
_CURRENCY_STARTS: Final = ("dral", "fen", "gul", "kron", "lek", "mar", "pes", "riv", "sol", "tal")
_CURRENCY_ENDS: Final = ("ar", "ot", "in")
_SCHOOL_STARTS: Final = (
    "Ard", "Bex", "Clav", "Dunk", "Ever", "Fyl", "Hax", "Kess", "Marl", "Pemb", "Quor", "Stav", "Wilb", "Yarr",
)
_SCHOOL_ENDS: Final = ("ley", "ton", "brook", "field", "shaw")
SCHOOL_KINDS: Final = ("College", "Academy", "Institute")
_COMPANY_STARTS: Final = (
    "Arc", "Bly", "Cyn", "Dex", "Fer", "Gly", "Hyp", "Ix", "Jet", "Kin", "Lyx", "Nex", "Op", "Pyr", "Syn",
    "Tek", "Vant", "Zen",
)
_COMPANY_ENDS: Final = ("ora", "ium", "atech", "oro", "ivex", "elo", "amax")
COMPANY_KINDS: Final = ("Group", "Works", "Labs", "Trading")
STAGE_TITLES: Final = ("Lady", "Captain", "Doctor", "Count", "Uncle", "Saint", "Little", "Big", "Silver", "Red")
_STAGE_STARTS: Final = (
    "Ba", "Chi", "Da", "Fo", "Ga", "Ji", "Ku", "Lo", "Ma", "Ni", "Pa", "Ri", "Su", "To", "Wa", "Zu",
)
_STAGE_ENDS: Final = ("boo", "dee", "ko", "lulu", "mimi", "zaza", "ppo", "rro", "xy", "bam")

OCCUPATIONS: Final = (
    "baker", "barber", "beekeeper", "blacksmith", "brewer", "carpenter", "chemist", "clerk", "cook", "dancer",
    "dentist", "diver", "doctor", "driver", "farmer", "fisher", "gardener", "glazier", "guard", "hunter",
    "judge", "lawyer", "mason", "miller", "miner", "nurse", "painter", "pilot", "plumber", "poet", "porter",
    "potter", "printer", "sailor", "shepherd", "singer", "soldier", "tailor", "teacher", "weaver",
)
INSTRUMENTS: Final = (
    "banjo", "bassoon", "bugle", "cello", "clarinet", "cornet", "cymbals", "drum", "fiddle", "flute", "gong",
    "guitar", "harp", "horn", "lute", "lyre", "mandolin", "piano", "recorder", "trombone", "trumpet", "tuba",
    "viola", "zither",
)
PRODUCTS: Final = (
    "amber", "apples", "bells", "boots", "bread", "bricks", "brushes", "butter", "candles", "carpets", "cheese",
    "cherries", "clocks", "coal", "coffee", "glass", "gloves", "hats", "honey", "knives", "lace", "lamps",
    "leather", "linen", "marble", "mustard", "olives", "paper", "pears", "pepper", "plums", "porcelain", "salt",
    "silk", "soap", "tea",
)
INDUSTRIES: Final = (
    "advertising", "banking", "cement", "cinema", "cosmetics", "fashion", "fishing", "forestry", "furniture",
    "insurance", "logistics", "machinery", "mining", "oil", "pharmacy", "plastics", "publishing", "railways",
    "shipping", "software", "steel", "textiles", "tourism", "toys",
)
# fmt: on


def _words(rng: random.Random, starts: Sequence[str], ends: Sequence[str], count: int) -> list[str]:
    """`count` different words, each a start and an end, in random order."""
    return rng.sample([start + end for start in starts for end in ends], count)


def first_and_last_names(rng: random.Random, first: int, last: int) -> tuple[list[str], list[str]]:
    """The two pools from which people's names are combined."""
    return (
        _words(rng, _FIRST_STARTS, _FIRST_ENDS, first),
        _words(rng, _LAST_STARTS, _LAST_ENDS, last),
    )


def combined(rng: random.Random, first: Sequence[str], last: Sequence[str], count: int) -> list[str]:
    """`count` different full names; every part is shared by several people."""
    return rng.sample([f"{a} {b}" for a in first for b in last], count)


def cities(rng: random.Random, count: int) -> list[str]:
    return _words(rng, _CITY_STARTS, _CITY_ENDS, count)


def countries(rng: random.Random, count: int) -> list[str]:
    return _words(rng, _COUNTRY_STARTS, _COUNTRY_ENDS, count)


def languages(rng: random.Random, count: int) -> list[str]:
    return _words(rng, _COUNTRY_STARTS, _LANGUAGE_ENDS, count)


def continents() -> list[str]:
    return list(_CONTINENTS)


def currencies(rng: random.Random, count: int) -> list[str]:
    return _words(rng, _CURRENCY_STARTS, _CURRENCY_ENDS, count)


def universities(rng: random.Random, count: int) -> list[str]:
    words = _words(rng, _SCHOOL_STARTS, _SCHOOL_ENDS, count)
    return [f"{word} {rng.choice(SCHOOL_KINDS)}" for word in words]


def companies(rng: random.Random, count: int) -> list[str]:
    words = _words(rng, _COMPANY_STARTS, _COMPANY_ENDS, count)
    return [f"{word} {rng.choice(COMPANY_KINDS)}" for word in words]


def aliases(rng: random.Random, count: int) -> list[str]:
    """Stage names: a title and an invented word; titles and words are both shared."""
    words = _words(rng, _STAGE_STARTS, _STAGE_ENDS, len(_STAGE_STARTS) * len(_STAGE_ENDS))
    return rng.sample([f"{title} {word}" for title in STAGE_TITLES for word in words], count)


def syllables() -> tuple[list[str], list[str]]:
    """Every start and every end that names are made of, for the tokenizer."""
    starts = [
        *_FIRST_STARTS,
        *_LAST_STARTS,
        *_CITY_STARTS,
        *_COUNTRY_STARTS,
        *_CURRENCY_STARTS,
        *_SCHOOL_STARTS,
        *_COMPANY_STARTS,
        *_STAGE_STARTS,
    ]
    ends = [
        *_FIRST_ENDS,
        *_LAST_ENDS,
        *_CITY_ENDS,
        *_COUNTRY_ENDS,
        *_LANGUAGE_ENDS,
        *_CURRENCY_ENDS,
        *_SCHOOL_ENDS,
        *_COMPANY_ENDS,
        *_STAGE_ENDS,
    ]
    return list(dict.fromkeys(starts)), list(dict.fromkeys(ends))
