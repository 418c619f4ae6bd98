"""A study as one page that needs nothing beside itself: its tables, with intervals, and its pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from editguard.study.table import FOOTNOTES, Block


def study_page(
    model: str,
    blocks: Sequence[Block],
    failures: Sequence[str],
    pictures: Mapping[str, bytes],
    *,
    notes: Sequence[str] = FOOTNOTES,
) -> str:
    """Return the HTML of a study.

    Args:
        model: named in the title.
        blocks, failures: as of `editguard.study.table`.
        notes: below the tables.
        pictures: description -> bytes of an SVG file, which becomes part of the page.
    """
    environment = Environment(loader=PackageLoader("editguard.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("study.html").render(
        model=model,
        blocks=blocks,
        failures=failures,
        footnotes=notes,
        pictures={title: b64encode(picture).decode("ascii") for title, picture in pictures.items()},
    )
