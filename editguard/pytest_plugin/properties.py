"""What JUnit reports say of a test beside passed or failed: its measurements and verdicts, as properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of_notes(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values from what a test left to be told.

    A measurement is "editguard.<property>", a verdict "editguard.verdict", the edits to blame "editguard.blame".
    """
    from editguard.blame import Finding
    from editguard.comparison import Verdict
    from editguard.measurements import Measurement

    found: list[tuple[str, str]] = []
    for record in notes.get("measurements", ()):
        measurement = Measurement.from_json(record)
        found.append((f"editguard.{measurement.title}", str(measurement)))
    judged = [check["verdict"] for check in notes.get("checks", ()) if check["verdict"] is not None]
    found += [("editguard.verdict", Verdict.from_json(record).lines[0]) for record in judged]
    found += [("editguard.blame", Finding.from_json(record).lines[0]) for record in notes.get("findings", ())]
    return found
