"""The tables of a study for LaTeX; they want the packages booktabs and graphicx, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from editguard.study.table import FOOTNOTES, Block

_ESCAPED: Final[Mapping[str, str]] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    # after the end of a row these three would belong to its command
    **{character: "{" + character + "}" for character in "[]*"},
}
_TEXT_ONLY: Final = re.compile(r"\s+")


def latex_tables(
    model: str, blocks: Sequence[Block], failures: Sequence[str], *, notes: Sequence[str] = FOOTNOTES
) -> str:
    """A file for `\\input`: a table for each block, as wide as the text at most, then the notes and the failures.

    Args:
        model: named in the captions.
        blocks, failures: as of `editguard.study.table`.
        notes: below the tables.
    """
    parts = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        *(line for block in blocks for line in _table(model, block)),
        *(_note(note) for note in (*notes, *failures)),
    ]
    return "\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX shows it, on one line."""
    return "".join(_ESCAPED.get(character, character) for character in _TEXT_ONLY.sub(" ", text))


def _table(model: str, block: Block) -> Iterator[str]:
    if block.lines:
        yield from _tabular(model, block)
    else:
        yield _note(f"{block.title}:")
    yield from (_note(note) for note in block.notes)


def _note(text: str) -> str:
    return f"\\par\\noindent{{\\footnotesize {escaped(text)}\\par}}"


def _tabular(model: str, block: Block) -> Iterator[str]:
    yield r"\begin{table}[htbp]"
    yield r"\centering"
    yield f"\\caption{{{escaped(model)}: {escaped(block.title[:1].lower() + block.title[1:])}.}}"
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield f"\\begin{{tabular}}{{{'l' * len(block.headers)}}}"
    yield r"\toprule"
    yield _row([escaped(header) for header in block.headers])
    yield r"\midrule"
    yield from (_row([_cell(cell) for cell in line]) for line in block.lines)
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    yield r"\end{table}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: str) -> str:
    """A cell, with what stands below its first line in smaller type."""
    first, *below = [escaped(line) for line in cell.split("\n")]
    if not below:
        return first
    lines = r" \\ ".join([first, *(f"{{\\scriptsize {line}}}" for line in below)])
    return f"\\begin{{tabular}}[t]{{@{{}}l@{{}}}}{lines}\\end{{tabular}}"
