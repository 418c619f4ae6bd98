"""How long a search among many remembered edits takes, and what one edit more costs.

Vectors of 384 numbers stand for those of a small sentence encoder, whose own time is not counted; the n-grams of TF-IDF
are those of statements about random people.

    python benchmarks/memory_search.py [--edits 100000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edited.edit_memory import by_text
from editguard.edited.searching import Numbers
from editguard.methods.n_grams import TfidfEncoder
from editguard.methods.retrieval import DenseEncoder, normalised

WIDTH = 384


class RandomEncoder(DenseEncoder):
    """Vectors of length one, in float32, that are drawn beforehand."""

    identity = "random"
    width = WIDTH

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)
        self.query = self.drawn(1)

    def drawn(self, count: int) -> Numbers:
        """So many vectors, (count, width)."""
        return normalised(self.generator.normal(size=(count, WIDTH)).astype(np.float32))

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """The same one for every question; new ones for rows."""
        return self.query if texts == ["?"] else self.drawn(len(texts))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    rows = statements(options.edits + options.rounds)
    table = []
    for name, search in (("vectors", Search(RandomEncoder(), by_text)), ("tf-idf", Search(TfidfEncoder(), by_text))):
        memory, filling = timed(EditMemory, rows[: options.edits])
        query = ["?" if name == "vectors" else rows[options.edits // 2].text]
        _, first = timed(memory.nearest, search, query)
        again = [timed(memory.nearest, search, query)[1] for _ in range(options.rounds)]
        fewer = memory.withdrawn([rows[0].id])
        fewer.nearest(search, query)
        partly = [timed(fewer.nearest, search, query)[1] for _ in range(options.rounds)]
        adding, after = [], []
        for row in rows[options.edits :][: 3 if name == "tf-idf" else None]:
            memory, spent = timed(fewer.added, [row])
            fewer = memory
            adding.append(spent)
            after.append(timed(memory.nearest, search, query)[1])
        for what, times in (
            ("filling the memory", [filling]),
            ("first search, with encoding", [first]),
            ("search", again),
            ("search after a row was withdrawn", partly),
            ("adding one more", adding),
            ("search after that", after),
        ):
            table.append([name, what, *(1e3 * statistics.median(clock) for clock in zip(*times, strict=True))])
    headers = ["by", "what", "on the clock (ms)", "of processors (ms)"]
    print(f"{options.edits} edits, medians of {options.rounds}")
    print(tabulate(table, headers=headers, floatfmt=".2f"))


def timed(work: Callable[..., Any], *arguments: object) -> tuple[Any, tuple[float, float]]:
    """What some work makes, and the seconds that it takes: on the clock, and of all processors together."""
    started, worked = time.perf_counter(), time.process_time()
    made = work(*arguments)
    return made, (time.perf_counter() - started, time.process_time() - worked)


def statements(count: int) -> list[MemoryRow]:
    """Rows about people with made-up names."""
    drawn = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "is", "ol")]

    def name(parts: int) -> str:
        return "".join(drawn.choices(syllables, k=parts)).capitalize()

    verbs = ("works for", "was born in", "lives in", "is married to", "plays the")
    rows = []
    for number in range(count):
        key = f"{name(3)} {name(2)} {drawn.choice(verbs)}"
        rows.append(MemoryRow(key=f"{key} {number}", text=f"{key} {name(3)}"))
    return rows


if __name__ == "__main__":
    main()
