"""The files that show a study, beside its table.md: LaTeX, a page, and pictures, from its rows and summary.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from editguard.report.curves import curves, curves_svg
from editguard.report.latex import latex_tables
from editguard.report.study_page import study_page
from editguard.report.trade_off import draw, svg, trade_off
from editguard.storage import write_atomically
from editguard.study.criteria import QUALITY, Group
from editguard.study.folder import StudyFolder
from editguard.study.plan import MODES, Mode
from editguard.study.results import Results, read_results
from editguard.study.summary import Row
from editguard.study.table import blocks, failures

AGAINST_TIME: Final = "quality-against-time.svg"


def write_study_files(folder: StudyFolder, rows: Sequence[Row]) -> None:
    """Write table.tex, table.html, and a picture of each kind that the study has values for.

    Args:
        folder: with its summary.json and costs.json as they are now.
        rows: of the table.

    Raises: ConfigurationError: the folder holds no study. CacheError: a file cannot be written.
    """
    model = folder.header()["notes"]["model"]
    tables, messages = blocks(folder, rows), list(failures(rows))
    drawn = pictures(read_results(folder.path))
    for name, (_, picture) in drawn.items():
        write_atomically(folder.path / name, picture)
    for name in {AGAINST_TIME, *(f"curves-{mode}.svg" for mode in MODES)} - set(drawn):
        (folder.path / name).unlink(missing_ok=True)  # of an earlier state of the study
    write_atomically(folder.path / "table.tex", latex_tables(model, tables, messages))
    page = study_page(model, tables, messages, dict(drawn.values()))
    write_atomically(folder.path / "table.html", page)


def pictures(results: Results) -> dict[str, tuple[str, bytes]]:
    """File name -> what it shows, and the bytes of an SVG file."""
    found = {}
    kinds: dict[Mode, str] = {"batch": "Batches", "sequence": "Sequences"}
    for mode, title in kinds.items():
        shown = curves(results, mode)
        if shown is not None and shown.panels:
            found[f"curves-{mode}.svg"] = (f"{title}: properties over the number of edits in force", curves_svg(shown))
    group = _against_time(results)
    if group is not None:
        title = f"Mean quality against seconds per edit: {group.title}"
        found[AGAINST_TIME] = (title, svg(draw(trade_off(group, "time", QUALITY))))
    return found


def _against_time(results: Results) -> Group | None:
    """Single edits, or else the largest batch or sequence, where a method has quality and time."""
    sizes = results.sizes()
    groups = [Group(results, mode, sizes[mode][-1]) for mode in MODES if mode in sizes]
    known = [
        group
        for group in groups
        if any(group.value(QUALITY, name) and group.value("time", name) for name in group.methods())
    ]
    return known[0] if known else None
