"""Which data set a study is of, as far as its cases tell: a note that explains, and decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from editguard.edits import EditCase

_TOLD: Final = ("form", "options", "file", "dataset", "split")


def described(cases: Iterable[EditCase]) -> dict[str, Any]:
    """The form, the importer's options and the file or hub name that all cases share; what differs is left out.

    Cases that say nothing of where they come from have the form None.
    """
    told = [{name: case.origin.get(name) for name in _TOLD} for case in cases]
    found: dict[str, Any] = {}
    for name in _TOLD:
        values = {json.dumps(each[name], sort_keys=True, default=str): each[name] for each in told}
        if len(values) == 1:
            [found[name]] = values.values()
    return {name: value for name, value in found.items() if value is not None or name == "form"}
