"""A causal trace as one page that needs nothing beside itself: the suggestion, its evidence, picture and tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from editguard.models.indirect_effects import CausalTrace, Suggestion
from editguard.report.plots import RESTORED


def trace_page(trace: CausalTrace, suggestion: Suggestion, suggested: Sequence[str], picture: bytes) -> str:
    """Return the HTML of a trace.

    Args:
        trace, suggestion: what is shown.
        suggested: the suggestion in words, a line each.
        picture: bytes of a PNG file, which becomes part of the page.
    """
    environment = Environment(loader=PackageLoader("editguard.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("trace.html").render(
        trace=trace,
        suggestion=suggestion,
        suggested=suggested,
        restored=RESTORED,
        picture=b64encode(picture).decode("ascii"),
    )
